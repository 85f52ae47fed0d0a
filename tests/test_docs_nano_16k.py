"""What the docs say of the arms of the bundled model's schedule follows from results/nano-16k."""

import json
from typing import Any

import pytest
from documents import RESULTS, lines, scores, words

RUN, TARGET, SEARCHED = "nano-16k", 16384, 2048
TEXT, LOG = words("docs/results.md"), words("docs/log.md")
TUNED = "longrope-tuned"


@pytest.fixture(scope="module")
def paired() -> dict[tuple[str, str, int], dict[str, Any]]:
    """Every arm beside YaRN of its seed."""
    return {(line["run"], line["metric"], line["context_tokens"]): line for line in lines(f"{RUN}/arms.jsonl")}


def value(arm: str, metric: str, length: int, method: str = TUNED) -> float:
    return float(scores(f"{RUN}/{arm}")[method, metric, length]["value"])


def interval(line: dict[str, Any], digits: int) -> str:
    return "{value:.{d}f} ({low:.{d}f}-{high:.{d}f})".format(**line, d=digits)


def test_the_searched_factors_lose_and_where_they_win_is_said(
    paired: dict[tuple[str, str, int], dict[str, Any]],
) -> None:
    whole, last, near = (
        paired["searched@1", metric, length]
        for metric, length in (("perplexity", TARGET), ("perplexity-last-2048", TARGET), ("perplexity", SEARCHED))
    )
    assert whole["low"] > 1 > near["high"]
    assert (
        f"they have {interval(whole, 4)} of YaRN's perplexity, over the last 2,048 tokens {interval(last, 3)}" in TEXT
    )
    assert f"have {interval(whole, 4)} of YaRN's perplexity at 16,384 tokens**, and {last['value']:.3f} over" in LOG
    assert f"for which they were searched, they have {interval(near, 3)}:" in TEXT
    assert f"ahead at 2,048 tokens, by {100 * (1 - near['value']):.1f} %" in LOG
    found = [round(100 * value(arm, "prose-needle", TARGET)) for arm in ("searched@1", "yarn@1")]
    gap = paired["searched@1", "prose-needle", TARGET]
    points = [f"{100 * gap[name]:+.0f}" for name in ("value", "low", "high")]
    assert "{} of 100 and YaRN's {}, are not separated ({} points, {} to {})".format(*found, *points) in TEXT


def test_three_arms_read_the_target_better_than_the_original_its_own_window() -> None:
    arms = ("yarn", "critical", "searched@1", "yarn@1")
    far = [value(arm, "perplexity", TARGET) for arm in arms]
    original = {value(arm, "perplexity", 256, "none") for arm in arms}
    assert len({round(x, 6) for x in original}) == 1
    assert max(far) < min(original)
    assert f"perplexities of {min(far):.2f} to {max(far):.2f} where the original has {min(original):.2f}" in TEXT
    kept = [value(arm, "ratio-to-none", 256) for arm in arms]
    assert f"they have {min(kept):.3f} to {max(kept):.3f} of the original's" in TEXT


def test_what_the_critical_pair_rule_loses_is_said(paired: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    whole = paired["critical", "perplexity", TARGET]
    last = paired["critical", "perplexity-last-2048", TARGET]
    assert whole["low"] < 1 < whole["high"]
    assert f"({whole['value']:.3f} of YaRN's, an interval that holds 1)" in LOG
    assert f"last 2,048 tokens ({interval(last, 3).replace(' (', ', ')}" in TEXT
    assert f"{100 * (last['value'] - 1):.1f} % over the last 2,048 tokens" in LOG
    right = [round(20 * value(arm, "passkey", TARGET)) for arm in ("critical", "yarn")]
    assert right[1] == 20
    gap = paired["critical", "passkey", TARGET]
    fewer = [round(-100 * gap[name]) for name in ("value", "high", "low")]
    assert "finds {} of 20 passkeys where YaRN finds all: {} points fewer ({} to {})".format(right[0], *fewer) in TEXT


def test_the_other_arms_and_the_needles_are_said(paired: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    ntk, pi = ([paired[arm, "perplexity", length]["value"] for length in (SEARCHED, TARGET)] for arm in ("ntk", "pi"))
    said = f"NTK has {ntk[0]:.3f} of YaRN's perplexity at 2,048 tokens and {ntk[1]:.1f} times it at 16,384"
    assert f"{said}, PI {pi[0]:.1f} and {pi[1]:.1f} times" in TEXT
    assert value("ntk", "passkey", TARGET) == value("pi", "passkey", TARGET) == 0
    assert f"gives {value('own', 'ratio-to-none', 256):.3f} of the original's perplexity at 256 tokens" in TEXT
    assert f"have {paired['own', 'perplexity', TARGET]['value']:.2f} times the perplexity at 16,384 tokens" in TEXT
    needles = [round(100 * value("yarn", "prose-needle", length)) for length in (TARGET, 256)]
    assert "{} of {}. The aim was 95 %".format(*needles) in TEXT


def test_an_arm_took_about_eight_minutes_on_four_threads() -> None:
    minutes = []
    for run in sorted((RESULTS / RUN).glob("*/recipe.toml")):
        (session,) = json.loads((run.parent / "provenance.json").read_text())
        assert session["device"].endswith("4 threads")
        stages = [json.loads(path.read_text())["seconds"] for path in run.parent.glob("stages/*/stage.json")]
        measured = {
            (line["method"], line["context_tokens"], line["seconds"])
            for line in lines(f"{RUN}/{run.parent.name}/scores.jsonl")
        }
        minutes.append((sum(stages) + sum(seconds for *_, seconds in measured)) / 60)
    assert len(minutes) == 7
    assert all(7 <= each <= 9 for each in minutes)
