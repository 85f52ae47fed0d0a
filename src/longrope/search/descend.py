"""Gradient search: one backward pass gives the slope of the loss along all factors at once.

For lambda and the attention factor enter a model only through cos and sin.
lambda = exp(cumsum(softplus(u))), with a sharp softplus, is at least 1 and non-decreasing whatever u is. Adam moves
over u, which is the increment of log lambda from pair to pair where that is not near 0, and over ln a. From one pair
on, the floor, lambda is kept at s or above. It is the critical pair: from it on no pair has completed a full period
(LongRoPE2, section 3.1), a smaller lambda puts far tokens at angles that the model has not seen, and the loss over text
hardly notices. Where the settings ask for it, the scan may choose a later pair.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.recipe import GradientRecipe
from longrope.rope import RescaleFactors, RopeSpec, extension_ratio
from longrope.runs.records import Trial
from longrope.search.choice import Choose, choose_by_loss
from longrope.search.curves import scan_curves, scan_floors
from longrope.search.score import Objective, TrialLog

SHARPNESS = 50.0  # of softplus: increments of log lambda above a few hundredths move freely, below they come to rest
SMALLEST_INCREMENT = 1e-3  # of log lambda at the start, where softplus still has a slope
START_TOKENS_TRIED = (1, 4, 16, 64, 256)
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam
HALVED, HALVED_SHARE = 3, 0.375  # numbers of start tokens that descend, and their share of all steps
RAISED = 0.05  # of lambda: a descent whose first factors differ by more from its start has no loss of them yet
WORTHWHILE = 0.01  # of the loss: a smaller gain does not pay for start tokens, which no other runtime can carry
Vector = NDArray[np.float64]


@dataclass
class Adam:
    """Adam (arXiv 1412.6980, algorithm 1) over one small vector of parameters."""

    parameters: Vector
    rates: Vector

    def __post_init__(self) -> None:
        """Begin with empty moments."""
        self.first, self.second, self.steps = np.zeros_like(self.parameters), np.zeros_like(self.parameters), 0

    def step(self, gradient: Vector, scale: float = 1.0) -> None:
        """Move once against the gradient, with all rates times ``scale``."""
        self.steps += 1
        self.first = BETA1 * self.first + (1 - BETA1) * gradient
        self.second = BETA2 * self.second + (1 - BETA2) * gradient**2
        mean = self.first / (1 - BETA1**self.steps)
        spread = np.sqrt(self.second / (1 - BETA2**self.steps)) + EPSILON
        self.parameters = self.parameters - scale * self.rates * mean / spread


def descend(
    objective: Objective,
    spec: RopeSpec,
    starts: Sequence[RescaleFactors],
    settings: GradientRecipe,
    *,
    max_start_tokens: int,
    log: TrialLog,
    choose: Choose = choose_by_loss,
) -> RescaleFactors:
    """Search by gradient; return the best by the held-out windows.

    Args:
        objective: the score and its gradient.
        spec: the model's geometry.
        starts: closed-form factors. All of them stand for selection, so the result is never worse than they are on the
            held-out windows.
        settings: steps, rates, and where to begin: at one of ``starts`` by name, or by a ``scan``.
        max_start_tokens: how many start tokens may be tried.
        log: where the trials go; a log that has some is resumed.
        choose: the last choice among the validated candidates.

    Raises:
        ModelError: none of the starts has a finite loss.
    """
    log.validate_starts([(start.method, start) for start in starts], objective)
    by_name = {factors.method: factors for factors in starts}
    if settings.start == "scan":
        by_name["scan"] = replace(scan_curves(objective, spec, by_name["critical"], log), method="scan")
    start, known, floor = by_name[settings.start], list(by_name.values()), spec.critical_pair
    origin = settings.start
    if settings.floor == "scan":
        log.validate(0, origin, start, objective)
        start, floor = scan_floors(objective, spec, start, log)
        origin = "floor"
    bound: dict[str, Any] = {"floor": floor, "ratio": extension_ratio(spec, start.target_window)}
    counts = tuple(n for n in START_TOKENS_TRIED if n <= max_start_tokens)
    if settings.start_tokens == "joint" and counts:
        origin = "start-tokens"
        start, settings = _halve(objective, start, settings, counts, known, log, **bound)
    descend_from(objective, start, settings, log, origin=origin, **bound)
    _try_start_tokens(objective, known, settings.steps, counts, log)
    return log.choose(choose(log, _worthwhile(log.validated), known), known)


def descend_from(
    objective: Objective,
    start: RescaleFactors,
    settings: GradientRecipe,
    log: TrialLog,
    *,
    origin: str,
    floor: int,
    ratio: float,
) -> None:
    """Descend from given factors, with lambda at ``ratio`` or above from the pair ``floor`` on; the log holds the best.

    Every few steps the held-out windows are looked at. Where they got worse, the descent goes back to the best point
    and on from there at half the rate, so a rate that is too high costs steps, not the result.
    """
    template, pairs = replace(start, method=log.method), len(start.lambdas)
    mean_increment = math.log(ratio) / pairs
    rates = settings.learning_rate * np.append(np.full(pairs, mean_increment), settings.attention_rate)
    adam = Adam(np.append(increments_of(start.array, floor, ratio), math.log(start.attention_factor)), rates)
    best, best_loss, caution = adam.parameters, log.validate(0, origin, start, objective).loss_nats, 1.0
    if not np.allclose(_factors_at(best, template, floor, ratio).lambdas, start.lambdas, rtol=RAISED):
        best_loss = math.inf  # that of the start is not the loss of the factors that the descent begins with
    for step in range(settings.steps):
        factors = _factors_at(adam.parameters, template, floor, ratio)
        trial = log.evaluate(step, "gradient", "gradient", factors, partial(objective.gradient, factors, step))
        if trial.gradient:  # a step whose loss is not finite teaches nothing
            by_increment = slope_of_increments(adam.parameters[:-1], trial.gradient[:-1], floor, ratio)
            slope = np.append(by_increment, trial.gradient[-1])
            adam.step(slope, scale=caution * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            factors = _factors_at(adam.parameters, template, floor, ratio)
            loss = log.validate(step + 1, "gradient", factors, objective).loss_nats
            if loss <= best_loss:
                best, best_loss = adam.parameters, loss
            else:
                adam, caution = Adam(best, rates), caution / 2


def _factors_at(parameters: Vector, template: RescaleFactors, floor: int, ratio: float) -> RescaleFactors:
    lambdas = lambdas_of(parameters[:-1], floor, ratio)
    return replace(template, lambdas=tuple(lambdas.tolist()), attention_factor=math.exp(parameters[-1]))


def _halve(
    objective: Objective,
    start: RescaleFactors,
    settings: GradientRecipe,
    counts: Sequence[int],
    known: Sequence[RescaleFactors],
    log: TrialLog,
    *,
    floor: int,
    ratio: float,
) -> tuple[RescaleFactors, GradientRecipe]:
    """Choose the number of start tokens together with the factors, by successive halving (arXiv 1502.07943).

    All numbers are scored on the search windows with the start's factors. The best ones descend some steps each, and
    the best of these by the held-out windows goes on.

    Returns:
        Where it goes on from, and the settings with the steps that are left.
    """
    tried = [replace(start, start_tokens=n) for n in (0, *counts)]
    trials = log.evaluate_many(0, "search", [("start-tokens", one) for one in tried], objective.search_loss)
    ranked = sorted(zip(trials, tried, strict=True), key=lambda pair: pair[0].loss_nats)
    steps = max(1, int(settings.steps * HALVED_SHARE) // HALVED)
    first, short = len(log.made), replace(settings, steps=steps, validate_every=steps)
    for _, arm in ranked[:HALVED]:
        descend_from(objective, arm, short, log, origin="start-tokens", floor=floor, ratio=ratio)
    descended = [trial for trial in log.made[first:] if trial.kind == "validation"]
    best = min(descended, key=lambda trial: trial.loss_nats)
    left = max(1, settings.steps - HALVED * steps)
    return log.choose(best, known), replace(settings, steps=left)


def _try_start_tokens(
    objective: Objective, known: Sequence[RescaleFactors], step: int, counts: Sequence[int], log: TrialLog
) -> None:
    """Validate the best factors so far with other numbers of start tokens."""
    best = log.choose(log.best_validated, known)
    others = [n for n in (0, *counts) if n != best.start_tokens]
    tried = [("start-tokens", replace(best, start_tokens=n)) for n in others]
    log.evaluate_many(step, "validation", tried, objective.validation_loss)


def _worthwhile(validated: Sequence[Trial]) -> list[Trial]:
    """The validated trials, those with start tokens only where their loss is below all others by a worthwhile gain."""
    without = [trial for trial in validated if not trial.start_tokens]
    least = min(trial.loss_nats for trial in without)
    gains = [trial for trial in validated if trial.start_tokens and least - trial.loss_nats > WORTHWHILE * least]
    return [*without, *gains]


def lambdas_of(increments: Vector, floor: int, ratio: float) -> Vector:
    """[P] lambda = exp(cumsum(softplus(u))), softplus(u) = ln(1 + exp(k u)) / k with the sharpness k.

    From the floor on the sum goes on from ln s, if it is below that there.
    """
    logs = np.cumsum(np.logaddexp(0, SHARPNESS * increments)) / SHARPNESS
    logs[floor:] += max(0.0, math.log(ratio) - _before(logs, floor))
    return np.asarray(np.exp(logs), dtype=np.float64)


def increments_of(lambdas: Vector, floor: int, ratio: float) -> Vector:
    """[P] the u of given non-decreasing lambdas, those from the floor on raised to s if they are below.

    Increments of log lambda below 0.001 are raised to it.
    """
    logs = np.maximum.accumulate(np.maximum(np.log(lambdas), 0.0))
    logs[floor:] = np.maximum(logs[floor:], math.log(ratio))
    steps = np.diff(logs, prepend=0.0)
    steps[floor : floor + 1] -= max(0.0, math.log(ratio) - _before(logs, floor))
    sharp = SHARPNESS * np.maximum(steps, SMALLEST_INCREMENT)
    return np.asarray((sharp + np.log(-np.expm1(-sharp))) / SHARPNESS, dtype=np.float64)


def slope_of_increments(increments: Vector, slope_of_lambdas: Sequence[float], floor: int, ratio: float) -> Vector:
    """[P] d loss / d u from d loss / d lambda, by the chain rule: every u moves all later lambdas of its sum."""
    lambdas = lambdas_of(increments, floor, ratio)
    later = np.cumsum((np.asarray(slope_of_lambdas) * lambdas)[::-1])[::-1]
    if _before(np.log(lambdas), floor) < math.log(ratio):
        later[:floor] -= later[floor] if floor < len(later) else 0.0
    return np.asarray(later * np.exp(-np.logaddexp(0, -SHARPNESS * increments)), dtype=np.float64)


def _before(logs: Vector, floor: int) -> float:
    """The logarithm of lambda of the pair before the floor."""
    return float(logs[floor - 1]) if floor else 0.0
