"""What the docs say of results/evidence-64k follows from its records."""

import pytest
from documents import RESULTS, lines, scores, words

RUN = "evidence-64k"
README, TEXT = words("README.md"), words("docs/results.md")
GRADIENT = "longrope-gradient"


@pytest.fixture(scope="module")
def untrained() -> dict[tuple[str, str, int], float]:
    return {place: line["value"] for place, line in scores(f"{RUN}/compare").items()}


@pytest.fixture(scope="module")
def shares() -> dict[str, float]:
    """Perplexities at 64k as shares of the gradient search's."""
    pairs = [line for line in lines(f"{RUN}/compare/paired.jsonl") if line["metric"] == "perplexity"]
    assert {(line["reference"], line["context_tokens"]) for line in pairs} == {(GRADIENT, 65536)}
    return {line["method"]: line["value"] for line in pairs}


def test_methods_of_attention_win_and_the_gradient_search_is_the_best_of_factors(
    untrained: dict[tuple[str, str, int], float], shares: dict[str, float]
) -> None:
    at = {method: value for (method, *place), value in untrained.items() if place == ["perplexity", 65536]}
    assert sorted(at, key=at.__getitem__)[:3] == ["self-extend", "dca", GRADIENT]
    for method, share in shares.items():
        assert share == pytest.approx(at[method] / at[GRADIENT], rel=1e-4)
    needles = [round(100 * untrained[method, "prose-needle", 65536]) for method in ("dca", "self-extend", GRADIENT)]
    assert "find {} and {} of 100 needles in prose, it {}".format(*needles) in README
    assert {f"{shares[method]:.2f}" for method in ("dca", "self-extend")} == {"0.91"}
    assert "they have 0.91 of the gradient search's perplexity" in README
    assert f"a scan of two numbers has {shares['ntk-scan']:.3f} of its perplexity, YaRN {shares['yarn']:.3f}" in README
    others = [f"{shares[method]:.3f}" for method in ("ntk-scan", "critical", "longrope2", "yarn")]
    said = (
        "the scan of two numbers has {} of its perplexity, the critical-pair rule {}, LongRoPE2's search {}, YaRN {}."
    )
    assert said.format(*others) in TEXT
    assert f"has {shares['longrope-evolution']:.3f}. By needles" in TEXT


def test_the_bars_that_are_missed_are_stated(untrained: dict[tuple[str, str, int], float]) -> None:
    with_8k = untrained["none", "last-tokens-8191", 8192]
    last = untrained[GRADIENT, "perplexity-last-8192", 65536]
    assert f"{last / with_8k:.3f} of the original's perplexity on the same last tokens" in TEXT
    shuffled = untrained[GRADIENT, "far-shuffled-perplexity", 65536]
    assert f"have {shuffled:.2f} on the last 8,192 tokens, not {last:.2f}" in TEXT
    trained = scores(f"{RUN}/searched")
    near, far = (trained["longrope-tuned", "prose-needle", length]["value"] for length in (8192, 65536))
    assert f"finds {100 * far / near:.0f} % of the needles that it finds in 8k" in TEXT
    assert f"and {100 * far:.0f} of 100 (85)" in TEXT


def test_arms_that_were_trained_alike_are_compared() -> None:
    at = {(line["metric"], line["context_tokens"]): line for line in lines(f"{RUN}/arms.jsonl")}
    share, needles = at["perplexity", 65536], at["prose-needle", 65536]
    interval = f"({share['low']:.4f}-{share['high']:.4f})"
    assert f"have {share['value']:.4f} of YaRN's perplexity {interval}" in TEXT
    assert f"Trained alike, its factors have {share['value']:.3f} of YaRN's" in README
    ends = [f"{100 * needles[key]:.0f}".replace("-0", "0") for key in ("value", "low", "high")]
    assert "a difference of {} points ({} to {})".format(*ends) in TEXT
    steps = [path.relative_to(RESULTS) for path in (RESULTS / RUN).glob("*/stages/2-tune*/train.jsonl")]
    searched, yarn = ([line["texts_fingerprint"] for line in lines(f"{path}")] for path in steps)
    assert searched == yarn
    assert len(searched) == 100
