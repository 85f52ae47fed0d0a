"""The scan of base and attention factor, on objectives whose optimum is known, interrupted or not.

The oracles: the optimum itself, the grid written out by hand, counts of calls, and the trials of a whole scan.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longrope.errors import ModelError
from longrope.labels import Source
from longrope.recipe import SearchRecipe
from longrope.rope import RescaleFactors, RopeSpec, baseline_factors
from longrope.runs.records import Trial, read_records
from longrope.search.cost import count_passes
from longrope.search.scan import FINALISTS, Axis, Scan, Scanned
from longrope.search.score import Evaluation, TrialLog

SPEC = RopeSpec(head_dim=64, rotary_dim=64, theta=1e5, trained_window=8192)


TARGET = 65536


BUDGET = count_passes(SearchRecipe(), TARGET)


EXPONENTS = (0.5, 1, 64 / 62, 1.25, 64 / 40, 1.75, 2, 2.5, 3)  # d / (d - 2) and d / 2c with c = 20


LOG = math.log(8)


ATTENTIONS = (1, 1 + 0.05 * LOG, math.sqrt(1 + LOG / math.log(8192)), *(1 + share * LOG for share in (0.1, 0.15, 0.2)))


class InterruptError(Exception):
    """What stands in for a killed process."""


def numbers_of(factors: RescaleFactors) -> tuple[float, float]:
    """The exponent of the base, by the slowest pair, and the attention factor."""
    return math.log(factors.lambdas[-1]) / LOG * 32 / 31, factors.attention_factor


@dataclass
class Bowl:
    """Least at one exponent and one attention factor; on held-out windows at others, where they are given.

    With ``patience`` the next call beyond it raises.
    """

    exponent: float = 1.62
    attention: float = 1.07
    held_out: tuple[float, float] | None = None
    patience: int = 10**9
    calls: list[tuple[str, RescaleFactors]] = field(default_factory=list)

    def at(self, kind: str, factors: RescaleFactors, best: tuple[float, float]) -> Evaluation:
        """The loss in nats, 2 at the best."""
        if len(self.calls) >= self.patience:
            raise InterruptError
        self.calls.append((kind, factors))
        exponent, attention = numbers_of(factors)
        return Evaluation(2 + (exponent - best[0]) ** 2 + 5 * math.log(attention / best[1]) ** 2, 100, 1000)

    def search_loss(self, factors: RescaleFactors) -> Evaluation:
        return self.at("search", factors, (self.exponent, self.attention))

    def validation_loss(self, factors: RescaleFactors) -> Evaluation:
        return self.at("validation", factors, self.held_out or (self.exponent, self.attention))

    def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
        raise AssertionError("a scan takes no gradient")


def scanning(
    bowl: Any, log: TrialLog | None = None, *, budget: int = BUDGET, windows: int = 2, held_out: int = 2
) -> Scanned:
    """Scan for the geometry above."""
    return Scan.begin(SPEC, TARGET).search(bowl, log or TrialLog(None, "ntk-scan"), budget, windows, held_out)


def points_of(calls: Sequence[tuple[str, RescaleFactors]], kind: str) -> list[tuple[float, float]]:
    """The two numbers of each call of one kind."""
    return [numbers_of(factors) for called, factors in calls if called == kind]


def nearest(point: tuple[float, float]) -> tuple[float, float]:
    """The point of the grid that is nearest."""
    return min(product(EXPONENTS, ATTENTIONS), key=lambda other: math.dist(point, other))


def test_the_grid_is_all_pairs_of_the_two_lists_and_each_is_scored_once() -> None:
    scanning(bowl := Bowl(), budget=0)
    points = [(round(e, 9), round(m, 9)) for e, m in points_of(bowl.calls, "search")]
    assert sorted(points) == sorted((round(e, 9), round(m, 9)) for e, m in product(EXPONENTS, ATTENTIONS))
    for _, factors in bowl.calls:
        exponent, _ = numbers_of(factors)
        plain = 1e5 ** -(np.arange(32) / 32)
        rebased = (1e5 * 8**exponent) ** -(np.arange(32) / 32)
        np.testing.assert_allclose(plain / factors.array, rebased, rtol=1e-9)


@pytest.mark.parametrize(
    ("optimum", "budget", "off"),
    [
        *(((1.62, 1.07), BUDGET, 0.05), ((2.3, 1.3), BUDGET, 0.05), ((0.7, 1.18), BUDGET, 0.05)),
        *(((1.62, 1.07), 600, 0.01), ((1.1, 1.4), 600, 0.01)),
    ],
)
def test_a_scan_finds_a_known_optimum(optimum: tuple[float, float], budget: int, off: float) -> None:
    """With the passes of the gradient search closer than half a step of the grid, with more of them closer."""
    found = scanning(Bowl(*optimum), budget=budget)
    assert numbers_of(found.factors) == pytest.approx(optimum, abs=off)
    assert found.exponent == pytest.approx(numbers_of(found.factors)[0])
    assert found.theta == pytest.approx(1e5 * 8**found.exponent)
    assert found.edges == ()
    assert (found.factors.method, found.factors.chosen_by) == ("ntk-scan", "ntk-scan")
    assert (found.factors.target_window, found.factors.start_tokens) == (TARGET, 0)
    assert "unfinished" not in str(found)


def test_lambdas_beyond_s_are_factors_like_others() -> None:
    found = scanning(Bowl(2.8, 1.1)).factors
    assert max(found.lambdas) > 8
    assert found.lambdas[0] == 1
    assert list(found.lambdas) == sorted(found.lambdas)
    assert not found.relaxed


# Chosen by held-out windows


def test_held_out_windows_choose_among_the_best_of_the_search_windows() -> None:
    bowl = Bowl(held_out=(1.7, 1.09))
    found = scanning(bowl)
    validated = [factors for kind, factors in bowl.calls if kind == "validation"]
    assert len(validated) == 2 + FINALISTS
    scored = sorted((f for k, f in bowl.calls if k == "search"), key=lambda f: bowl.search_loss(f).loss_nats)
    cells: dict[tuple[float, float], RescaleFactors] = {}
    for factors in scored:
        cells.setdefault(nearest(numbers_of(factors)), factors)
    assert [f.fingerprint for f in validated[2:]] == [f.fingerprint for f in list(cells.values())[:FINALISTS]]
    best = min(validated, key=lambda f: bowl.validation_loss(f).loss_nats)
    assert found.factors.lambdas == best.lambdas
    assert found.factors.attention_factor == best.attention_factor
    assert best.fingerprint != scored[0].fingerprint


@pytest.mark.parametrize(("name", "exponent"), [("ntk", 64 / 62), ("ntk-critical", 64 / 40)])
def test_a_formula_that_is_best_keeps_its_name(name: str, exponent: float) -> None:
    """Exactly its factors, whatever the search windows say; the label says who chose them."""
    found = scanning(Bowl(2.5, 1.2, held_out=(exponent, 1.0))).factors
    formula = baseline_factors(SPEC, name, TARGET).factor_sets[0]
    assert found.fingerprint == formula.fingerprint
    assert found.source == Source(name, "ntk-scan")
    assert found.source.label.endswith("(chosen by the scan of base and attention factor)")
    assert Source("ntk-scan", "ntk-scan").label == "NTK, scanned base and attention factor"


def test_a_formula_that_is_best_on_the_search_windows_is_validated_once() -> None:
    scanning(bowl := Bowl(64 / 40, 1.0))
    validated = [factors.fingerprint for kind, factors in bowl.calls if kind == "validation"]
    assert len(validated) == len(set(validated)) == 2 + FINALISTS


# The edge of the grid


@pytest.mark.parametrize(
    ("optimum", "name"),
    [((3.5, 1.15), "exponent"), ((0.35, 1.15), "exponent"), ((1.6, 0.95), "factor"), ((1.6, 1.45), "factor")],
)
def test_the_grid_is_extended_where_the_best_lies_on_its_edge(optimum: tuple[float, float], name: str) -> None:
    """So a best a little beyond it is found; nothing is extended without the passes for it, and then it is said."""
    found = scanning(Bowl(*optimum), budget=400)
    assert numbers_of(found.factors) == pytest.approx(optimum, abs=0.02)
    assert found.edges == ()
    stopped = scanning(Bowl(*optimum), budget=0)
    (edge,) = stopped.edges
    assert name in edge
    assert str(stopped).endswith(f"unfinished: the best {edge} lies on the edge of the grid")
    assert json.loads(stopped.dump())["edges"] == [edge]


@pytest.mark.parametrize(
    ("optimum", "last"),
    [((9.0, 1.15), (4.0, None)), ((0.0, 1.15), (0.25, None)), ((1.6, 3.0), (None, 1 + 0.25 * LOG))],
)
def test_a_best_far_beyond_is_reported_as_unfinished(
    optimum: tuple[float, float], last: tuple[float | None, float | None]
) -> None:
    """The grid is extended once on each side, and never again."""
    found = scanning(bowl := Bowl(*optimum), budget=1000)
    for i, value in enumerate(last):
        if value is not None:
            assert numbers_of(found.factors)[i] == pytest.approx(value)
            points = [point[i] for point in points_of(bowl.calls, "search")]
            assert (max(points) if optimum[i] > 2 else min(points)) == pytest.approx(value)
    assert found.edges == (("exponent of the base",) if last[0] else ("attention factor",))


def test_two_edges_are_both_named() -> None:
    line = str(scanning(Bowl(9.0, 3.0)))
    assert line.endswith("the best exponent of the base and the attention factor lies on the edge of the grid")


def test_an_axis_adds_midpoints_and_at_its_ends_one_value_once() -> None:
    axis = Axis("x", [1.0, 2.0, 4.0], {"below": 0.5, "above": 8.0})
    axis.refine(2.0)
    assert axis.values == [1.0, 1.5, 2.0, 3.0, 4.0]
    axis.refine(4.0)
    assert axis.values == [1.0, 1.5, 2.0, 3.0, 3.5, 4.0, 8.0]
    axis.refine(8.0)
    assert axis.values == [1.0, 1.5, 2.0, 3.0, 3.5, 4.0, 6.0, 8.0]
    assert axis.near(8.0) == [6.0, 8.0]
    assert axis.near(1.5) == [1.0, 1.5, 2.0]
    assert [axis.is_edge(x) for x in (1.0, 1.5, 8.0)] == [True, False, True]


# The budget, interruptions, bad numbers


@pytest.mark.parametrize("budget", [0, 120, 150, BUDGET, 300])
@pytest.mark.parametrize(("windows", "held_out"), [(1, 1), (2, 2), (2, 5)])
def test_no_more_passes_are_taken_than_the_budget_allows(budget: int, windows: int, held_out: int) -> None:
    """Unless the grid itself takes more, and less only after five rounds; what is told is what was taken."""
    bowl, log = Bowl(), TrialLog(None, "ntk-scan")
    found = scanning(bowl, log, budget=budget, windows=windows, held_out=held_out)
    kinds = [kind for kind, _ in bowl.calls]
    passes = windows * kinds.count("search") + held_out * kinds.count("validation")
    assert found.passes == passes
    assert found.budget == budget
    grid = 54 * windows + 6 * held_out
    assert grid <= passes <= max(grid, budget)
    rounds = max((trial.step for trial in log.made), default=0)
    assert rounds == 5 or passes > budget - 8 * windows


@pytest.mark.parametrize(("budget", "windows"), [(0, 1), (167, 1), (168, 2), (BUDGET, 2), (245, 2), (246, 3), (900, 3)])
def test_the_windows_of_a_point_are_those_that_the_budget_pays_for(budget: int, windows: int) -> None:
    assert Scan.begin(SPEC, TARGET).windows_for(budget, 2, most=3) == windows


@pytest.mark.parametrize("calls", [0, 1, 2, 30, 56, 60, 70, 83])
def test_an_interrupted_scan_ends_as_a_whole_one(calls: int, tmp_path: Path) -> None:
    """And evaluates nothing again."""
    whole = scanning(Bowl(), TrialLog(tmp_path / "whole", "ntk-scan"))
    path = tmp_path / "broken"
    with pytest.raises(InterruptError):
        scanning(Bowl(patience=calls), TrialLog(path, "ntk-scan"))
    again = scanning(bowl := Bowl(), TrialLog(path, "ntk-scan"))
    assert again == whole
    trials, expected = (read_records(tmp_path / name, Trial) for name in ("broken", "whole"))
    assert [replace(t, seconds=0.0) for t in trials] == [replace(t, seconds=0.0) for t in expected]
    assert len(bowl.calls) == len(expected) - calls


def test_other_trials_in_the_log_are_left_alone(tmp_path: Path) -> None:
    """Searches of one run share a file."""
    path = tmp_path / "trials"
    other = TrialLog(path, "longrope-gradient").validate(
        0, "pi", baseline_factors(SPEC, "pi", TARGET).factor_sets[0], Bowl()
    )
    scanning(Bowl(), TrialLog(path, "ntk-scan"))
    assert read_records(path, Trial)[0] == other
    assert {t.method for t in read_records(path, Trial)[1:]} == {"ntk-scan"}


@dataclass
class Broken(Bowl):
    """No loss is finite, or none but those of the formulas on held-out windows."""

    formulas_too: bool = True

    def search_loss(self, factors: RescaleFactors) -> Evaluation:
        return replace(super().search_loss(factors), loss_nats=math.nan)

    def validation_loss(self, factors: RescaleFactors) -> Evaluation:
        finite = not self.formulas_too and factors.method in ("ntk", "ntk-critical")
        return super().validation_loss(factors) if finite else Evaluation(math.inf, 1, 1)


def test_without_a_finite_loss_there_is_nothing_to_scan() -> None:
    with pytest.raises(ModelError, match="finite"):
        scanning(bowl := Broken())
    assert len(bowl.calls) == 0
    found = scanning(Broken(formulas_too=False)).factors
    assert (found.method, found.chosen_by) == ("ntk-critical", "ntk-scan")  # nearer to 1.62
