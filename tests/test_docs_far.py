"""Numbers in the text about the use of far context are those of the committed records."""

from documents import scores, words

TEXT = words("docs/results.md")


def written(method: str, metric: str) -> str:
    """A value with its interval, at 2,048 tokens."""
    score = scores("nano-far")[method, metric, 2048]
    assert (score["resampled"], score["num_windows"]) == ("documents", 40)
    return f"{score['value']:.3f} ({score['low']:.3f}-{score['high']:.3f})"


def test_the_bundled_model_uses_the_order_of_far_context() -> None:
    ours, yarn, original = (written(method, "far-shuffled") for method in ("longrope-gradient", "yarn", "none"))
    assert f"the demo's factors have {ours} of the perplexity that they have after shuffled far context" in TEXT
    assert f"YaRN's {yarn}, and the original model {original}." in TEXT
    made = scores("nano-far")
    assert all(made[method, "far-shuffled", 2048]["high"] < 1 for method in ("longrope-gradient", "yarn"))
    assert made["none", "far-shuffled", 2048]["low"] < 1 < made["none", "far-shuffled", 2048]["high"]


def test_and_has_no_gain_over_the_trained_window() -> None:
    ours, yarn = (written(method, "far-context-last-64") for method in ("longrope-gradient", "yarn"))
    assert f"{ours} with the demo's factors and {yarn} with YaRN's." in TEXT
