"""Gradient search: one backward pass gives the slope of the loss along all factors at once.

For lambda and the attention factor enter a model only through cos and sin.
lambda = exp(cumsum(softplus(u))), with a sharp softplus, is at least 1 and non-decreasing whatever u is. Adam moves
over u, which is the increment of log lambda from pair to pair where that is not near 0, and over ln a. From the
critical pair on, lambda is kept at s or above: those pairs have never completed a full period (LongRoPE2, section 3.1),
a smaller lambda puts far tokens at angles that the model has not seen, and the loss over text hardly notices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.recipe import GradientRecipe
from longrope.rope import RescaleFactors, RopeSpec, critical_lambdas, extension_ratio, own_yarn_lambdas
from longrope.runs.records import Trial
from longrope.search.choice import Choose, choose_by_loss
from longrope.search.score import Objective, TrialLog

SHARPNESS = 50.0  # of softplus: increments of log lambda above a few hundredths move freely, below they come to rest
SMALLEST_INCREMENT = 1e-3  # of log lambda at the start, where softplus still has a slope
START_TOKENS_TRIED = (1, 4, 16, 64, 256)
SCANNED_FREE, SCANNED_ENDS = (0.0, 0.35, 0.7), (1.0, 1.5, 2.0)  # every pair of them
SCANNED_STEPS = (  # then one after the other, added where the scan stands
    ("critical pair", (-0.1, 0.1)),
    ("attention", (-0.3, 0.3, 0.6)),
    ("free pairs", (-0.15, 0.15)),
    ("end", (0.2,)),
)
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of Adam
HALVED, HALVED_SHARE = 3, 0.375  # numbers of start tokens that descend, and their share of all steps
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
        by_name["scan"] = replace(_scan(objective, spec, by_name["critical"], log), method="scan")
    start, known = by_name[settings.start], list(by_name.values())
    floor: dict[str, Any] = {"critical_pair": spec.critical_pair, "ratio": extension_ratio(spec, start.target_window)}
    origin = settings.start
    counts = tuple(n for n in START_TOKENS_TRIED if n <= max_start_tokens)
    if settings.start_tokens == "joint" and counts:
        origin = "start-tokens"
        start, settings = _halve(objective, start, settings, counts, known, log, **floor)
    descend_from(objective, start, settings, log, origin=origin, **floor)
    _try_start_tokens(objective, known, settings.steps, counts, log)
    return log.choose(choose(log, _worthwhile(log.validated), known), known)


def descend_from(
    objective: Objective,
    start: RescaleFactors,
    settings: GradientRecipe,
    log: TrialLog,
    *,
    origin: str,
    critical_pair: int,
    ratio: float,
) -> None:
    """Descend from given factors, with lambda at ``ratio`` or above from the critical pair on; the log holds the best.

    Every few steps the held-out windows are looked at. Where they got worse, the descent goes back to the best point
    and on from there at half the rate, so a rate that is too high costs steps, not the result.
    """
    template, pairs = replace(start, method=log.method), len(start.lambdas)
    mean_increment = math.log(ratio) / pairs
    rates = settings.learning_rate * np.append(np.full(pairs, mean_increment), settings.attention_rate)
    adam = Adam(np.append(increments_of(start.array, critical_pair, ratio), math.log(start.attention_factor)), rates)
    best, best_loss, caution = adam.parameters, log.validate(0, origin, start, objective).loss_nats, 1.0
    for step in range(settings.steps):
        factors = _factors_at(adam.parameters, template, critical_pair, ratio)
        trial = log.evaluate(step, "gradient", "gradient", factors, partial(objective.gradient, factors, step))
        if trial.gradient:  # a step whose loss is not finite teaches nothing
            by_increment = slope_of_increments(adam.parameters[:-1], trial.gradient[:-1], critical_pair, ratio)
            slope = np.append(by_increment, trial.gradient[-1])
            adam.step(slope, scale=caution * 0.5 * (1 + math.cos(math.pi * step / settings.steps)))
        if (step + 1) % settings.validate_every == 0 or step + 1 == settings.steps:
            factors = _factors_at(adam.parameters, template, critical_pair, ratio)
            loss = log.validate(step + 1, "gradient", factors, objective).loss_nats
            if loss <= best_loss:
                best, best_loss = adam.parameters, loss
            else:
                adam, caution = Adam(best, rates), caution / 2


def _factors_at(parameters: Vector, template: RescaleFactors, critical_pair: int, ratio: float) -> RescaleFactors:
    lambdas = lambdas_of(parameters[:-1], critical_pair, ratio)
    return replace(template, lambdas=tuple(lambdas.tolist()), attention_factor=math.exp(parameters[-1]))


def _scan(objective: Objective, spec: RopeSpec, start: RescaleFactors, log: TrialLog) -> RescaleFactors:
    """Look for a start by the search windows: a coarse grid of curves, then along one axis at a time.

    The curves are YaRN's ramp and the critical-pair rule. The real critical pair differs from the theoretical one
    (LongRoPE2, section 3.1), and so do the number of pairs to leave alone, the slowest pairs' factor and the attention
    factor. A point holds them as shares: of the critical pair, of the theoretical one, of s, and of the excess of
    LongRoPE's attention factor over 1.
    """
    ratio, extra = extension_ratio(spec, start.target_window), start.attention_factor - 1

    def factors_at(point: dict[str, float]) -> RescaleFactors:
        end = max(1.0, ratio * point["end"])
        if "critical pair" in point:
            critical = spec.critical_pair * point["critical pair"]
            lambdas = critical_lambdas(spec.num_pairs, critical, end, critical * max(0.0, point["free pairs"]))
        else:
            lambdas = own_yarn_lambdas(spec, end)
        return replace(start, lambdas=tuple(lambdas.tolist()), attention_factor=1 + extra * point["attention"])

    def best_of(points: Sequence[dict[str, float]]) -> tuple[float, dict[str, float]]:
        candidates = [("scan", factors_at(point)) for point in points]
        losses = [trial.loss_nats for trial in log.evaluate_many(0, "search", candidates, objective.search_loss)]
        return min(zip(losses, points, strict=True), key=lambda result: result[0])

    ends = [{"attention": 1.0, "end": end} for end in SCANNED_ENDS]
    grid = [{**point, "critical pair": 1.0, "free pairs": free} for free in SCANNED_FREE for point in ends]
    loss, point = best_of([*grid, *ends])
    for axis, steps in SCANNED_STEPS:
        if axis in point:
            tried = best_of([{**point, axis: point[axis] + step} for step in steps])
            loss, point = min((loss, point), tried, key=lambda result: result[0])
    return factors_at(point)


def _halve(
    objective: Objective,
    start: RescaleFactors,
    settings: GradientRecipe,
    counts: Sequence[int],
    known: Sequence[RescaleFactors],
    log: TrialLog,
    *,
    critical_pair: int,
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
        descend_from(objective, arm, short, log, origin="start-tokens", critical_pair=critical_pair, ratio=ratio)
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


def lambdas_of(increments: Vector, critical_pair: int, ratio: float) -> Vector:
    """[P] lambda = exp(cumsum(softplus(u))), softplus(u) = ln(1 + exp(k u)) / k with the sharpness k.

    From the critical pair on the sum goes on from ln s, if it is below that there.
    """
    logs = np.cumsum(np.logaddexp(0, SHARPNESS * increments)) / SHARPNESS
    logs[critical_pair:] += max(0.0, math.log(ratio) - _before(logs, critical_pair))
    return np.asarray(np.exp(logs), dtype=np.float64)


def increments_of(lambdas: Vector, critical_pair: int, ratio: float) -> Vector:
    """[P] the u of given non-decreasing lambdas, those from the critical pair on raised to s if they are below.

    Increments of log lambda below 0.001 are raised to it.
    """
    logs = np.log(lambdas)
    logs[critical_pair:] = np.maximum(logs[critical_pair:], math.log(ratio))
    steps = np.diff(logs, prepend=0.0)
    steps[critical_pair : critical_pair + 1] -= max(0.0, math.log(ratio) - _before(logs, critical_pair))
    sharp = SHARPNESS * np.maximum(steps, SMALLEST_INCREMENT)
    return np.asarray((sharp + np.log(-np.expm1(-sharp))) / SHARPNESS, dtype=np.float64)


def slope_of_increments(
    increments: Vector, slope_of_lambdas: Sequence[float], critical_pair: int, ratio: float
) -> Vector:
    """[P] d loss / d u from d loss / d lambda, by the chain rule: every u moves all later lambdas of its sum."""
    lambdas = lambdas_of(increments, critical_pair, ratio)
    later = np.cumsum((np.asarray(slope_of_lambdas) * lambdas)[::-1])[::-1]
    if _before(np.log(lambdas), critical_pair) < math.log(ratio):
        later[:critical_pair] -= later[critical_pair] if critical_pair < len(later) else 0.0
    return np.asarray(later * np.exp(-np.logaddexp(0, -SHARPNESS * increments)), dtype=np.float64)


def _before(logs: Vector, critical_pair: int) -> float:
    """The logarithm of lambda of the pair before the critical one."""
    return float(logs[critical_pair - 1]) if critical_pair else 0.0
