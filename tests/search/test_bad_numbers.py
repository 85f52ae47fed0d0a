"""Losses and gradients that are infinite or no numbers never win and never end a search."""

import math
from dataclasses import dataclass
from pathlib import Path

import pico
import pytest
from valleys import BOTH, GRADIENT, OPTIMUM, SPEC, STARTS, Search, Valley, descending

from longrope.data import TokenText
from longrope.errors import ModelError
from longrope.recipe import SearchRecipe
from longrope.rope import RescaleFactors, baseline_factors
from longrope.runs.records import Trial, read_records
from longrope.search import find_factors, search_short_window
from longrope.search.score import Evaluation, TrialLog


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_never_wins(search: Search, method: str, bad: float) -> None:
    """Every validation and search loss beyond a line is bad; a good one exists and is found."""

    @dataclass
    class Cliff(Valley):
        def loss(self, factors: RescaleFactors, optimum: tuple[float, ...]) -> float:
            return bad if factors.lambdas[1] > 1.7 else super().loss(factors, optimum)

    cliff = Cliff(start_tokens=0)
    found = search(cliff)
    assert math.isfinite(cliff.loss(found, OPTIMUM))
    assert found.lambdas[1] <= 1.7


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_search_whose_starts_are_all_bad_is_refused(search: Search, method: str, bad: float) -> None:
    """It compares nothing: the first candidate would win whatever it is."""

    @dataclass
    class Broken(Valley):
        def loss(self, factors: RescaleFactors, optimum: tuple[float, ...]) -> float:
            return bad

        def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
            return Evaluation(bad, 100, 4000, (bad,) * (SPEC.num_pairs + 1))

    broken = Broken()
    with pytest.raises(ModelError, match=r"No loss of .* is finite at 256 tokens .*pi, ntk, yarn"):
        search(broken)
    assert [kind for kind, _ in broken.calls] == ["validation"] * len(broken.calls)
    assert 3 <= len(broken.calls) <= 4


@BOTH
@pytest.mark.parametrize("good", ["pi", "ntk", "yarn"])
def test_one_start_with_a_finite_loss_is_enough(search: Search, method: str, good: str) -> None:
    """All else is NaN, on the search windows as on the held-out ones: the good start is the result."""
    start = next(factors for factors in STARTS if factors.method == good)

    @dataclass
    class OnlyOne(Valley):
        def loss(self, factors: RescaleFactors, optimum: tuple[float, ...]) -> float:
            same = (factors.lambdas, factors.attention_factor) == (start.lambdas, start.attention_factor)
            return 3.0 if same and factors.start_tokens == 0 else math.nan

    assert search(OnlyOne()).lambdas == start.lambdas


@pytest.mark.parametrize("method", ["gradient", "evolution", "cma"])
def test_a_model_whose_weights_became_nan_is_not_searched(method: str, text: TokenText) -> None:
    """Such as by a training: what was loaded was finite."""
    model, trials = pico.make_model("llama"), list[Trial]()
    model.network.lm_head.weight.fill_(math.nan)
    with pytest.raises(ModelError, match=r"No loss of 'pico-llama' is finite at 128 tokens"):
        find_factors(model, text, 128, settings=SearchRecipe(method=method), on_trial=trials.append)
    assert {(trial.step, trial.kind) for trial in trials} == {(0, "validation")}
    longest, trials[:] = baseline_factors(model.spec, "yarn", 128).factor_sets[0], []
    with pytest.raises(ModelError, match=r"No loss of 'pico-llama' is finite at 64 tokens.*share-0, share-0\.25"):
        search_short_window(model, text, 64, longest, on_trial=trials.append)
    assert len(trials) == 5


@pytest.mark.parametrize(("loss", "slope"), [(3.0, math.nan), (math.nan, math.nan), (math.nan, 1e6), (math.inf, 1e6)])
def test_a_step_whose_numbers_are_bad_teaches_nothing(loss: float, slope: float) -> None:
    @dataclass
    class Hiccup(Valley):
        def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
            fine = super().gradient(factors, step)
            return Evaluation(loss, 100, 4000, (slope,) * (SPEC.num_pairs + 1)) if step == 2 else fine

    hiccup = Hiccup()
    found = descending(hiccup)
    steps = [factors for kind, factors in hiccup.calls if kind == "gradient"]
    assert steps[3] == steps[2]
    assert steps[4] != steps[3]
    assert all(math.isfinite(x) for x in found.lambdas)


def test_bad_losses_are_written_as_infinite(tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "trials.jsonl", GRADIENT)
    for bad in (math.nan, -math.inf, math.inf):
        log.evaluate(0, "search", "pi", STARTS[0], lambda bad=bad: Evaluation(bad, 1, 1))  # type: ignore[misc]
    assert [trial.loss_nats for trial in read_records(tmp_path / "trials.jsonl", Trial)] == [math.inf] * 3
