"""What the docs say of more arms at 64k, of the shorter comparison and of CMA-ES there follows from the records."""

import json
from pathlib import Path

import numpy as np
import pytest

from longrope.evaluation.pairing import Comparison
from longrope.runs.records import Score, Trial, read_records

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results"
RESULTS = " ".join((ROOT / "docs/results.md").read_text().split())
README = " ".join((ROOT / "README.md").read_text().split())
TARGET, WINDOW, TAIL = 65536, 8192, "perplexity-last-8192"
Found = dict[tuple[str, int], Score]


def trained(path: str) -> Found:
    scores = read_records(RECORDS / path / "scores.jsonl", Score)
    return {(s.metric, s.context_tokens): s for s in scores if s.method not in ("none", "longrope-recovered")}


def pairs(path: str) -> dict[tuple[str, int], Comparison]:
    lines = (RECORDS / path / "arms.jsonl").read_text().splitlines()
    return {(c.metric, c.context_tokens): c for c in (Comparison(**json.loads(line)) for line in lines)}


def share(found: Comparison | Score) -> str:
    return f"{found.value:.4f} ({found.low:.4f}-{found.high:.4f})"


@pytest.fixture(scope="module")
def arms() -> dict[str, Found]:
    more = {name: trained(f"evidence-64k-more/{name}") for name in ("longrope2", "searched-bare", "critical-bare")}
    return more | {name: trained(f"evidence-64k/{name}") for name in ("searched", "critical", "scan")}


def count(score: Score) -> int:
    return round(score.value * score.num_windows)


def needles(arms: dict[str, Found], length: int = TARGET) -> dict[str, int]:
    return {name: round(100 * found["prose-needle", length].value) for name, found in arms.items()}


def test_longrope2_is_not_behind_after_training(arms: dict[str, Found]) -> None:
    values = {name: found["perplexity", TARGET].value for name, found in arms.items()}
    assert f"{100 * (values['longrope2'] / values['searched'] - 1):.1f} % above the searched factors'" in RESULTS
    assert f"{values['longrope2']:.2f}" == f"{values['scan']:.2f}"
    found = needles(arms)
    assert max(found, key=lambda name: found[name]) == "longrope2"
    assert [found[name] for name in ("longrope2", "searched", "critical")] == [63, 52, 52]
    lowest, highest = arms["longrope2"]["prose-needle", TARGET].low, arms["searched"]["prose-needle", TARGET].high
    assert lowest < highest


def test_what_needles_in_training_bring_and_cost(arms: dict[str, Found]) -> None:
    costs = [
        arms[name]["perplexity", TARGET].value / arms[f"{name}-bare"]["perplexity", TARGET].value - 1
        for name in ("searched", "critical")
    ]
    assert [round(100 * cost, 1) for cost in costs] == [1.3, 1.3]
    assert [f"{arms[name]['perplexity', TARGET].value:.2f}" for name in ("searched-bare", "critical-bare")] == [
        "9.41",
        "9.49",
    ]
    far, near = needles(arms), needles(arms, WINDOW)
    assert [far[name] for name in ("searched-bare", "critical-bare")] == [27, 27]
    assert "without needles, the searched factors find 27, with 1.3 % less perplexity" in README
    assert [near[name] for name in ("searched-bare", "critical-bare", "searched", "critical")] == [52, 56, 74, 76]
    passkeys = {name: count(found["passkey", TARGET]) for name, found in arms.items()}
    assert [passkeys[name] for name in ("searched-bare", "critical-bare", "searched", "critical")] == [18, 18, 20, 20]


def test_without_needles_the_searched_factors_are_ahead_too() -> None:
    found = pairs("evidence-64k-more")
    assert f"the searched factors have {share(found['perplexity', TARGET])} of the rule's perplexity" in RESULTS
    assert f"{share(found[TAIL, TARGET])} over the last 8,192 tokens; as many needles" in RESULTS
    assert found["prose-needle", TARGET].value == 0


def test_cma_gains_next_to_nothing_at_64k() -> None:
    found = pairs("searches-64k")
    assert f"{share(found['perplexity', TARGET])} of the gradient search's perplexity" in RESULTS
    less = f"{100 * (1 - found['perplexity', TARGET].value):.1f} % less"
    assert f"On SmolLM2-135M at 64k it has {less}" in README
    assert f"over the last 8,192 tokens {share(found[TAIL, TARGET])}" in RESULTS
    assert f"{found['perplexity', WINDOW].value:.4f} at 8k" in RESULTS
    both = [trained(f"searches-64k/{name}") for name in ("cma", "gradient")]
    assert [count(some["passkey", TARGET]) for some in both] == [14, 18]
    assert [round(100 * some["prose-needle", TARGET].value) for some in both] == [7, 8]
    passkeys = found["passkey", TARGET]
    assert [round(100 * x) for x in (passkeys.low, passkeys.high)] == [-42, -1]
    read = [
        sum(trial.token_passes for trial in read_records(path, Trial))
        for name in ("cma", "gradient")
        for path in (RECORDS / "searches-64k" / name).glob("stages/*/trials.jsonl")
    ]
    assert f"for {read[0] / read[1]:.1f} times the tokens read" in RESULTS


def test_another_release_of_transformers_scores_the_original_alike() -> None:
    """And the gradient search, repeated on texts fetched again, finds other factors that are nearly as good."""

    def original(path: str) -> dict[tuple[str, int], tuple[float, str]]:
        scores = read_records(RECORDS / path / "scores.jsonl", Score)
        return {(s.metric, s.context_tokens): (s.value, s.texts_fingerprint) for s in scores if s.method == "none"}

    again, before = original("searches-64k/cma"), original("evidence-64k/compare")
    assert again.items() <= before.items()
    assert {("perplexity", WINDOW), ("passkey", WINDOW), ("prose-needle", WINDOW)} <= set(again)
    scores = read_records(RECORDS / "evidence-64k/compare/scores.jsonl", Score)
    first = {(s.metric, s.context_tokens): s.value for s in scores if s.method == "longrope-gradient"}
    second = trained("searches-64k/gradient")
    log = " ".join((ROOT / "docs/log.md").read_text().split())
    assert f"has {second['perplexity', TARGET].value:.2f} at 64k ({first['perplexity', TARGET]:.2f} in" in log
    counts = [round(100 * value) for value in (second["prose-needle", TARGET].value, first["prose-needle", TARGET])]
    assert f"and {counts[0]} needles ({counts[1]})" in log


def test_the_shorter_comparison() -> None:
    scores = read_records(RECORDS / "compare-64k/scores.jsonl", Score)
    assert len({score.method for score in scores}) == 15
    (tail,) = (s for s in scores if (s.method, s.metric) == ("longrope-gradient", "last-tokens-ratio-to-self-extend"))
    assert f"({tail.value:.3f}, {tail.low:.3f}-{tail.high:.3f}); needles and passkeys are not separated" in RESULTS
    seconds = np.sum([trial.seconds for trial in read_records(RECORDS / "compare-64k/trials.jsonl", Trial)])
    assert f"{seconds / 60:.1f} of searches" in RESULTS
