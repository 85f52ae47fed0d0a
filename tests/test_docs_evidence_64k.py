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
    return {line["run"]: line["value"] for line in pairs}


def test_methods_of_attention_win_and_the_gradient_search_is_the_best_of_factors(
    untrained: dict[tuple[str, str, int], float], shares: dict[str, float]
) -> None:
    at = {method: value for (method, *place), value in untrained.items() if place == ["perplexity", 65536]}
    assert sorted(at, key=at.__getitem__)[:3] == ["self-extend", "dca", GRADIENT]
    for method, share in shares.items():
        assert share == pytest.approx(at[method] / at[GRADIENT], rel=1e-4)
    needles = [round(100 * untrained[method, "prose-needle", 65536]) for method in ("self-extend", "dca", GRADIENT)]
    assert "They find {} and {} needles of 100, the searched factors {}.".format(*needles) in TEXT
    assert {f"{shares[method]:.2f}" for method in ("dca", "self-extend")} == {"0.91"}
    assert "DCA and Self-Extend, which change attention instead, have 0.91 of it" in README
    others = [f"{shares[method]:.3f}" for method in ("ntk-scan", "critical", "longrope2", "yarn")]
    said = (
        "the scan of two numbers has {} of its perplexity, the critical-pair rule {}, LongRoPE2's search {}, YaRN {}."
    )
    assert said.format(*others) in TEXT
    assert f"has {shares['longrope-evolution']:.3f}. By needles" in TEXT


def test_the_facts_of_the_first_screen_have_their_intervals() -> None:
    pairs = [line for line in lines(f"{RUN}/compare/paired.jsonl") if line["metric"] == "perplexity"]
    scan, yarn = (
        "{value:.3f} ({low:.3f}-{high:.3f})".format(**next(line for line in pairs if line["run"] == method))
        for method in ("ntk-scan", "yarn")
    )
    assert f"A scan of two numbers has {scan.replace('(', 'of it (95 % interval ')}, YaRN {yarn}" in README


def test_what_is_paid_is_stated(untrained: dict[tuple[str, str, int], float]) -> None:
    """At 8k, and the seconds of the search."""
    short = [untrained[method, "perplexity", 8192] for method in (GRADIENT, "none")]
    assert "{:.2f} instead of {:.2f} at 8k above".format(*short) in README
    seconds = sum(line["seconds"] for line in lines(f"{RUN}/compare/trials.jsonl") if line["method"] == GRADIENT)
    assert f"The gradient search above took {seconds:.0f} s on one H200" in README


def test_the_bars_that_are_missed_are_stated(untrained: dict[tuple[str, str, int], float]) -> None:
    with_8k = untrained["none", "last-tokens-8191", 8192]
    last = untrained[GRADIENT, "perplexity-last-8192", 65536]
    assert f"{last / with_8k:.3f} of the original's perplexity on the same last tokens" in TEXT
    assert f"with 8k of context has {with_8k:.2f}" in TEXT
    dca, extended = (untrained[name, "perplexity-last-8192", 65536] / with_8k for name in ("dca", "self-extend"))
    assert f"DCA {dca:.3f} of that and Self-Extend {extended:.3f}" in TEXT
    assert f"DCA has {untrained['dca', 'ratio-to-none', 8192]:.3f} of its perplexity" in TEXT
    shuffled = [
        "{value:.3f} ({low:.3f}-{high:.3f})".format(**scores(f"{RUN}/compare")[method, "far-shuffled", 65536])
        for method in (GRADIENT, "yarn", "dca")
    ]
    for share in shuffled:
        assert share in TEXT
    trained = scores(f"{RUN}/searched")
    near, far = (trained["longrope-tuned", "prose-needle", length]["value"] for length in (8192, 65536))
    assert f"finds {100 * far / near:.0f} % of the share of needles that it finds at 8k" in TEXT
    assert f"and {100 * far:.0f} of 100 needles (the aim was 85)" in TEXT
    assert f"95 % of the share found at 8k ({100 * far / near:.0f} % was reached)" in README


def test_arms_that_were_trained_alike_are_compared() -> None:
    at = {(line["metric"], line["context_tokens"]): line for line in lines(f"{RUN}/arms.jsonl")}
    share, needles = at["perplexity", 65536], at["prose-needle", 65536]
    interval = f"({share['low']:.4f}-{share['high']:.4f})"
    assert f"have {share['value']:.4f} of YaRN's perplexity {interval}" in TEXT
    rounded = f"({share['low']:.3f}-{share['high']:.3f})"
    assert f"the searched factors have {share['value']:.3f} of YaRN's perplexity there {rounded}" in README
    ends = [f"{100 * needles[key]:.0f}".replace("-0", "0") for key in ("value", "low", "high")]
    assert "a difference of {} points ({} to {})".format(*ends) in TEXT
    steps = [path.relative_to(RESULTS) for path in (RESULTS / RUN).glob("*/stages/2-tune*/train.jsonl")]
    searched, yarn = ([line["texts_fingerprint"] for line in lines(f"{path}")] for path in steps)
    assert searched == yarn
    assert len(searched) == 100
