"""What the docs say of the arms of the bundled model's schedule follows from results/nano-16k."""

import json
from typing import Any

import pytest
from documents import RESULTS, lines, scores, words

RUN, TARGET, SEARCHED = "nano-16k", 16384, 2048
TEXT = words("docs/results.md")
TUNED = "longrope-tuned"


@pytest.fixture(scope="module")
def paired() -> dict[tuple[str, str, int], dict[str, Any]]:
    """Every arm beside YaRN of its seed."""
    return {(line["run"], line["metric"], line["context_tokens"]): line for line in lines(f"{RUN}/arms.jsonl")}


def value(arm: str, metric: str, length: int, method: str = TUNED) -> float:
    return float(scores(f"{RUN}/{arm}")[method, metric, length]["value"])


def interval(line: dict[str, Any], digits: int) -> str:
    return "{value:.{d}f} ({low:.{d}f}-{high:.{d}f})".format(**line, d=digits)


def test_the_searched_factors_do_not_beat_yarn_and_where_they_win_is_said(
    paired: dict[tuple[str, str, int], dict[str, Any]],
) -> None:
    whole, last, near, needles = (
        [paired[f"searched@{seed}", metric, length] for seed in (1, 2)]
        for metric, length in (
            ("perplexity", TARGET),
            ("perplexity-last-2048", TARGET),
            ("perplexity", SEARCHED),
            ("prose-needle", TARGET),
        )
    )
    assert whole[0]["low"] > 1
    assert whole[1]["high"] > 1 > whole[1]["low"]
    assert all(line["low"] > 1 for line in last)
    assert all(line["high"] < 1 for line in near)
    said = "have {} of YaRN's perplexity with seed 1 and {} with seed 2; over the last 2,048 tokens {} and {}."
    assert said.format(*(interval(x, 4) for x in whole), *(interval(x, 3) for x in last)) in TEXT
    assert "they have {} and {}: what the search gains".format(*(interval(x, 3) for x in near)) in TEXT
    found = [round(100 * value(f"{arm}@{n}", "prose-needle", TARGET)) for arm in ("searched", "yarn") for n in (1, 2)]
    assert "They find {} and {} needles of 100, YaRN {} and {}".format(*found) in TEXT
    ends = [[f"{100 * line[key]:+.0f}" for key in ("value", "low", "high")] for line in needles]
    assert "not separated ({} points, {} to {}, and {}, {} to {})".format(*ends[0], *ends[1]) in TEXT


def test_what_was_trained_alike_reads_the_target_better_than_the_original_its_own_window() -> None:
    arms = ("yarn", "critical", *(f"{arm}@{seed}" for arm in ("searched", "yarn", "critical") for seed in (1, 2)))
    far = [value(arm, "perplexity", TARGET) for arm in arms]
    original = {value(arm, "perplexity", 256, "none") for arm in arms}
    assert len({round(x, 6) for x in original}) == 1
    assert max(far) < min(original)
    said = f"perplexities of {min(far):.2f} to {max(far):.2f} where the original has {min(original):.2f} on this text"
    assert f"{said}, and {value('searched@1', 'perplexity', TARGET, 'none'):.0f} at 16,384" in TEXT
    kept = [value(arm, "ratio-to-none", 256) for arm in arms]
    assert f"they have {min(kept):.3f} to {max(kept):.3f} of the original's" in TEXT


