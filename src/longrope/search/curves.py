"""The scan with which the gradient search begins, of curves like YaRN's ramp and the critical-pair rule."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from longrope.rope import RescaleFactors, RopeSpec, critical_lambdas, extension_ratio, own_yarn_lambdas
from longrope.search.score import Losses, TrialLog

SCANNED_FREE, SCANNED_ENDS = (0.0, 0.35, 0.7), (1.0, 1.5, 2.0)  # every pair of them
SCANNED_STEPS = (  # then one after the other, added where the scan stands
    ("critical pair", (-0.1, 0.1)),
    ("attention", (-0.3, 0.3, 0.6)),
    ("free pairs", (-0.15, 0.15)),
    ("end", (0.2,)),
)
FLOORS = (1.0, 0.8, 0.6, 0.45)  # the turns within the trained window that the pairs from a floor on do not reach
CAP, CAP_STEPS = 0.8, (-0.15, 0.15)  # exponents of s: the largest lambda before a floor that is scanned


def scan_curves(objective: Losses, spec: RopeSpec, start: RescaleFactors, log: TrialLog) -> RescaleFactors:
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


def scan_floors(objective: Losses, spec: RopeSpec, start: RescaleFactors, log: TrialLog) -> tuple[RescaleFactors, int]:
    """Look whether factors are better with a smaller lambda before the critical pair or one of a few after it.

    Pairs that turn nearly once within the trained window have seen nearly all angles, so their lambda may be below s.
    One cap of lambda is tried before each floor, then two others before the best one.

    Returns:
        The best factors, the given ones included, and the pair from which on lambda is to stay at s or above.
    """
    ratio = extension_ratio(spec, start.target_window)

    def capped(floor: int, cap: float) -> RescaleFactors:
        before = np.arange(spec.num_pairs) < floor
        lambdas = np.where(before, np.minimum(start.array, ratio**cap), start.array)
        return replace(start, lambdas=tuple(lambdas.tolist()))

    def best_of(tried: Sequence[tuple[RescaleFactors, int]]) -> tuple[float, RescaleFactors, int]:
        trials = log.evaluate_many(0, "search", [("floor", factors) for factors, _ in tried], objective.search_loss)
        return min(
            ((trial.loss_nats, *one) for trial, one in zip(trials, tried, strict=True)), key=lambda found: found[0]
        )

    floors = sorted({spec.pair_turning(turns) for turns in FLOORS})
    begun = best_of([(start, spec.critical_pair)])
    first = best_of([(capped(floor, CAP), floor) for floor in floors])
    nearby = best_of([(capped(first[2], CAP + step), first[2]) for step in CAP_STEPS])
    return min(begun, first, nearby, key=lambda found: found[0])[1:]
