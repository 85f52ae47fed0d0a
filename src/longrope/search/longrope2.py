"""LongRoPE2's search, a baseline: evolution over the real critical pair and the factors from it on, by needles.

From the source (arXiv 2502.20082, section 3.2): pairs of long periods are trained too little, from a real critical pair
on that lies before the theoretical one; from it on lambda is at least s, before it an NTK-style curve with an adjusted
base is enough; candidates are scored by needle-driven perplexity, over the answers about needles in long texts alone;
the search is evolutionary.

Not from the source, which was read in summaries alone: the real pair is searched from the first pair with less than ten
turns in the trained window up to the theoretical one; lambda is at most 1.25 s on a grid of 0.01, and mutations and
crossovers are those of the first paper's search; the attention factor is sqrt(1 + ln s / ln L); population and
generations follow from the number of passes, which is that of the gradient search; where a window is too short for
needles its second half is scored.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from longrope.data import TokenText, sketch
from longrope.models import LanguageModel
from longrope.recipe import EvolutionRecipe, SearchRecipe
from longrope.rope import (
    Lambdas,
    RescaleFactors,
    baseline_factors,
    compose,
    counted_from,
    extension_ratio,
    su_attention_factor,
    tuned_spec,
)
from longrope.rope.baselines import REAL_TURNS
from longrope.runs.records import Trial
from longrope.runs.run_dir import RunDir
from longrope.search.checks import check_search
from longrope.search.choice import TailAndNeedles
from longrope.search.cost import count_gradient_passes
from longrope.search.evolve import evolve
from longrope.search.score import Evaluation, TrialLog, WindowObjective, cut_windows
from longrope.search.space import STEPS_PER_UNIT, Candidate, FactorSpace, project_monotone

METHOD = "longrope2"
STARTS = ("critical", "critical-real")
WINDOWS = 2  # with needles, for each candidate
CHILDREN = 8  # of a generation, mutations and crossovers alike
POPULATION_SHARE = 0.25  # of all candidates


@dataclass(frozen=True)
class NeedleObjective:
    """The loss of answers about needles alone, in search windows and in held-out ones.

    Attributes:
        searched, held_out: what reads the windows of each.
    """

    searched: TailAndNeedles
    held_out: TailAndNeedles

    @property
    def by_needles(self) -> bool:
        """Whether all windows are long enough for needles; otherwise their second half is scored."""
        return self.searched.planted is not None and self.held_out.planted is not None

    def search_loss(self, factors: RescaleFactors) -> Evaluation:
        """The loss on the search windows."""
        return self._score(self.searched, factors)

    def validation_loss(self, factors: RescaleFactors) -> Evaluation:
        """The loss on the held-out windows."""
        return self._score(self.held_out, factors)

    def _score(self, windows: TailAndNeedles, factors: RescaleFactors) -> Evaluation:
        found = windows.needle_loss(factors) if self.by_needles else windows.tail_loss(factors)
        return replace(found, parts=())


@dataclass(frozen=True)
class CriticalSpace(FactorSpace):
    """Candidates with lambda >= s from a critical pair on, and the NTK curve lambda_c ** (i / c) before it.

    Attributes:
        critical_pairs: where the critical pair may lie, first and last.
    """

    critical_pairs: tuple[int, int] = (1, 1)
    start_tokens: tuple[int, ...] = field(default=(0,), init=False)

    @cached_property
    def least(self) -> int:
        """s in grid steps, rounded up."""
        return min(self.bounds[1], int(np.ceil(self.ratio * STEPS_PER_UNIT - 1e-9)))

    def critical_pair(self, candidate: Candidate) -> int:
        """The last pair that may be critical and on whose NTK curve all pairs before it lie.

        It need not be the first one with lambda >= s: where the critical pair's is higher, its curve passes s earlier.
        """
        last = min(self.critical_pairs[1], self.num_pairs - 1)
        fitting = (c for c in range(last, -1, -1) if candidate.steps[:c] == self._curve(candidate.steps[c], c))
        return next(fitting)

    def place(self, lambdas: Lambdas, start_tokens: int, origin: str) -> Candidate:
        """The feasible candidate whose critical pair and slow pairs are nearest to those of a vector [P]."""
        steps = np.asarray(lambdas) * STEPS_PER_UNIT
        reached = np.flatnonzero(steps >= self.least - 1)
        return self._made(int(reached[0]) if len(reached) else self.num_pairs, steps, start_tokens, origin)

    def mutate(self, parent: Candidate, rng: Generator, probability: float) -> Candidate:
        """Redraw the critical pair with this probability, and each slow pair's lambda between its neighbours."""
        steps = np.maximum(parent.steps, self.least)
        pair = self._draw_pair(rng) if rng.random() < probability else self.critical_pair(parent)
        redrawn = pair + np.flatnonzero(rng.random(self.num_pairs - pair) < probability)
        self.redraw(steps, redrawn, rng, self.least)
        return self._made(pair, steps.astype(np.float64), 0, "mutation")

    def cross(self, first: Candidate, second: Candidate, rng: Generator) -> Candidate:
        """The critical pair of either parent, and each slow pair's lambda of either."""
        pair = self.critical_pair(first if rng.random() < 0.5 else second)
        mixed = np.where(rng.random(self.num_pairs) < 0.5, first.steps, second.steps)
        return self._made(pair, mixed.astype(np.float64), 0, "crossover")

    def _draw_pair(self, rng: Generator) -> int:
        return int(rng.integers(self.critical_pairs[0], self.critical_pairs[1] + 1))

    def _made(self, pair: int, steps: NDArray[np.float64], start_tokens: int, origin: str) -> Candidate:
        """From a critical pair and the lambdas of the pairs from it on, in grid steps [P]."""
        pair = min(max(pair, self.critical_pairs[0]), self.critical_pairs[1], self.num_pairs - 1)
        slow = np.clip(np.rint(project_monotone(steps[pair:])), self.least, self.bounds[1])
        return Candidate((*self._curve(slow[0], pair), *slow.astype(int).tolist()), start_tokens, origin)

    def _curve(self, step: float, pair: int) -> tuple[int, ...]:
        """The grid steps of the pairs before a critical one, from its own."""
        curve = (step / STEPS_PER_UNIT) ** (np.arange(pair) / max(1, pair)) * STEPS_PER_UNIT
        return tuple(np.rint(curve).astype(int).tolist())