def test_what_the_critical_pair_rule_loses_is_said(paired: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    arms = ("critical", "critical@1", "critical@2")
    whole, last = ([paired[arm, metric, TARGET] for arm in arms] for metric in ("perplexity", "perplexity-last-2048"))
    assert all(line["low"] > 1 for line in last)
    said = (
        "it has {:.3f}, {:.3f} and {:.3f} of YaRN's perplexity, over the last 2,048 tokens {:.3f}, {:.3f} and {:.3f},"
    )
    assert said.format(*(line["value"] for line in (*whole, *last))) in TEXT
    right = [round(20 * value(arm, "passkey", TARGET)) for arm in arms]
    assert "it finds {}, {} and {} of 20 with the three seeds, where YaRN finds all".format(*right) in TEXT
    assert {value(arm, "passkey", TARGET) for arm in ("yarn", "yarn@1", "yarn@2")} == {1}


def test_what_needles_in_the_training_do_is_said(paired: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    def found(arm: str) -> tuple[str | int, ...]:
        shares = [
            round(many * value(f"{arm}-bare@1", metric, TARGET))
            for metric, many in (("passkey", 20), ("prose-needle", 100))
        ]
        perplexities = (f"{value(name, 'perplexity', TARGET):.2f}" for name in (f"{arm}-bare@1", f"{arm}@1"))
        return *perplexities, *shares

    yarn, searched = found("yarn"), found("searched")
    said = (
        "YaRN {} instead of {}, with {} passkeys of 20 and {} needles; "
        "the searched factors {} instead of {}, with {} passkeys and {} needles."
    )
    assert said.format(*yarn, *searched) in TEXT
    bare = paired["searched-bare@1", "perplexity", TARGET]
    assert bare["reference"] == "yarn-bare@1"
    assert f"have {interval(bare, 4)} of YaRN's perplexity. * Mere" in TEXT


def test_the_other_arms_and_the_needles_are_said(paired: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    ntk, pi = ([paired[arm, "perplexity", length]["value"] for length in (SEARCHED, TARGET)] for arm in ("ntk", "pi"))
    said = f"NTK has {ntk[0]:.3f} of YaRN's perplexity at 2,048 tokens and {ntk[1]:.1f} times it at 16,384"
    assert f"{said}, PI {pi[0]:.1f} and {pi[1]:.1f} times" in TEXT
    assert value("ntk", "passkey", TARGET) == value("pi", "passkey", TARGET) == 0
    assert f"gives {value('own', 'ratio-to-none', 256):.3f} of the original's perplexity at 256 tokens" in TEXT
    assert f"have {paired['own', 'perplexity', TARGET]['value']:.2f} times the perplexity at 16,384 tokens" in TEXT
    needles = [
        round(100 * value(arm, "prose-needle", length))
        for arm in ("yarn", "yarn@1", "yarn@2")
        for length in (TARGET, 256)
    ]
    assert "seeds 0 and 1, {} of {} and {} of {}, and with seed 2 {} of {}. The aim was 95 %".format(*needles) in TEXT


def test_the_minutes_of_an_arm_are_said() -> None:
    minutes = {}
    for run in sorted((RESULTS / RUN).glob("*/recipe.toml")):
        (session,) = json.loads((run.parent / "provenance.json").read_text())
        assert session["device"].endswith(("3 threads", "4 threads"))
        stages = [json.loads(path.read_text())["seconds"] for path in run.parent.glob("stages/*/stage.json")]
        measured = {
            (line["method"], line["context_tokens"], line["seconds"])
            for line in lines(f"{RUN}/{run.parent.name}/scores.jsonl")
        }
        minutes[run.parent.name] = round((sum(stages) + sum(seconds for *_, seconds in measured)) / 60)
    assert minutes.pop("searched@1") == 14
    assert (len(minutes), min(minutes.values()), max(minutes.values())) == (12, 7, 10)
    assert "An arm took seven to ten minutes, or fourteen with the original at all lengths," in TEXT


def test_what_a_search_at_the_target_gains_is_said() -> None:
    beside = {
        (line["reference"], line["metric"], line["context_tokens"]): line
        for line in lines("nano-16k-target/arms.jsonl")
        if line["run"] == "searched"
    }
    others = ("yarn", "yarn-extrapolated", "critical", "searched-extrapolated")
    whole, last, needles = (
        [beside[other, metric, TARGET] for other in others]
        for metric in ("perplexity", "perplexity-last-2048", "prose-needle")
    )
    assert all(line["high"] < 1 for line in whole)
    shares = [interval(line, 4) for line in whole]
    said = "they have {} of the perplexity of YaRN's formula, {} of YaRN's extrapolated, {} of the critical-pair rule's"
    assert f"{said}, and {{}} of".format(*shares) in TEXT
    assert "these are {:.3f}, {:.3f}, {:.3f} and {:.3f};".format(*(line["value"] for line in last)) in TEXT
    assert [line["high"] < 1 for line in last] == [True, False, True, True]
    assert f"is not separated from 1 ({last[1]['low']:.3f}-{last[1]['high']:.3f})" in TEXT
    assert all(line["low"] < 0 < line["high"] for line in needles)
    fewer = beside["yarn", "prose-needle", SEARCHED]
    more = [round(-100 * fewer[key]) for key in ("value", "high", "low")]
    assert "YaRN's formula finds {} more needles of 100 than the searched factors ({} to {})".format(*more) in TEXT
    arms = [path.parent.name for path in (RESULTS / "nano-16k-target").glob("*/scores.jsonl")]
    passkeys = {arm: scores(f"nano-16k-target/{arm}")[TUNED, "passkey", TARGET]["value"] for arm in arms}
    lost = [round(20 * passkeys.pop(arm)) for arm in ("yarn@2", "critical", "critical@1", "critical@2")]
    said = "except YaRN's formula with seed 2, which finds {}, and the critical-pair rule, which finds {}, {} and {}."
    assert said.format(*lost) in TEXT
    assert set(passkeys.values()) == {1}
    seconds = {
        arm: json.loads(next((RESULTS / "nano-16k-target" / arm).glob("stages/3-search-*/stage.json")).read_text())
        for arm in ("searched", "searched-extrapolated")
    }
    minutes = [round(seconds[arm]["seconds"] / 60) for arm in ("searched", "searched-extrapolated")]
    assert minutes[1] == 1
    assert f"took {minutes[0]} minutes of one core, the one at 2,048 tokens one minute" in TEXT
    said = f"gave lower perplexity, for {minutes[0]} minutes of one core instead of {minutes[1]} ("
    assert said in words("docs/how-it-works.md")
    assert "A search at this window itself takes longer, and can be better" in words("docs/recipe.md")


def test_other_seeds_say_the_same_of_a_search_at_the_target() -> None:
    beside = {
        (line["run"], line["reference"], line["metric"], line["context_tokens"]): line
        for line in lines("nano-16k-target/arms.jsonl")
    }
    seeds, others = ("@1", "@2"), ("yarn", "yarn-extrapolated", "critical")
    whole = [beside[f"searched{at}", f"{other}{at}", "perplexity", TARGET] for other in others for at in seeds]
    assert [line["high"] < 1 for line in whole] == [True] * 4 + [False] * 2
    shares = [interval(line, 4) for line in whole]
    said = "{} and {} of the perplexity of YaRN's formula, {} and {} of YaRN's extrapolated."
    assert said.format(*shares) in TEXT
    last = [beside[f"searched{at}", f"critical{at}", "perplexity-last-2048", TARGET] for at in seeds]
    said = "{} and {} of its perplexity, but over the last 2,048: {} and {}."
    assert said.format(*shares[4:], *(interval(line, 3) for line in last)) in TEXT
    assert all(line["high"] < 1 for line in last)
    formulas = [beside[f"yarn-extrapolated{at}", f"yarn{at}", "perplexity", TARGET] for at in ("", *seeds)]
    said = "extrapolated, have {}, {} and {} of the perplexity of its formula for 16,384 with the seeds 0, 1 and 2."
    assert said.format(*(interval(line, 3) for line in formulas)) in TEXT
    needles = {
        (other, at): beside[f"searched{at}", f"{other}{at}", "prose-needle", TARGET] for other in others for at in seeds
    }
    assert {place for place, line in needles.items() if line["low"] > 0} == {("critical", "@1"), ("critical", "@2")}
    fewer = [round(100 * needles["critical", at][key]) for at in seeds for key in ("value", "low", "high")]
    said = "with seed 1 it finds {} of 100 fewer ({} to {}), with seed 2 {} fewer ({} to {})."
    assert said.format(*fewer) in TEXT
    for at in seeds:
        assert beside[f"searched{at}", f"yarn{at}", "prose-needle", SEARCHED]["value"] > 0
