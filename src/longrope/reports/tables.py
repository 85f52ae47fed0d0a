"""Tables of a report and of the terminal, and how their numbers are written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from longrope.records import Score

DEPTH = "-depth-"
SHARES = ("passkey", "needle", "ruler", "harness")


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
    cells = {(score.method, score.context_tokens): interval(score) for score in scores}
    return ScoreTable(title, ("method", *(f"{length:,} tokens" for length in lengths)), _rows(scores, cells, lengths))


def _depth_tables(scores: Sequence[Score]) -> list[ScoreTable]:
    """For the longest context window of each task, the share that is answered at each depth."""
    tables = []
    for task in dict.fromkeys(score.metric.split(DEPTH)[0] for score in scores if DEPTH in score.metric):
        own = [score for score in scores if score.metric.startswith(task + DEPTH)]
        longest = max(score.context_tokens for score in own)
        own = [score for score in own if score.context_tokens == longest]
        depths = sorted({score.metric for score in own})
        cells = {(score.method, score.metric): f"{score.value:.0%}" for score in own}
        header = ("method", *(depth.removeprefix(task + DEPTH) for depth in depths))
        tables.append(ScoreTable(f"{task} at {longest:,} tokens, by depth", header, _rows(own, cells, depths)))
    return tables


def _rows(scores: Sequence[Score], cells: dict, columns: Sequence) -> tuple[tuple[str, ...], ...]:  # type: ignore[type-arg]
    methods = dict.fromkeys(score.method for score in scores)
    return tuple((method, *(cells.get((method, column), "") for column in columns)) for method in methods)


def interval(score: Score) -> str:
    """A value with its interval: shares in percent, all else with four digits."""
    if is_share(score.metric):
        return f"{score.value:.0%} ({score.low:.0%}-{score.high:.0%})"
    value, low, high = (f"{x:,.0f}" if 1e4 <= x < 1e6 else f"{x:.4g}" for x in (score.value, score.low, score.high))
    return f"{value} ({low}-{high})"


def is_share(metric: str) -> bool:
    """Whether a metric is a share between 0 and 1."""
    return metric.startswith(SHARES)


def number(value: object) -> str:
    """A value in a table of data: five digits of a float, all of a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return "∞" if value > 0 else str(value)
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.5g}" if abs(value) >= 1e-4 else f"{value:.3e}"
