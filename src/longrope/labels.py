"""What methods and metrics are called, how methods look in figures, and how a metric's values are written.

Tables in the terminal, the report and the model card ask here and nowhere else. A name without a row gets defaults: its
own name as the label, plain numbers, and a colour that the figures choose.
"""

import math
import re
from dataclasses import dataclass

DEPTH = re.compile(r"(.+)-depth-([\d.]+)")  # passkey-depth-0.05
LAST = re.compile(r".+-last-\d+")  # perplexity-last-256
RATIO, DIFFERENCE = "ratio-to-", "difference-to-"  # paired comparisons with the method that follows


@dataclass(frozen=True)
class MethodRow:
    """One method.

    Attributes:
        label: in words; empty: its name.
        colours: CSS colours for a light and a dark background; None: the figures choose.
        dash: an SVG dash pattern, empty for a solid line.
        marker: a shape of ``report.charts.svg``. Dash and marker tell methods apart without colour.
    """

    label: str = ""
    colours: tuple[str, str] | None = None
    dash: str = ""
    marker: str = "circle"


@dataclass(frozen=True)
class MetricRow:
    """One metric, or all whose names begin with the same words.

    Attributes:
        label: in words; empty: its name. ``{}`` is what follows the row's name.
        format: of a value: ``number``, ``share`` (percent), ``benchmark`` (percent with a decimal, unless it is outside
            of [-1, 2]) or ``difference`` (signed percent).
        section: of the report.
        log: whether a figure shows logarithms.
        hub: its name in a model card's metadata; empty: its own.
    """

    label: str = ""
    format: str = "number"
    section: str = "other"
    log: bool = False
    hub: str = ""


METHODS = {
    "none": MethodRow("original model", ("#7a808a", "#9aa1ab"), "1.5 4", "cross"),
    "pi": MethodRow("PI", ("#b0746a", "#d6a297"), "8 4", "down"),
    "ntk": MethodRow("NTK", ("#c98500", "#f0b440"), "6 3", "square"),
    "dynamic-ntk": MethodRow("dynamic NTK", ("#a8480f", "#e8864c"), "8 3 1.5 3", "plus"),
    "yarn": MethodRow("YaRN", ("#2b6cd4", "#74a8ff"), "5 3", "up"),
    "critical": MethodRow("critical-pair rule", ("#0b7285", "#4fc3d6"), "2 3", "square"),
    "longrope-gradient": MethodRow("LongRoPE, gradient", ("#12805c", "#3ccb98")),
    "longrope-evolution": MethodRow("LongRoPE, evolution", ("#7b2d8b", "#cf8be0"), "10 5", "diamond"),
    "longrope-tuned": MethodRow("LongRoPE, tuned", ("#c2255c", "#f783ac")),
    "longrope-recovered": MethodRow("LongRoPE, short context"),
    "training": MethodRow("training loss", ("#c2255c", "#f783ac")),  # no method, but drawn like one
}
METRICS = {
    "perplexity": MetricRow("Perplexity", section="perplexity", log=True),
    "perplexity-last-": MetricRow("Perplexity over the last {} tokens", section="perplexity", log=True),
    "prefix-perplexity": MetricRow("Perplexity of the first tokens of longer windows", section="perplexity", log=True),
    "passkey": MetricRow("Passkeys found", "share", "retrieval", hub="accuracy"),
    "needle": MetricRow("Needles found", "share", "retrieval", hub="accuracy"),
    "ruler": MetricRow("RULER", "share", "ruler"),
    "ruler-": MetricRow("RULER, {}", "share", "ruler"),
    "harness:": MetricRow("{}", "benchmark", "benchmarks"),
    f"{RATIO}none": MetricRow("Perplexity relative to original model", section="retention"),
    RATIO: MetricRow("Perplexity relative to {}", section="paired"),
    DIFFERENCE: MetricRow("Passkeys found, difference from {}", "difference", "paired"),
}


def method_row(method: str) -> MethodRow:
    """The row of a method; that of one without a row holds defaults."""
    return METHODS.get(method, MethodRow())


def label_of(method: str) -> str:
    """What a method is called in words; one without a label keeps its name."""
    return method_row(method).label or method


def metric_row(metric: str) -> MetricRow:
    """The row of a metric, or of the whole that it is a part of; one without a row gets defaults."""
    return METRICS.get(_row_name(metric), MetricRow())


def metric_label(metric: str) -> str:
    """What a metric is called in words; one without a label keeps its name."""
    task, depth = split_depth(metric)
    if depth:
        return f"{metric_label(task)}, depth {depth}"
    name, label = _row_name(metric), metric_row(metric).label
    if label and (name == metric or "{}" in label):
        return label.format(_in_words(metric.removeprefix(name)))
    return metric


def split_depth(metric: str) -> tuple[str, str]:
    """The whole of a metric and the depth that it is about, which is empty for the whole itself."""
    found = DEPTH.fullmatch(metric)
    return (found[1], found[2]) if found else (metric, "")


def is_part(metric: str) -> bool:
    """Whether it came out of the passes of another metric: one depth of it, or the last tokens alone."""
    return bool(DEPTH.fullmatch(metric) or LAST.fullmatch(metric))


def compared_with(metric: str) -> str:
    """The method that a paired comparison is with; empty for a metric that is none."""
    return next((metric.removeprefix(prefix) for prefix in (RATIO, DIFFERENCE) if metric.startswith(prefix)), "")


def write_value(metric: str, value: float) -> str:
    """One number of a score."""
    match metric_row(metric).format:
        case "difference":
            return f"{value:+.0%}"
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
    return f"{write_value(metric, value)} ({write_value(metric, low)}{between}{write_value(metric, high)})"


def _row_name(metric: str) -> str:
    """The longest name of a row that a metric begins with, whole words of it; empty if there is none."""
    found = [n for n in METRICS if metric == n or metric.startswith(n if n[-1] in "-:" else f"{n}-")]
    return max(found, key=len, default="")


def _in_words(rest: str) -> str:
    """What follows a row's name: a count with commas, a method's label, or as it stands."""
    return f"{int(rest):,}" if rest.isdecimal() else label_of(rest)
