"""The paper's evolutionary search over lambdas and start tokens (LongRoPE, arXiv 2402.13753, algorithm 1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from longrope.recipe import EvolutionRecipe
from longrope.rope import RescaleFactors
from longrope.search.choice import Choose, choose_by_loss
from longrope.search.score import Losses, TrialLog
from longrope.search.space import Candidate, FactorSpace

ATTEMPTS_FOR_A_NEW_ONE = 8


@dataclass
class _Scores:
    """The losses of the candidates seen so far, each evaluated once."""

    objective: Losses
    template: RescaleFactors
    log: TrialLog
    losses: dict[tuple[tuple[int, ...], int], float] = field(default_factory=dict)

    def factors(self, candidate: Candidate) -> RescaleFactors:
        return replace(self.template, lambdas=candidate.lambdas, start_tokens=candidate.start_tokens)

    def rank(self, candidates: Sequence[Candidate], generation: int) -> list[Candidate]:
        """The distinct candidates, best first."""
        distinct = {candidate.key: candidate for candidate in candidates}
        new: dict[tuple[tuple[int, ...], int], Candidate] = {}
        for candidate in candidates:
            if candidate.key not in self.losses:
                new.setdefault(candidate.key, candidate)
        asked = [(candidate.origin, self.factors(candidate)) for candidate in new.values()]
        trials = self.log.evaluate_many(generation, "search", asked, self.objective.search_loss)
        self.losses |= {key: trial.loss_nats for key, trial in zip(new, trials, strict=True)}
        return sorted(distinct.values(), key=lambda candidate: self.losses[candidate.key])

    def validate(self, candidate: Candidate, generation: int) -> None:
        self.log.validate(generation, candidate.origin, self.factors(candidate), self.objective)


def evolve(
    objective: Losses,
    space: FactorSpace,
    starts: Sequence[RescaleFactors],
    settings: EvolutionRecipe,
    *,
    attention_factor: float,
    seed: int,
    log: TrialLog,
    choose: Choose = choose_by_loss,
) -> RescaleFactors:
    """Search by mutation and crossover of the best; return the best by the held-out windows.

    Args:
        objective: the score.
        space: the feasible set.
        starts: factors by formula, those of PI, NTK and YaRN in the paper. The population begins with them and
            mutations of them; with their own attention factors they stand for selection, too.
        settings: population, parents, mutations, crossovers, generations (no zeros left: see ``filled``).
        attention_factor: the one of every candidate; the paper does not search it.
        seed: decides every random choice.
        log: where the trials go; a log that has some is resumed.
        choose: the last choice among the validated candidates.

    Raises:
        ModelError: none of the starts has a finite loss.
    """
    rng = np.random.default_rng(seed)
    template = replace(starts[0], attention_factor=attention_factor)
    scores = _Scores(objective, template, log)
    log.validate_starts([(start.method, start) for start in starts], objective)
    seeds = [space.place(start.array, start.start_tokens, start.method) for start in starts]
    extra = max(0, settings.population - len(seeds))
    mutants = [space.mutate(seeds[i % len(seeds)], rng, settings.mutation_probability) for i in range(extra)]
    parents = scores.rank([*seeds, *mutants], 0)[: settings.parents]
    scores.validate(parents[0], 0)
    validated = {parents[0].key}
    for generation in range(1, settings.generations + 1):
        children = _breed(space, parents, settings, rng, known=set(scores.losses))
        parents = scores.rank([*parents, *children], generation)[: settings.parents]
        due = generation % settings.validate_every == 0 or generation == settings.generations
        if due and parents[0].key not in validated:
            validated.add(parents[0].key)
            scores.validate(parents[0], generation)
    return log.choose(choose(log, log.validated, starts), starts)


def _breed(
    space: FactorSpace,
    parents: Sequence[Candidate],
    settings: EvolutionRecipe,
    rng: np.random.Generator,
    known: set[tuple[tuple[int, ...], int]],
) -> list[Candidate]:
    """Mutations and crossovers of the parents that are new; a maker that finds none in eight attempts gives up."""

    def pick() -> Candidate:
        return parents[int(rng.integers(len(parents)))]

    def mutation() -> Candidate:
        return space.mutate(pick(), rng, settings.mutation_probability)

    def crossover() -> Candidate:
        return space.cross(pick(), pick(), rng)

    makers: list[Callable[[], Candidate]] = [mutation] * settings.mutations + [crossover] * settings.crossovers
    children: dict[tuple[tuple[int, ...], int], Candidate] = {}
    for make in makers:
        for _ in range(ATTEMPTS_FOR_A_NEW_ONE):
            child = make()
            if child.key not in known and child.key not in children:
                children[child.key] = child
                break
    return list(children.values())
