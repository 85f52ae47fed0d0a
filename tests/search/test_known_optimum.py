"""Both searches find the optimum of objectives whose optimum is known in closed form."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from valleys import (
    BOTH,
    CRITICAL,
    EVOLUTION,
    GRADIENT,
    OPTIMUM,
    QUICK_DESCENT,
    SPEC,
    STARTS,
    TARGET,
    Search,
    Valley,
    descending,
    evolving,
)

from longrope.recipe import EvolutionRecipe, GradientRecipe
from longrope.rope import RescaleFactors, baseline_factors
from longrope.search.descend import WORTHWHILE, descend
from longrope.search.score import TrialLog
from longrope.search.space import START_TOKENS


@pytest.mark.parametrize("seed", [0, 1])
def test_evolution_with_the_paper_numbers_finds_a_known_optimum(seed: int) -> None:
    """Within 3 % in every lambda (the bounds are 1 and 5), and the preferred start tokens exactly."""
    found = evolving(Valley(), settings=EvolutionRecipe().filled(TARGET), seed=seed)
    assert np.abs(np.log(found.lambdas) - np.log(OPTIMUM)).max() < 0.03
    assert found.start_tokens == 4
    assert (found.method, found.chosen_by) == (EVOLUTION, EVOLUTION)
    assert (found.attention_factor, found.target_window) == (1.1, TARGET)


@pytest.mark.parametrize(
    ("start", "steps"), [("pi", 1000), ("ntk", 300), ("yarn", 300), ("critical", 1000), ("scan", 1000)]
)
def test_descent_finds_a_known_optimum_from_every_start(start: str, steps: int) -> None:
    """Within 2 % in every lambda and in the attention factor, and the preferred start tokens exactly.

    PI and the critical-pair factors begin with increments near nothing, where softplus is flat: they take longer.
    """
    found = descending(Valley(attention=1.2), settings=GradientRecipe(steps=steps, start=start))
    assert np.abs(np.log(found.lambdas) - np.log(OPTIMUM)).max() < 0.02
    assert found.attention_factor == pytest.approx(1.2, rel=0.01)
    assert found.start_tokens == 4
    assert (found.method, found.chosen_by, found.target_window) == (GRADIENT, GRADIENT, TARGET)


def test_descent_with_the_default_numbers_closes_most_of_the_gap() -> None:
    valley = Valley(attention=1.2, start_tokens=0)
    found = descending(valley, settings=GradientRecipe())
    best_start = min(valley.loss(start, OPTIMUM) for start in STARTS)
    assert valley.loss(found, OPTIMUM) - 2 < 0.2 * (best_start - 2)


def test_a_rate_that_is_too_high_costs_steps_and_not_the_result() -> None:
    """The descent goes back to its best point and on from there with more care: still closer than any start."""
    valley = Valley(attention=1.2, start_tokens=0)
    found = descending(valley, settings=GradientRecipe(learning_rate=3.0, steps=60))
    best_start = min(valley.loss(start, OPTIMUM) for start in [*STARTS, CRITICAL])
    assert valley.loss(found, OPTIMUM) - 2 < 0.5 * (best_start - 2)


def test_the_schedule_goes_back_where_the_held_out_windows_got_worse() -> None:
    """To the best point that the descent has validated, and on from there at half the rate, by Adam's first step."""
    log = TrialLog(None, GRADIENT)
    rates = GradientRecipe(learning_rate=3.0, attention_rate=1e-3, steps=24, validate_every=3, start="critical")
    descending(Valley(start_tokens=0), log, settings=rates)
    descent = [trial for trial in log.made if trial.origin == "gradient"]
    best = [trial.loss_nats for trial in log.made if (trial.kind, trial.origin) == ("validation", "critical")][-1]
    begun, best_lambdas, caution, retreats = best, descent[0].lambdas, 1.0, list[float]()
    for i, trial in enumerate(descent[:-2]):
        if trial.kind != "validation":
            continue
        if trial.loss_nats <= best:
            best, best_lambdas = trial.loss_nats, trial.lambdas
            continue
        retreats, caution = [*retreats, trial.loss_nats], caution / 2
        back, after = descent[i + 1], descent[i + 2]
        assert (back.kind, after.kind, back.lambdas) == ("gradient", "gradient", best_lambdas)
        cosine = 0.5 * (1 + math.cos(math.pi * back.step / 24))
        moved = abs(math.log(after.attention_factor / back.attention_factor))
        assert moved == pytest.approx(3.0 * 1e-3 * caution * cosine, rel=1e-4)
    assert min(retreats) < begun < max(retreats), "worse than the best point, also where better than the first"


