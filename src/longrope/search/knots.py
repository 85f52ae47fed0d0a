"""CMA-ES over a few knots: the logarithm of lambda at some of the pairs, linear between them, and the attention factor.

The knots begin at the first pair that turns less than about three times within the trained window, and are densest
around the critical pair. The faster pairs keep the factors of the start: passkeys depend on them, and the loss over
text, which is minimized, does not tell.

CMA-ES (Hansen, arXiv 1604.00772) samples candidates from a normal distribution and fits that to the best of them. It is
that of the package ``cmaes``, with its own numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from longrope.distributed import on_main
from longrope.errors import RecipeError
from longrope.recipe import CmaRecipe
from longrope.rope import RescaleFactors, RopeSpec, extension_ratio, su_attention_factor
from longrope.search.choice import Choose, choose_by_loss
from longrope.search.cost import CAPPED, SCANNED
from longrope.search.curves import scan_curves, scan_floors
from longrope.search.score import Evaluation, Losses, TrialLog

TURNS = tuple(0.75**i for i in (-4, -3, -2, -1, 0, 1, 2, 3, 7))  # within the trained window, of the pairs of knots
POPULATION = 10
VALIDATE_EVERY = 4  # generations
LOOKS = 7  # at the held-out windows with one generation: four formulas, the scanned curve, the mean twice
FIRST_STEP = 0.2  # standard deviation of the first candidates, in units of ``Knots.scale``
Vector = NDArray[np.float64]


class SteppedLosses(Losses, Protocol):
    """What this search is handed: other windows are read at each step."""

    def step_loss(self, factors: RescaleFactors, step: int) -> Evaluation:
        """The loss on the search windows of this step."""


@dataclass(frozen=True)
class Knots:
    """Factors as parameters: increments of log lambda from knot to knot, and the logarithm of the attention factor.

    Attributes:
        start: the factors whose lambdas stay up to the first knot.
        pairs: of the knots, ascending.
        scale: [K] the unit of each parameter.
    """

    start: RescaleFactors
    pairs: tuple[int, ...]
    scale: Vector

    @classmethod
    def place(cls, spec: RopeSpec, start: RescaleFactors) -> "Knots":
        """Place the knots by how often the pairs turn; the last pair has one, too.

        The unit of an increment is the mean increment of ln s over all of them; that of the attention factor is a third
        of what LongRoPE's formula adds.
        """
        pairs = sorted({min(spec.pair_turning(turns), spec.num_pairs - 1) for turns in TURNS} | {spec.num_pairs - 1})
        ratio = extension_ratio(spec, start.target_window)
        increments = np.full(len(pairs) - 1, math.log(ratio) / max(1, len(pairs) - 1))
        attention = math.log(su_attention_factor(ratio, spec.trained_window)) / 3
        return cls(start, tuple(pairs), np.append(increments, attention))

    @property
    def begin(self) -> Vector:
        """[K] the parameters of the start; what it has between the knots is lost."""
        increments = np.diff(np.log(self.start.array)[list(self.pairs)])
        return np.asarray(np.append(increments, math.log(self.start.attention_factor)) / self.scale, dtype=np.float64)

    def factors(self, parameters: Vector) -> RescaleFactors:
        """The factors of parameters [K]; a negative increment counts as a positive one, so lambda never decreases."""
        *increments, attention = parameters * self.scale
        lambdas, first = self.start.array, self.pairs[0]
        grown = np.interp(np.arange(len(lambdas)), self.pairs, np.cumsum(np.abs([0.0, *increments])))
        lambdas[first:] = np.maximum.accumulate(lambdas[first] * np.exp(grown[first:]))  # rounding must not decrease it
        return replace(self.start, lambdas=tuple(lambdas.tolist()), attention_factor=math.exp(attention))


def search_knots(
    objective: SteppedLosses,
    spec: RopeSpec,
    starts: Sequence[RescaleFactors],
    settings: CmaRecipe,
    *,
    held_out: int,
    seed: int,
    log: TrialLog,
    choose: Choose = choose_by_loss,
) -> RescaleFactors:
    """Search by CMA-ES from the best curve of a scan; return the best by the held-out windows.

    Every generation is scored on other windows, so its candidates are compared with each other alone. What stands for
    selection is the mean of the distribution, every few generations.

    Args:
        objective: the score.
        spec: the model's geometry.
        starts: factors by formula, the critical-pair rule's among them. All of them stand for selection, too.
        settings: the passes over a window, and the windows of a candidate.
        held_out: windows of one evaluation on held-out windows.
        seed: decides every random choice.
        log: where the trials go; a log that has some is resumed.
        choose: the last choice among the validated candidates.

    Raises:
        ModelError: none of the starts has a finite loss.
    """
    known, start = _scan(objective, spec, starts, log)
    knots = Knots.place(spec, replace(start, method=log.method))
    optimizer = load_cma()(mean=knots.begin, sigma=FIRST_STEP, population_size=POPULATION, seed=seed % 2**32)
    each, generation = POPULATION * settings.windows, 0
    log.validate(0, "knots", knots.factors(knots.begin), objective)
    while count_done(log, settings.windows, held_out) + each + held_out <= settings.passes:
        drawn = on_main(lambda: [optimizer.ask() for _ in range(POPULATION)])  # eigenvectors differ between machines
        candidates = [("knots", knots.factors(parameters)) for parameters in drawn]
        work = partial(objective.step_loss, step=generation)
        trials = log.evaluate_many(generation, "search", candidates, work)
        optimizer.tell([(at, trial.loss_nats) for at, trial in zip(drawn, trials, strict=True)])
        generation += 1
        if generation % VALIDATE_EVERY == 0:
            log.validate(generation, "knots", knots.factors(on_main(lambda: optimizer.mean)), objective)
    if generation % VALIDATE_EVERY:
        log.validate(generation, "knots", knots.factors(on_main(lambda: optimizer.mean)), objective)
    return log.choose(choose(log, log.validated, known), known)


def check_passes(settings: CmaRecipe, held_out: int) -> None:
    """Raise RecipeError if the passes are too few for one generation after the scan."""
    needed = (SCANNED + CAPPED + POPULATION) * settings.windows + LOOKS * held_out
    if settings.passes < needed:
        raise RecipeError(
            f"search.cma.passes = {settings.passes}.",
            f"At least {needed} are needed, for a scan and one generation of {POPULATION} candidates.",
            f"Ask for {needed} or more, or for a smaller search.cma.windows.",
        )


def count_done(log: TrialLog, windows: int, held_out: int) -> int:
    """The passes over a window that the trials of a search have taken."""
    return sum(windows if trial.kind == "search" else held_out for trial in log.made)


def load_cma() -> Any:
    """The class of CMA-ES, or RecipeError if its package, an extra, is not installed."""
    try:
        from cmaes import CMA
    except ImportError:
        raise RecipeError(
            "search.method = 'cma', and cmaes is not installed.", "CMA-ES needs it.", "pip install 'longrope[cma]'"
        ) from None
    return CMA


def _scan(
    objective: SteppedLosses, spec: RopeSpec, starts: Sequence[RescaleFactors], log: TrialLog
) -> tuple[list[RescaleFactors], RescaleFactors]:
    """The factors that stand for selection with the best scanned curve among them, and where CMA-ES begins."""
    log.validate_starts([(start.method, start) for start in starts], objective)
    critical = next(start for start in starts if start.method == "critical")
    curve = replace(scan_curves(objective, spec, critical, log), method="scan")
    log.validate(0, "scan", curve, objective)
    return [*starts, curve], scan_floors(objective, spec, curve, log)[0]
