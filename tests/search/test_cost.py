"""The passes and tokens that searches cost, counted by hand."""

from dataclasses import replace
from typing import Any

import pytest
from valleys import QUICK_EVOLUTION, trial

from longrope.data import TokenText
from longrope.models import LanguageModel
from longrope.pipeline.search_end import describe_losses
from longrope.recipe import CmaRecipe, EvolutionRecipe, GradientRecipe, SearchRecipe
from longrope.rope import RescaleFactors, baseline_factors
from longrope.runs.records import Trial, made_by_search
from longrope.search import find_factors, search_short_window
from longrope.search.cost import compare_costs, count_gradient_passes, count_passes, count_short_passes

GRADIENT_TRIALS = [
    trial("gradient", "validation", "pi", 9.0, 10, 1.0),
    trial("gradient", "validation", "ntk", 1.0, 10, 1.0),  # closed forms that are better than all that is found
    trial("gradient", "validation", "critical", 1.0, 10, 1.0),
    trial("gradient", "gradient", "gradient", 2.0, 40, 4.0),
    trial("gradient", "validation", "gradient", 4.0, 10, 1.0),
    trial("gradient", "validation", "gradient", 3.0, 10, 1.0),
    trial("gradient", "validation", "start-tokens", 2.5, 10, 1.25),
]
EVOLUTION_TRIALS = [
    trial("evolution", "validation", "ntk", 1.0, 10, 2.0),
    trial("evolution", "search", "mutation", 2.0, 20, 2.0),
    trial("evolution", "validation", "mutation", 5.0, 10, 2.0),
    trial("evolution", "search", "crossover", 1.5, 20, 2.0),
    trial("evolution", "validation", "crossover", 3.5, 10, 2.0),
]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient": GradientRecipe(steps=10, scan_windows=1, start="yarn")},
        {"gradient": GradientRecipe(steps=20, scan_windows=4), "validation_windows": 5},
        {"method": "evolution", "evolution": EvolutionRecipe(population=20, mutations=6, crossovers=6, generations=8)},
        {"method": "evolution", "evolution": replace(QUICK_EVOLUTION, windows=4), "validation_windows": 3},
        {"method": "cma", "cma": CmaRecipe(passes=250, windows=3), "validation_windows": 3},
    ],
    ids=str,
)
def test_passes_are_about_as_many_as_were_foreseen(
    changes: dict[str, Any], model: LanguageModel, text: TokenText, tuned_with: RescaleFactors
) -> None:
    """Within a third of what the trials of a search tell, the first one and one on a tuned model."""
    settings = SearchRecipe(**changes)
    for factors, target in ((None, 128), (tuned_with, 256)):
        made: list[Trial] = []
        find_factors(model, text, target, tuned_with=factors, settings=settings, on_trial=made.append)
        passes = sum(trial.token_passes for trial in made) / target
        assert count_passes(settings, target) == pytest.approx(passes, rel=1 / 3)


@pytest.mark.parametrize("method", ["gradient", "evolution"])
def test_passes_over_short_windows_are_about_as_many_as_were_foreseen(
    method: str, model: LanguageModel, text: TokenText
) -> None:
    """By gradient whatever the method for the long window is."""
    settings, made = SearchRecipe(method=method), list[Trial]()
    longest = baseline_factors(model.spec, "yarn", 256).factor_sets[0]
    search_short_window(model, text, 64, longest, settings=settings, on_trial=made.append)
    passes = sum(trial.token_passes for trial in made) / 64
    assert count_short_passes(settings, 64, 256) == pytest.approx(passes, rel=0.05)


def test_costs_are_counted_up_to_the_loss_that_all_have_reached() -> None:
    mixed = [*EVOLUTION_TRIALS[:2], *GRADIENT_TRIALS, *EVOLUTION_TRIALS[2:]]
    costs = {cost.method: cost for cost in compare_costs(mixed)}
    gradient, evolution = costs["longrope-gradient"], costs["longrope-evolution"]
    assert gradient.common_loss_nats == evolution.common_loss_nats == 3.5
    assert (gradient.validation_loss_nats, evolution.validation_loss_nats) == (2.5, 3.5)
    assert (gradient.trials, gradient.token_passes, gradient.seconds) == (7, 100, 10.25)
    assert (evolution.trials, evolution.token_passes, evolution.seconds) == (5, 70, 10.0)
    assert (gradient.trials_to_common, gradient.token_passes_to_common, gradient.seconds_to_common) == (6, 90, 9.0)
    assert (evolution.trials_to_common, evolution.token_passes_to_common) == (5, 70)


def test_one_search_alone_and_none() -> None:
    (cost,) = compare_costs(GRADIENT_TRIALS)
    assert (cost.common_loss_nats, cost.trials_to_common) == (2.5, 7)
    assert compare_costs([]) == []


def test_a_search_that_found_nothing_of_its_own_does_not_break_the_table() -> None:
    """An evolution whose best is still a start, or one that was interrupted early, has validated only closed forms."""
    costs = {cost.method: cost for cost in compare_costs([*GRADIENT_TRIALS, *EVOLUTION_TRIALS[:2]])}
    assert costs["longrope-gradient"].validation_loss_nats == 2.5
    assert "longrope-evolution" not in costs
    assert compare_costs(EVOLUTION_TRIALS[:2]) == []


def test_a_candidate_at_the_factors_of_a_formula_is_the_searchs_own() -> None:
    """An evolution validates its best after its first generation, with the origin that it has."""
    formula = trial("evolution", "validation", "yarn", 2.5, 10, 1.0)
    placed = replace(formula, attention_factor=formula.attention_factor + 0.1, loss_nats=2.25)
    trials = [formula, replace(placed, kind="search", loss_nats=2.4), placed]
    assert made_by_search(trials) == [False, False, True]
    assert made_by_search([formula, formula]) == [False, False]
    (cost,) = compare_costs(trials)
    assert (cost.validation_loss_nats, cost.trials_to_common) == (2.25, 3)
    assert describe_losses(trials, "longrope-evolution") == (
        "loss on held-out windows: 2.2500 nats a token at the lowest; YaRN 2.5000"
    )


def test_budgets_beside_a_formula_are_those_of_the_gradient_search() -> None:
    """Also where the formula has an attention factor, which the gradient search cannot have."""
    formula = SearchRecipe(method="yarn", attention_factor=1.1)
    assert count_gradient_passes(formula, 256) == count_passes(SearchRecipe(), 256) > 0
