"""The original model, measured up to a length alone."""

from measuring import Passes

from longrope.data import TokenText
from longrope.evaluation import measure
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.rope import baseline_factors


def test_the_original_is_read_no_further_and_others_are(model: LanguageModel, text: TokenText, passes: Passes) -> None:
    """The pass that lengths share is the one over the longest of its own, on the windows that all methods have."""
    settings = MeasureRecipe(lengths=(32, 64, 128), windows=3, metrics=("prefix-perplexity",), original_tokens=64)
    original = measure(model, None, text, settings=settings)
    assert [score.context_tokens for score in original] == [32, 64]
    assert passes.tokens == 3 * 64
    factors = baseline_factors(model.spec, "yarn", 128)
    others = measure(model, factors, text, settings=settings)
    assert [score.context_tokens for score in others] == [32, 64, 128]
    assert {s.texts_fingerprint for s in original} == {s.texts_fingerprint for s in others}


def test_the_shortest_length_is_measured_in_any_case(model: LanguageModel, text: TokenText) -> None:
    settings = MeasureRecipe(lengths=(64, 128), windows=2, metrics=("perplexity",), tail_tokens=0, original_tokens=8)
    assert [score.context_tokens for score in measure(model, None, text, settings=settings)] == [64]
