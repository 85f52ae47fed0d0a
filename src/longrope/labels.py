"""What methods, searches and metrics are called, and how a metric's values are written.

Tables in the terminal, the report and the model card ask here and nowhere else; the rows stand in the registry. A name
without a row is its own label, and its values are plain numbers.
"""

import math
import re
from typing import NamedTuple

from longrope.metrics import METRICS
from longrope.registry import METHODS
from longrope.rows import Metric

LABELS = {"training": "training loss"}  # shown beside methods
SEARCHES = {
    "longrope-gradient": "the gradient search",
    "longrope-evolution": "the evolutionary search",
    "longrope-cma": "CMA-ES over knots",
    "longrope-recovered": "the short-context search",
    "longrope2": "LongRoPE2's search",
    "ntk-scan": "the scan of base and attention factor",
}
NOT_REACHED = "not reached"  # the cost of a loss that a baseline stays above
JOINT = "+"  # between the methods of composed factors
DEPTH = re.compile(r"(.+)-depth-([\d.]+)")  # passkey-depth-0.05
LAST = re.compile(r".+-last-\d+")  # perplexity-last-256


class Source(NamedTuple):
    """Where factors come from, and which search chose them.

    Attributes:
        method: of the factors; or the name that a score has instead, for example ``longrope-tuned``.
        chosen_by: the search that selected the factors; empty for a formula that nobody searched.
        factors_method: the method of the factors where ``method`` is another name.
    """

    method: str
    chosen_by: str = ""
    factors_method: str = ""

    @property
    def known_as(self) -> str:
        """The name given instead of the factors' method, or else the search that chose them, or else their method.

        With the factors' fingerprint it distinguishes two records, also one that was written without ``chosen_by``.
        """
        return self.method if self.factors_method else self.chosen_by or self.method

    @property
    def label(self) -> str:
        """In words, for example ``YaRN (chosen by the gradient search)``; what a search found itself has its label."""
        origin = self.factors_method or self.method
        chosen = f"chosen by {SEARCHES.get(self.chosen_by, self.chosen_by)}"
        notes = [chosen] if self.chosen_by not in ("", origin) else []
        if self.factors_method:
            notes = [f"factors: {label_of(origin)}", *notes]
        return f"{label_of(self.method)} ({', '.join(notes)})" if notes else label_of(self.method)


def label_of(method: str) -> str:
    """What a method is called in words; one that is not ours keeps its name."""
    return f" {JOINT} ".join(_label_of_part(part.strip()) for part in method.split(JOINT))


def _label_of_part(method: str) -> str:
    return METHODS[method].label if method in METHODS else LABELS.get(method, method)


def join_methods(first: str, second: str) -> str:
    """The method of composed factors: each of theirs once, in order, those that change nothing left out."""
    parts = dict.fromkeys(part for part in (*first.split(JOINT), *second.split(JOINT)) if part != "none")
    return JOINT.join(parts) or "none"


def metric_row(metric: str) -> Metric:
    """The row with the longest name that a metric has or begins with, in whole words; one without a row gets defaults.

    So a part of a metric has the row of the whole.
    """
    named = {row.recorded_as: row for row in METRICS.values()}
    found = [n for n in named if metric == n or metric.startswith(n if n[-1] in "-:" else f"{n}-")]
    return named[max(found, key=len)] if found else Metric(metric, metric)


def metric_label(metric: str) -> str:
    """What a metric is called in words; one without a label keeps its name."""
    task, depth = split_depth(metric)
    if depth:
        return f"{metric_label(task)}, depth {depth}"
    row = metric_row(metric)
    if row.recorded_as == metric:
        return row.label
    return row.label.replace("{}", _rest_in_words(metric, row)) if "{}" in row.label else metric


def _rest_in_words(metric: str, row: Metric) -> str:
    """What follows the row's name: a method's label, a count with commas, or as it stands."""
    rest = metric.removeprefix(row.recorded_as)
    return label_of(rest) if compared_with(metric) else f"{int(rest):,}" if rest.isdecimal() else rest


def split_depth(metric: str) -> tuple[str, str]:
    """The whole of a metric and the depth that it is about, which is empty for the whole itself."""
    found = DEPTH.fullmatch(metric)
    return (found[1], found[2]) if found else (metric, "")


def at_depth(metric: str, depth: float) -> str:
    """The part of a metric that is about one depth: what ``split_depth`` takes apart."""
    return f"{metric}-depth-{depth:.2f}"


def is_part(metric: str) -> bool:
    """Whether it came out of the passes of another metric: one depth of it, or the last tokens alone."""
    return bool(DEPTH.fullmatch(metric) or LAST.fullmatch(metric))


def compared_with(metric: str) -> str:
    """The method that a paired comparison is with; empty for a metric that is none."""
    prefixes = [row.recorded_as for row in METRICS.values() if row.recorded_as.endswith("-to-")]
    return next((metric.removeprefix(prefix) for prefix in prefixes if metric.startswith(prefix)), "")


def write_value(metric: str, value: float) -> str:
    """One number of a score."""
    match metric_row(metric).format:
        case "difference":
            return f"{value:+.0%}"
        case "tokens":
            return f"{value:,.0f}"
        case "share":
            return f"{value:.0%}"
        case "benchmark" if -1 <= value <= 2:  # its intervals may leave 0 and 1
            return f"{value:.1%}"
        case _:
            return f"{value:,.0f}" if 1e4 <= value < 1e6 else f"{value:.4g}"


def write_interval(metric: str, value: float, low: float, high: float) -> str:
    """A value with its 95 % interval; the value alone where the interval has no end."""
    if not math.isfinite(high - low) and math.isfinite(value):
        return write_value(metric, value)
    between = " to " if metric_row(metric).format == "difference" else "-"
    return f"{write_value(metric, value)} ({_write_end(metric, low)}{between}{_write_end(metric, high)})"


def _write_end(metric: str, end: float) -> str:
    """One end of an interval; where it says that two differ, it is not written as if they were alike."""
    written, is_difference = write_value(metric, end), metric_row(metric).format == "difference"
    alike = 0.0 if is_difference else 1.0
    if not compared_with(metric) or end == alike or written.lstrip("+-") != write_value(metric, alike).lstrip("+-"):
        return written
    return f"{end:+.1%}" if is_difference else f"{end:.6g}"
