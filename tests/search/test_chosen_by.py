"""Which method and which search a result names, and that it is never worse than the baselines."""

import hashlib
import json
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from valleys import (
    BOTH,
    CRITICAL,
    EVOLUTION,
    GRADIENT,
    QUICK_DESCENT,
    RATIO,
    SPACE,
    SPEC,
    STARTS,
    Search,
    Valley,
    descending,
    evolving,
)

from longrope.recipe import EvolutionRecipe
from longrope.rope import RescaleFactors, critical_lambdas
from longrope.search.score import Evaluation, TrialLog


@dataclass
class Noise(Valley):
    """An adversary: validation has nothing to do with the search loss, and losses may be NaN or infinite."""

    seed: int = 0
    broken: float = 0.0

    def draw(self, kind: str, factors: RescaleFactors) -> float:
        """A number that depends on all of the factors and on nothing else."""
        asked = [self.seed, kind, factors.lambdas, factors.start_tokens, factors.attention_factor]
        digest = hashlib.sha256(json.dumps(asked).encode()).digest()
        rng = np.random.default_rng(list(digest))
        if rng.random() < self.broken:
            return float(rng.choice([math.nan, math.inf, -math.inf]))
        return float(rng.normal(3))

    def search_loss(self, factors: RescaleFactors) -> Evaluation:
        self.called("search", factors)
        return Evaluation(self.draw("search", factors), 100, 1000)

    def validation_loss(self, factors: RescaleFactors) -> Evaluation:
        self.called("validation", factors)
        return Evaluation(self.draw("validation", factors), 50, 500)

    def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
        self.called("gradient", factors)
        slopes = [self.draw(f"slope {i}", factors) - 3 for i in range(SPEC.num_pairs + 1)]
        return Evaluation(self.draw("search", factors), 100, 4000, tuple(slopes))


# Where factors come from, and who chose them


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.method)
@BOTH
def test_a_baseline_that_no_candidate_beats_keeps_its_name(search: Search, method: str, start: RescaleFactors) -> None:
    """It is the baseline to the last digit, and tells which search chose it."""
    log = TrialLog(None, method)
    found = search(Valley(optimum=start.lambdas, attention=start.attention_factor, start_tokens=0), log)
    assert found == replace(start, chosen_by=method)
    assert found.fingerprint == start.fingerprint
    assert {trial.method for trial in log.made} == {method}, "trials name their search"


def test_the_critical_pair_rule_keeps_its_name_also_where_a_scan_ends_there() -> None:
    valley = Valley(optimum=CRITICAL.lambdas, attention=CRITICAL.attention_factor, start_tokens=0)
    for start in ("critical", "scan", "yarn"):
        found = descending(valley, settings=replace(QUICK_DESCENT, start=start))
        assert found == replace(CRITICAL, chosen_by=GRADIENT)


def test_a_scanned_start_that_the_descent_does_not_beat_comes_from_the_scan() -> None:
    """One of the grid, by its definition: the critical-pair rule with fewer free pairs and a longer end."""
    pair = SPEC.critical_pair
    point = tuple(critical_lambdas(SPEC.num_pairs, pair, RATIO * 1.5, pair * 0.35).tolist())
    log = TrialLog(None, GRADIENT)
    valley = Valley(optimum=point, attention=CRITICAL.attention_factor, start_tokens=0)
    found = descending(valley, log, settings=replace(QUICK_DESCENT, start="scan"))
    assert (found.lambdas, found.attention_factor) == (point, CRITICAL.attention_factor)
    assert (log.best_validated.origin, found.method, found.chosen_by) == ("scan", "scan", GRADIENT)


@pytest.mark.parametrize(
    ("name", "attention", "method"),
    [("ntk", 1.0, EVOLUTION), ("yarn", 1.1, EVOLUTION), ("yarn", STARTS[2].attention_factor, "yarn")],
    ids=["rounded", "another-attention-factor", "the-same"],
)
def test_a_seed_of_the_evolution_is_a_baseline_only_to_the_last_digit(name: str, attention: float, method: str) -> None:
    """A rounded one, or one with another attention factor, is the evolution's own; its trial tells where it began."""
    start = next(start for start in STARTS if start.method == name)
    seed, log = SPACE.place(start.array, 0, name).lambdas, TrialLog(None, EVOLUTION)
    assert (seed == start.lambdas) == (name == "yarn"), "YaRN's lambdas are whole hundredths here"
    alone = EvolutionRecipe(population=3, parents=1, mutations=1, crossovers=1, generations=1, windows=1)
    valley = Valley(optimum=seed, attention=attention, start_tokens=0)
    found = evolving(valley, log, attention_factor=attention, settings=alone)
    assert (found.lambdas, found.attention_factor) == (seed, attention)
    assert (log.best_validated.origin, found.method, found.chosen_by) == (name, method, EVOLUTION)


@pytest.mark.parametrize("start", [*STARTS, CRITICAL], ids=lambda start: start.method)
def test_start_tokens_leave_a_baseline_its_name(start: RescaleFactors) -> None:
    found = descending(Valley(optimum=start.lambdas, attention=start.attention_factor, start_tokens=16))
    assert found == replace(start, start_tokens=16, chosen_by=GRADIENT)


# Never worse than the closed forms


@BOTH
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), broken=st.sampled_from([0.0, 0.3]))
def test_the_result_is_never_worse_on_validation_than_the_baselines(
    search: Search, method: str, seed: int, broken: float
) -> None:
    """On noise, where nothing that is learnt on the search windows helps on the held-out ones."""
    noise = Noise(seed=seed, broken=broken)
    losses = [noise.draw("validation", factors) for factors in STARTS]
    finite = [loss for loss in losses if math.isfinite(loss)]
    assume(finite)
    assert noise.draw("validation", search(noise)) <= min(finite)


@BOTH
def test_an_objective_that_punishes_every_move_gives_back_the_best_closed_form(search: Search, method: str) -> None:
    """Validation is the opposite of the search: the further the search goes, the worse it gets."""

    @dataclass
    class Opposed(Valley):
        def validation_loss(self, factors: RescaleFactors) -> Evaluation:
            near = min(math.dist(np.log(start.lambdas), np.log(factors.lambdas)) for start in STARTS)
            same = [s for s in STARTS if (s.lambdas, s.attention_factor) == (factors.lambdas, factors.attention_factor)]
            rank = STARTS.index(same[0]) if same and factors.start_tokens == 0 else 10
            return Evaluation(3 - self.loss(factors, self.optimum) / 100 + near + rank, 50, 500)

    found = search(Opposed())
    assert (found.lambdas, found.attention_factor) == (STARTS[0].lambdas, STARTS[0].attention_factor)
    assert (found.start_tokens, found.method, found.chosen_by) == (0, "pi", method)