def test_the_scan_begins_where_the_search_windows_are_best() -> None:
    """The first point of the descent is the best that was scanned, and never worse than the critical-pair factors."""
    valley, log = Valley(optimum=(1.0, 3.0, 4.5, 4.5), start_tokens=0), TrialLog(None, GRADIENT)
    descending(valley, log, settings=GradientRecipe(start="scan"))
    scanned = [trial for trial in log.made if trial.kind == "search"]
    first = next(trial for trial in log.made if trial.kind == "gradient")
    best = min(scanned, key=lambda trial: trial.loss_nats)
    assert 5 < len(scanned) <= 21
    np.testing.assert_allclose(first.lambdas, best.lambdas, rtol=0.005)
    assert first.attention_factor == pytest.approx(best.attention_factor)
    assert best.loss_nats < valley.loss(CRITICAL, valley.optimum)


@pytest.mark.parametrize("share", [0.7, 1.0, 1.3, 1.6])
def test_the_scan_finds_the_best_attention_factor_of_four(share: float) -> None:
    """Shares of the excess of LongRoPE's factor, sqrt(1 + ln 4 / ln 64), over 1; the descent begins at the best."""
    excess = math.sqrt(1 + math.log(4) / math.log(64)) - 1
    valley, log = Valley(attention=1 + share * excess, start_tokens=0), TrialLog(None, GRADIENT)
    descending(valley, log, settings=GradientRecipe(start="scan", steps=1))
    scanned = {round((trial.attention_factor - 1) / excess, 9) for trial in log.made if trial.kind == "search"}
    first = next(trial for trial in log.made if trial.kind == "gradient")
    assert scanned == {0.7, 1.0, 1.3, 1.6}
    assert first.attention_factor == pytest.approx(valley.attention, rel=1e-12)


@pytest.mark.parametrize(("gain", "kept"), [(0.5, 0), (2.0, 16)], ids=["too-little", "enough"])
def test_descent_takes_start_tokens_only_for_a_worthwhile_gain(gain: float, kept: int) -> None:
    @dataclass
    class Sloping(Valley):
        def loss(self, factors: RescaleFactors, optimum: tuple[float, ...]) -> float:
            return 2.0 - gain * WORTHWHILE * (factors.start_tokens == 16)

    assert descending(Sloping()).start_tokens == kept


def test_start_tokens_stay_below_the_target_window() -> None:
    short = [baseline_factors(SPEC, name, 65).factor_sets[0] for name in ("pi", "ntk", "yarn", "critical")]
    valley = Valley(start_tokens=256)
    descend(
        valley, SPEC, short, QUICK_DESCENT, max_start_tokens=short[0].target_window - 1, log=TrialLog(None, GRADIENT)
    )
    tried = {factors.start_tokens for kind, factors in valley.calls}
    assert tried <= set(START_TOKENS)
    assert (min(tried), max(tried)) == (0, 64)


@BOTH
def test_validation_decides_and_not_the_search_loss(search: Search, method: str) -> None:
    """The descent goes to one optimum, the held-out windows prefer another: the result is what validates best."""
    valley = Valley(validation_optimum=(1.0, 1.2, 1.5, 2.0), start_tokens=0)
    found = search(valley)
    tried = [valley.loss(factors, valley.validation_optimum) for kind, factors in valley.calls if kind == "validation"]
    assert valley.loss(found, valley.validation_optimum) == min(tried)
    assert min(tried) < max(tried[3:])
