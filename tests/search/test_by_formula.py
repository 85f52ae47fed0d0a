"""A baseline in the place of a search: its factors, without a pass."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from measuring import no_passes

from longrope.data import TokenText
from longrope.errors import RecipeError
from longrope.models import LanguageModel
from longrope.recipe import GradientRecipe, Recipe, SearchRecipe, Stage
from longrope.registry import factor_methods, one_set_formulas
from longrope.rope import RescaleFactors, baseline_factors, compose, extension_ratio, tuned_spec, yarn_lambdas
from longrope.search import find_factors, scan_base
from longrope.search.cost import count_passes, count_short_passes
from longrope.search.longrope2 import search_longrope2

TARGET = 128


def settings(method: str) -> SearchRecipe:
    return SearchRecipe(method=method, validation_windows=1, gradient=GradientRecipe(steps=2, scan_windows=1))


@pytest.mark.parametrize("method", one_set_formulas())
def test_a_formula_gives_its_own_factors_without_a_pass(method: str, model: LanguageModel, text: TokenText) -> None:
    with no_passes(0):
        found = find_factors(model, text, TARGET, settings=settings(method))
    assert found == baseline_factors(model.spec, method, TARGET).factor_sets[0]
    assert (found.method, found.chosen_by, found.searched) == (method, "", ())
    assert count_passes(settings(method), TARGET) == count_short_passes(settings(method), 64, TARGET) == 0


def test_a_formula_takes_another_attention_factor(model: LanguageModel, text: TokenText) -> None:
    """In one search and in a second one, and is named with it; the rest is the formula's; searches are refused."""
    given = replace(settings("ntk-critical"), attention_factor=1.25)
    first = find_factors(model, text, TARGET, settings=given)
    own = find_factors(model, text, TARGET, settings=settings("ntk-critical"))
    assert first == replace(own, attention_factor=1.25, method="ntk-critical+attention factor 1.25")
    assert first.source.label == "NTK by critical dimension + attention factor 1.25"
    assert own == find_factors(model, text, TARGET, settings=replace(given, attention_factor=own.attention_factor))
    second = find_factors(model, text, 4 * TARGET, tuned_with=first, settings=given)
    plain = find_factors(model, text, 4 * TARGET, tuned_with=first, settings=settings("ntk-critical"))
    assert (second.lambdas, second.attention_factor) == (plain.lambdas, 1.25 * plain.attention_factor)
    with pytest.raises(RecipeError, match=r"attention_factor = 1\.25 was given with .*'gradient'.*ntk-critical"):
        replace(given, method="gradient")
    with pytest.raises(RecipeError, match=r"search\.attention_factor = -1"):
        replace(given, attention_factor=-1.0)


def test_a_formula_needs_no_text_as_long_as_its_window(model: LanguageModel, text: TokenText) -> None:
    found = find_factors(model, text, 4 * len(text.tokens), settings=settings("ntk-critical"))
    assert found.target_window == 4 * len(text.tokens)


def test_a_second_search_by_a_formula_goes_on_from_the_factors_of_the_tuning(
    model: LanguageModel, text: TokenText
) -> None:
    """YaRN once more, of a model whose window is that of the tuning, on top of the factors that it was tuned with."""
    first = find_factors(model, text, TARGET, settings=settings("critical"))
    second = find_factors(model, text, 4 * TARGET, tuned_with=first, settings=settings("yarn"))
    tuned = tuned_spec(model.spec, first)
    assert (tuned.trained_window, extension_ratio(tuned, 4 * TARGET)) == (TARGET, 4)
    lambdas = yarn_lambdas(model.spec.theta, model.spec.num_pairs, TARGET, 4, slowed=first.array)
    assert np.allclose(second.lambdas, np.asarray(first.lambdas) * lambdas)
    assert second == compose(first, baseline_factors(tuned, "yarn", 4 * TARGET).factor_sets[0], model.spec)


@pytest.mark.parametrize(("method", "search"), [("ntk-scan", scan_base), ("longrope2", search_longrope2)])
def test_a_scan_stands_in_the_place_of_a_search_of_the_original_alone(
    method: str, search: Callable[..., RescaleFactors], model: LanguageModel, text: TokenText
) -> None:
    found = find_factors(model, text, TARGET, settings=settings(method))
    assert found == search(model, text, TARGET, settings=settings(method))
    with pytest.raises(RecipeError, match="tuned"):
        find_factors(model, text, 2 * TARGET, tuned_with=found, settings=settings(method))


def test_what_has_a_set_for_each_length_is_no_method_of_a_search() -> None:
    assert {"gradient", "evolution", "pi", "ntk", "yarn", "critical", "ntk-scan"} <= set(factor_methods())
    with pytest.raises(RecipeError, match=r"search\.method = 'dynamic-ntk'"):
        SearchRecipe(method="dynamic-ntk")
    assert Recipe("m", TARGET, ("d",), stages=(Stage(search=TARGET),), search=settings("yarn")).stages
