"""Axes of charts: their ranges, round ticks, and where a value stands in pixels."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

LARGEST = 1e100  # of a number that an axis is made for: its square is finite
LOG_TICKS = 7  # of an axis, at most


@dataclass(frozen=True)
class Axis:
    """One direction of a chart: its range, its ticks with their labels, and whether it shows logarithms."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value stands between the pixels of ``low`` and ``high``; beyond them it stands at the edge."""
        low, high, at = (
            math.log(x) if self.log else x for x in (self.low, self.high, min(max(value, self.low), self.high))
        )
        return start + (end - start) * (at - low) / (high - low)


def doubling_axis(values: Iterable[float], label: str, write: Callable[[int], str]) -> Axis:
    """Lengths as logarithms to the base 2, with a tick at each of them.

    Args:
        values: the lengths, whole numbers.
        label: of the axis.
        write: a length as the text of its tick.
    """
    known = sorted(set(values))
    low, high = (known[0], known[-1]) if known[0] < known[-1] else (known[0] / 2, known[-1] * 2)
    return Axis(label, low, high, tuple((value, write(int(value))) for value in known), log=True)


def share_axis(label: str) -> Axis:
    """Shares from 0 to 1 in percent."""
    return Axis(label, 0.0, 1.0, tuple((i / 4, f"{25 * i}%") for i in range(5)))


def linear_axis(
    values: Iterable[float], label: str, *, count: int = 6, tight: bool = False, whole: bool = False
) -> Axis:
    """Numbers as they are, with ticks at round ones, where the axis begins and ends, too, unless it is ``tight``.

    Of ``whole`` numbers no tick stands between two.
    """
    low, high = _range(values)
    step = _round_step((high - low) / count)
    step = math.ceil(step - 1e-9) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [step * i for i in range(first, last + 1)]
    low, high = (low, high) if tight else (ticks[0], ticks[-1])
    return Axis(label, low, high, tuple((tick, short_number(tick)) for tick in ticks if low <= tick <= high))


def log_axis(values: Iterable[float], label: str) -> Axis:
    """Positive numbers as logarithms, with ticks at round ones; a range within a factor of 2 is unchanged."""
    known = [value for value in values if value >= 1 / LARGEST]
    low, high = _range(known)
    if high < 2 * low:
        return linear_axis(known, label, count=LOG_TICKS)
    low, high = low / 1.04, high * 1.04
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= LOG_TICKS:
            break
    return Axis(label, low, high, tuple((tick, short_number(tick)) for tick in ticks), log=True)


def _range(values: Iterable[float]) -> tuple[float, float]:
    finite = [value for value in values if abs(value) <= LARGEST] or [1.0]
    low, high = min(finite), max(finite)
    return (low, high) if low < high else (low - abs(low or 1) / 2, high + abs(high or 1) / 2)


def _round_step(wanted: float) -> float:
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= wanted * (1 - 1e-9))


def short_number(value: float) -> str:
    """A number on an axis: 0.0001, 2.5, 300, 12k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.0e}"
