"""The original model, measured up to a length alone."""

from dataclasses import replace

import pytest
from measuring import Passes, make_context

from longrope.data import TokenText
from longrope.evaluation import find_metric, measure
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


@pytest.mark.parametrize("metric", ["effective-length", "longppl"])
def test_what_needs_the_longest_length_is_not_measured_of_an_original_that_stops_before(
    metric: str, model: LanguageModel, text: TokenText
) -> None:
    context = make_context(model, None, text.windows(128, 2), 64, evaluator=model.name, longppl_near=32)
    stopped, whole = replace(context, lengths=(64,)), replace(context, length=128, lengths=(64, 128))
    assert find_metric(metric).names(stopped) == ()
    assert find_metric(metric).names(whole)
