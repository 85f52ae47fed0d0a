"""Tables of a report and of the terminal, and how their numbers are written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from longrope.registry import format_of
from longrope.runs.records import Score

DEPTH = "-depth-"
BENCHMARK = "harness:"
DIFFERENCE = "difference-to-"


@dataclass(frozen=True)
class ScoreTable:
    """A caption, column names, and cells as text; the first cell of a row names it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def score_tables(scores: Sequence[Score]) -> list[ScoreTable]:
    """A table for each metric, with a row for each method and an interval in each cell."""
    metrics = dict.fromkeys(score.metric for score in scores if DEPTH not in score.metric)
    tables = [score_table(f"{metric} (95 % interval)", [s for s in scores if s.metric == metric]) for metric in metrics]
    return tables + _depth_tables(scores)


def score_table(title: str, scores: Sequence[Score]) -> ScoreTable:
    """One metric: a row for each method, a column for each context window."""
    lengths = sorted({score.context_tokens for score in scores})
    cells = {(score.source.label, score.context_tokens): interval(score) for score in scores}
    return ScoreTable(title, ("method", *(f"{length:,} tokens" for length in lengths)), _rows(scores, cells, lengths))


def _depth_tables(scores: Sequence[Score]) -> list[ScoreTable]:
    """For the longest context window of each task, the share that is answered at each depth."""
    tables = []
    for task in dict.fromkeys(score.metric.split(DEPTH)[0] for score in scores if DEPTH in score.metric):
        own = [score for score in scores if score.metric.startswith(task + DEPTH)]
        longest = max(score.context_tokens for score in own)
        own = [score for score in own if score.context_tokens == longest]
        depths = sorted({score.metric for score in own})
        cells = {(score.source.label, score.metric): f"{score.value:.0%}" for score in own}
        header = ("method", *(depth.removeprefix(task + DEPTH) for depth in depths))
        tables.append(ScoreTable(f"{task} at {longest:,} tokens, by depth", header, _rows(own, cells, depths)))
    return tables


def _rows(scores: Sequence[Score], cells: dict, columns: Sequence) -> tuple[tuple[str, ...], ...]:  # type: ignore[type-arg]
    labels = dict.fromkeys(score.source.label for score in scores)
    return tuple((label, *(cells.get((label, column), "") for column in columns)) for label in labels)


def interval(score: Score) -> str:
    """A value with its interval; the value alone where the interval has no end."""
    value, low, high = (written(score.metric, x) for x in (score.value, score.low, score.high))
    if not math.isfinite(score.high - score.low) and math.isfinite(score.value):
        return value  # it has none
    return f"{value} ({low} to {high})" if score.metric.startswith(DIFFERENCE) else f"{value} ({low}-{high})"


def written(metric: str, value: float) -> str:
    """One number of a score."""
    if metric.startswith(DIFFERENCE):
        return f"{value:+.0%}"
    if metric.startswith(BENCHMARK) and -1 <= value <= 2:  # its intervals may leave 0 and 1
        return f"{value:.1%}"
    return f"{value:,.0f}" if 1e4 <= value < 1e6 else f"{value:{format_of(metric)}}"


def number(value: object) -> str:
    """A value in a table of data: five digits of a float, all of a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return "∞" if value > 0 else str(value)
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.5g}" if abs(value) >= 1e-4 else f"{value:.3e}"
