"""The evolution spends the numbers of the paper; the oracle counts the calls that an objective has seen."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator
from valleys import (
    EVOLUTION,
    GRADIENT,
    OPTIMUM,
    QUICK_EVOLUTION,
    RATIO,
    SPACE,
    SPEC,
    STARTS,
    TARGET,
    Valley,
    descending,
    evolving,
)

from longrope.recipe import EvolutionRecipe
from longrope.rope import RopeSpec, baseline_factors
from longrope.search.evolve import evolve
from longrope.search.score import TrialLog
from longrope.search.space import START_TOKENS, Candidate, FactorSpace


@dataclass(frozen=True)
class WatchedSpace(FactorSpace):
    """Notes who became a parent, and how many candidates were scored by then."""

    log: TrialLog = field(default_factory=lambda: TrialLog(None, EVOLUTION))
    parents: list[tuple[str, int, Candidate]] = field(default_factory=list)

    def note(self, kind: str, parent: Candidate) -> None:
        """Remember a parent."""
        self.parents.append((kind, sum(trial.kind == "search" for trial in self.log.made), parent))

    def mutate(self, parent: Candidate, rng: Generator, probability: float) -> Candidate:
        assert probability == 0.3
        self.note("mutation", parent)
        return super().mutate(parent, rng, probability)

    def cross(self, first: Candidate, second: Candidate, rng: Generator) -> Candidate:
        self.note("crossover", first)
        self.note("crossover", second)
        return super().cross(first, second, rng)


@pytest.mark.parametrize(
    ("window", "population", "parents", "new", "generations"), [(TARGET, 64, 32, 16, 40), (2**20, 32, 32, 8, 40)]
)
def test_the_paper_numbers_are_the_ones_that_are_spent(
    window: int, population: int, parents: int, new: int, generations: int
) -> None:
    """On 32 pairs, where two proposals are hardly ever the same."""
    spec = RopeSpec(head_dim=64, rotary_dim=64, theta=10_000.0, trained_window=64)
    starts = [baseline_factors(spec, name, TARGET).factor_sets[0] for name in ("pi", "ntk", "yarn")]
    log, valley = TrialLog(None, EVOLUTION), Valley(optimum=tuple(np.linspace(1, 4, 32).tolist()))
    settings = EvolutionRecipe().filled(window)
    assert settings.parents == parents
    evolve(valley, FactorSpace(32, RATIO), starts, settings, attention_factor=1.1, seed=0, log=log)
    searched = [trial for trial in log.made if trial.kind == "search"]
    assert len(searched) == sum(kind == "search" for kind, _ in valley.calls)
    assert population - 2 <= sum(trial.step == 0 for trial in searched) <= population
    assert 0.95 * (population + generations * 2 * new) < len(searched) <= population + generations * 2 * new
    for generation in range(1, generations + 1):
        origins = [trial.origin for trial in searched if trial.step == generation]
        assert origins.count("mutation") <= new
        assert origins.count("crossover") <= new
        assert len(origins) == origins.count("mutation") + origins.count("crossover")
    assert {trial.step for trial in searched} == set(range(generations + 1))


def test_parents_are_the_best_so_far_and_all_of_them_are_used() -> None:
    log = TrialLog(None, EVOLUTION)
    space = WatchedSpace(SPEC.num_pairs, RATIO, log=log)
    evolving(Valley(), log, settings=EvolutionRecipe().filled(TARGET), space=space)
    searched = [trial for trial in log.made if trial.kind == "search"]
    loss_of = {(trial.lambdas, trial.start_tokens): trial.loss_nats for trial in searched}
    ranks = []
    for _, scored, parent in space.parents:
        if scored:  # the others are parents of the first population
            better = sorted(trial.loss_nats for trial in searched[:scored])
            ranks.append(np.searchsorted(better, loss_of[parent.lambdas, parent.start_tokens]))
    assert max(ranks) == 31
    assert np.bincount(ranks, minlength=32).min() > 0
    seeds = {parent.lambdas for _, scored, parent in space.parents if not scored}
    assert seeds == {SPACE.place(start.array, 0, "").lambdas for start in STARTS}


def test_the_best_of_the_last_generation_is_validated() -> None:
    """Generation 4 is due by ``validate_every``, 5 because it is the last: nothing that was found is lost."""
    improved = 0
    for seed in range(8):
        valley, log = Valley(start_tokens=0), TrialLog(None, EVOLUTION)
        found = evolving(valley, log, settings=replace(QUICK_EVOLUTION, generations=5, validate_every=4), seed=seed)
        losses = [(trial.loss_nats, trial.step) for trial in log.made if trial.kind == "search"]
        best, generation = min(losses)
        improved += generation == 5
        assert valley.loss(found, OPTIMUM) == best
        assert (log.made[-1].kind == "validation") == (generation == 5)
    assert improved >= 3


def test_every_proposal_is_feasible_and_start_tokens_vary(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    evolving(Valley(), TrialLog(path, EVOLUTION), settings=EvolutionRecipe().filled(TARGET))
    descending(Valley(), TrialLog(path, GRADIENT))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) > 1000
    for line in lines:
        assert line["lambdas"] == sorted(line["lambdas"])
        assert line["lambdas"][0] >= 1
        assert line["start_tokens"] in {n for n in START_TOKENS if n < TARGET}
        if (line["method"], line["kind"]) == (EVOLUTION, "search"):
            assert line["lambdas"][-1] <= 1.25 * RATIO
            assert all(x == round(x, 2) for x in line["lambdas"])
            assert line["attention_factor"] == 1.1
    searched = [line for line in lines if (line["method"], line["kind"]) == (EVOLUTION, "search")]
    assert len({line["start_tokens"] for line in searched}) >= 10
    assert len({(*line["lambdas"], line["start_tokens"]) for line in searched}) == len(searched)
