"""Start tokens that are searched together with the factors, in valleys whose best number of them is known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from valleys import GRADIENT, QUICK_DESCENT, TARGET, InterruptError, Valley, descending, without_seconds

from longrope.recipe import GradientRecipe
from longrope.rope import RescaleFactors
from longrope.search.descend import START_TOKENS_TRIED
from longrope.search.score import Evaluation, TrialLog

JOINT = GradientRecipe(steps=16, validate_every=4, start_tokens="joint")


class Bent(Valley):
    """A valley whose best factors are others with start tokens than without."""

    def loss(self, factors: RescaleFactors, optimum: tuple[float, ...]) -> float:
        """Without start tokens the optimum is far from where the descent begins, and worse."""
        moved = optimum if factors.start_tokens else tuple(x * 1.5 for x in optimum)
        return super().loss(factors, moved) + 0.3 * (factors.start_tokens == 0)

    def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
        """By differences of the loss, which is quadratic in the logarithms."""
        self.called("gradient", factors)

        def at(i: int, shift: float) -> float:
            lambdas = tuple(x + shift * (i == j) for j, x in enumerate(factors.lambdas))
            return self.loss(replace(factors, lambdas=lambdas, relaxed=True), self.optimum)

        slope = [(at(i, 1e-5) - at(i, -1e-5)) / 2e-5 for i in range(len(factors.lambdas))]
        return Evaluation(self.loss(factors, self.optimum), 100, 4000, (*slope, 0.0))


def test_the_best_number_descends_from_the_beginning() -> None:
    """It is chosen by the search windows, its descent takes the steps that the others leave, and it wins."""
    log = TrialLog(None, GRADIENT)
    found = descending(Valley(start_tokens=16), log, JOINT)
    assert found.start_tokens == 16
    steps = [trial for trial in log.made if trial.kind == "gradient"]
    assert len(steps) == 16
    assert [trial.start_tokens for trial in steps[6:]] == [16] * 10
    assert len({trial.start_tokens for trial in steps[:6]}) == 3
    tried = [trial.start_tokens for trial in log.made if trial.kind == "search" and trial.origin == "start-tokens"]
    assert tried == [0, *(n for n in START_TOKENS_TRIED if n < TARGET)]


def test_factors_are_fitted_to_their_start_tokens() -> None:
    """Where the two depend on each other, joint is better than trying numbers of start tokens at the end."""
    losses: dict[str, float] = {}
    for how in ("end", "joint"):
        valley = Bent(start_tokens=4)
        found = descending(valley, settings=replace(JOINT, start_tokens=how))
        losses[how] = valley.loss(found, valley.optimum)
    assert losses["joint"] < losses["end"]


def test_no_start_tokens_stay_none_where_they_gain_nothing() -> None:
    found = descending(Valley(start_tokens=0), settings=JOINT)
    assert found.start_tokens == 0


def test_an_interrupted_joint_search_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    whole = TrialLog(tmp_path / "whole", GRADIENT)
    expected = descending(Valley(), whole, JOINT)
    for patience in (3, 35, len(whole.made) - 2):
        path: Any = tmp_path / f"{patience}"
        with pytest.raises(InterruptError):
            descending(Valley(patience=patience), TrialLog(path, GRADIENT), JOINT)
        again = TrialLog(path, GRADIENT)
        assert descending(Valley(), again, JOINT) == expected
        assert without_seconds(again.made) == without_seconds(whole.made)


def test_trying_them_at_the_end_stays_the_default() -> None:
    assert GradientRecipe().start_tokens == "end"
    log = TrialLog(None, GRADIENT)
    descending(Valley(), log, QUICK_DESCENT)
    assert {trial.start_tokens for trial in log.made if trial.kind == "gradient"} == {0}