def search_longrope2(
    model: LanguageModel,
    text: TokenText,
    target_tokens: int,
    *,
    run: RunDir | None = None,
    settings: SearchRecipe | None = None,
    seed: int = 0,
    passes: int = 0,
    on_trial: Callable[[Trial], None] = lambda _: None,
    on_message: Callable[[str], None] = lambda _: None,
) -> RescaleFactors:
    """Search the critical pair and the factors of the slow pairs for ``target_tokens`` tokens.

    The arguments are those of ``scan_base``; of the settings only the number of held-out windows counts, and the seed
    decides every random choice, too.

    Returns:
        The best factors by needles in the held-out windows, never worse there than both critical-pair rules.

    Raises:
        FactorsError: the target is not beyond the trained window.
        TextsError: the text is too short.
        ModelError: none of the rules has a finite loss.
    """
    settings, spec = settings or SearchRecipe(), tuned_spec(model.spec, None)
    check_search(model, text, target_tokens, trained_window=spec.trained_window, settings=settings)
    base, ratio = counted_from(model.spec, None), extension_ratio(spec, target_tokens)
    searched, held_out = cut_windows(text, target_tokens, settings.validation_windows, seed)
    searched = searched[:WINDOWS]
    objective = NeedleObjective(
        TailAndNeedles.prepare(model, searched, 0, seed + 1, base),
        TailAndNeedles.prepare(model, held_out, 0, seed, base),
    )
    named = WindowObjective.prepare(model, searched, held_out, len(searched), tuned_with=base)
    log = TrialLog(run.trials if run else None, METHOD, named.model_name, named.fingerprint, on_trial)
    evolution = divide(passes or count_gradient_passes(settings, target_tokens), held_out, searched)
    first = min(spec.pair_turning(REAL_TURNS), spec.critical_pair)
    space = CriticalSpace(spec.num_pairs, ratio, critical_pairs=(first, spec.critical_pair))
    starts = [baseline_factors(spec, name, target_tokens).factor_sets[0] for name in STARTS]
    attention = su_attention_factor(ratio, spec.trained_window)
    found = evolve(objective, space, starts, evolution, attention_factor=attention, seed=seed, log=log)
    steps = np.rint(found.array * STEPS_PER_UNIT).astype(int)
    pair = space.critical_pair(Candidate(tuple(steps.tolist()), 0, ""))
    taken = sum(trial.token_passes for trial in log.made) // target_tokens
    scored = "needles" if objective.by_needles else "the second half of the windows, too short for needles"
    on_message(f"{METHOD}: critical pair {pair} of {first} to {spec.critical_pair}, by {scored}, {taken} window passes")
    read = sketch(np.concatenate([searched, held_out]))
    found = replace(compose(base, found, model.spec), searched=read, table=model.rope_table)
    if run:
        run.write_factors(found, METHOD)
    return found


def divide(passes: int, held_out: NDArray[np.int32], searched: NDArray[np.int32]) -> EvolutionRecipe:
    """An evolution of about so many passes over a window: a quarter of them for the first population."""
    looks = len(STARTS) + 3
    candidates = max(2 * CHILDREN, (passes - looks * len(held_out)) // len(searched))
    population = max(CHILDREN, int(POPULATION_SHARE * candidates))
    generations = max(1, (candidates - population) // CHILDREN)
    return EvolutionRecipe(
        population=population,
        parents=population // 2,
        mutations=CHILDREN // 2,
        crossovers=CHILDREN // 2,
        generations=generations,
        windows=len(searched),
        validate_every=max(1, generations // 2),
    )
