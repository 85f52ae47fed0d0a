"""Searches of models whose own scaling grows with the length: factors turn as those of a plain model with its weights.

Both models have the same weights. Within the trained window they are the same; beyond it dynamic NTK would slow every
pair by itself, and factors of such a model are relative to that. The angles that a search tries do not depend on it.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pico
import pytest

from longrope.data import TokenText
from longrope.models import LanguageModel
from longrope.recipe import EvolutionRecipe, GradientRecipe, SearchRecipe
from longrope.rope import (
    RescaleFactors,
    RopeSpec,
    baseline_factors,
    compose,
    counted_from,
    extrapolate,
    relative_to,
    tuned_spec,
)
from longrope.runs.records import Trial
from longrope.search import find_factors, scan_base, search_short_window

DYNAMIC = {"rope_type": "dynamic", "factor": 6.0}
TARGET = 128
QUICK = SearchRecipe(
    validation_windows=1,
    gradient=GradientRecipe(steps=3, validate_every=2, scan_windows=1),
    evolution=EvolutionRecipe(population=6, parents=4, mutations=2, crossovers=2, generations=2, windows=1),
)


@pytest.fixture(scope="module")
def plain() -> LanguageModel:
    return pico.make_model()


@pytest.fixture(scope="module")
def growing() -> LanguageModel:
    return pico.make_model(rope=DYNAMIC)


def angles(spec: RopeSpec, factors: RescaleFactors) -> Any:
    """[P] radians per token under factors of a model."""
    return spec.frequencies_at(factors.target_window) / factors.lambdas


def compared(ours: list[Trial], theirs: list[Trial]) -> int:
    """How many trials are the same, of those that leave no start tokens alone."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if not a.start_tokens and not b.start_tokens]
    for a, b in pairs:
        assert (a.kind, a.origin, a.step) == (b.kind, b.origin, b.step)
        np.testing.assert_allclose(a.lambdas, b.lambdas, rtol=1e-5)
        assert a.loss_nats == pytest.approx(b.loss_nats, abs=1e-4)
    return len(pairs)


def test_the_gradient_search_tries_the_same_angles(
    plain: LanguageModel, growing: LanguageModel, text: TokenText
) -> None:
    trials: dict[str, list[Trial]] = {"plain": [], "growing": []}
    models = {"plain": plain, "growing": growing}
    for name, model in models.items():
        by_loss = replace(QUICK, choose_by="loss")  # a choice stands after start tokens, which one of them does not try
        find_factors(model, text, TARGET, settings=by_loss, seed=3, on_trial=trials[name].append)
    assert compared(trials["growing"], trials["plain"]) > 10
    assert {trial.origin for trial in trials["growing"]} >= {"pi", "ntk", "yarn", "critical", "gradient"}


def test_the_scan_tries_the_same_angles(plain: LanguageModel, growing: LanguageModel, text: TokenText) -> None:
    ours, theirs = list[Trial](), list[Trial]()
    found = scan_base(growing, text, TARGET, settings=QUICK, passes=30, on_trial=ours.append)
    expected = scan_base(plain, text, TARGET, settings=QUICK, passes=30, on_trial=theirs.append)
    assert compared(ours, theirs) == len(ours) == len(theirs)
    np.testing.assert_allclose(angles(growing.spec, found), angles(plain.spec, expected), rtol=1e-9)
    found.check_spec(growing.spec)


@pytest.mark.parametrize("method", ["gradient", "evolution", "cma"])
def test_what_is_found_is_of_the_model(method: str, growing: LanguageModel, text: TokenText) -> None:
    """The best trial, relative to the trained window, as factors relative to dynamic NTK at the target."""
    trials = list[Trial]()
    settings = replace(QUICK, method=method)
    found = find_factors(growing, text, TARGET, settings=settings, seed=3, on_trial=trials.append)
    found.check_spec(growing.spec)
    best = min((trial for trial in trials if trial.kind == "validation"), key=lambda trial: trial.loss_nats)
    wanted = growing.spec.plain_frequencies / best.lambdas
    np.testing.assert_allclose(angles(growing.spec, found), wanted, rtol=1e-9)
    assert {trial.start_tokens for trial in trials} == {0}
    assert all(x >= 1 for trial in trials for x in trial.lambdas), "none is cut off at 1"


def test_a_short_window_gets_shares_of_what_the_long_factors_do(
    plain: LanguageModel, growing: LanguageModel, text: TokenText
) -> None:
    ours, theirs = list[Trial](), list[Trial]()
    for model, trials in ((growing, ours), (plain, theirs)):
        longest = baseline_factors(model.spec, "yarn", 256).factor_sets[0]
        search_short_window(model, text, 48, longest, settings=QUICK, on_trial=trials.append)
    assert compared(ours, theirs) == len(ours) == len(theirs)


@pytest.mark.parametrize("tuned", [False, True])
def test_extrapolated_factors_turn_alike(tuned: bool, plain: LanguageModel, growing: LanguageModel) -> None:
    """From 256 tokens to 1,024, of the model itself or after a tuning at 128."""
    found = []
    for spec in (plain.spec, growing.spec):
        first = baseline_factors(spec, "ntk", 128).factor_sets[0] if tuned else None
        geometry = tuned_spec(spec, first)
        base, yarn = counted_from(spec, first), baseline_factors(geometry, "yarn", 256).factor_sets[0]
        second = compose(base, yarn, spec)
        longer = compose(base, extrapolate(relative_to(base, second, spec), geometry, 1024), spec)
        found.append([angles(spec, factors) for factors in (second, longer)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)
    assert all((np.diff(one) < 0).all() for one in found[1])


def test_models_of_one_set_are_left_alone(plain: LanguageModel) -> None:
    """Then factors are composed with nothing, or with those of the tuning themselves."""
    first = baseline_factors(plain.spec, "ntk", 128).factor_sets[0]
    assert counted_from(plain.spec, None) is None
    assert counted_from(plain.spec, first) is first
    assert tuned_spec(plain.spec, None) is plain.spec
