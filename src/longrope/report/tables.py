"""Tables of a report and of the terminal, and how their numbers are written."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from longrope.labels import metric_label, metric_row, split_depth, write_interval, write_value
from longrope.runs.records import Score

MOST = 1e6  # from which on a value has no decimals to line up
RESAMPLED = {"documents": "whole documents", "blocks": "blocks of consecutive tokens", "prompts": "prompts"}


@dataclass(frozen=True)
class ScoreTable:
    """A caption, column names, and cells as text, the first of a row its name; and a sentence about all of them.

    ``best`` holds the places (row, column) of the best values of their columns.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    best: frozenset[tuple[int, int]] = frozenset()


def score_tables(scores: Sequence[Score]) -> list[ScoreTable]:
    """A table for each metric, with a row for each method and an interval in each cell."""
    metrics = dict.fromkeys(score.metric for score in scores if not split_depth(score.metric)[1])
    tables = [
        score_table(f"{metric_label(metric)} (95 % interval)", [s for s in scores if s.metric == metric])
        for metric in metrics
    ]
    return tables + _depth_tables(scores)


def score_table(title: str, scores: Sequence[Score]) -> ScoreTable:
    """One metric: a row for each method, a column for each context window."""
    lengths = sorted({score.context_tokens for score in scores})
    cells = {(score.source.label, score.context_tokens): interval(score) for score in scores}
    header = ("method", *(f"{length:,} tokens" for length in lengths))
    rows = _rows(scores, cells, lengths)
    return ScoreTable(title, header, rows, resampling_note(scores), frozenset(_best(scores, rows, lengths)))


def _best(
    scores: Sequence[Score], rows: Sequence[tuple[str, ...]], lengths: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """The places of the best values of one metric by length, all that are written alike; none where one row stands."""
    sign = -1 if metric_row(scores[0].metric).format in ("share", "tokens", "benchmark") else 1
    for column, length in enumerate(lengths, 1):
        own = {score.source.label: score for score in scores if score.context_tokens == length}
        finite = {label: score for label, score in own.items() if math.isfinite(score.value)}
        if len(finite) > 1:
            best = min(finite.values(), key=lambda score: sign * score.value)
            written = write_value(best.metric, best.value)
            alike = {label for label, score in finite.items() if write_value(score.metric, score.value) == written}
            yield from ((i, column) for i, row in enumerate(rows) if row[0] in alike)


def even_table(title: str, scores: Sequence[Score]) -> ScoreTable:
    """The same with equal decimals in each column: what four digits need, at most those of its least value."""
    table = score_table(title, scores)
    if not scores or metric_row(scores[0].metric).format != "number":
        return table
    lengths = sorted({score.context_tokens for score in scores})
    decimals = {n: _decimals([s for s in scores if s.context_tokens == n]) for n in lengths}
    cells = {(s.source.label, s.context_tokens): _even(s, decimals[s.context_tokens]) for s in scores}
    return replace(table, rows=_rows(scores, cells, lengths))


def _decimals(scores: Sequence[Score]) -> int:
    values = [value for score in scores for value in (score.value, score.low, score.high) if abs(value) < MOST]
    least = min((abs(score.value) for score in scores if 0 < abs(score.value) < MOST), default=1.0)
    needed = max((len(f"{value:.4g}".partition(".")[2]) for value in values), default=0)
    return min(needed, max(0, 3 - math.floor(math.log10(least))))


def _even(score: Score, decimals: int) -> str:
    """A value with its interval in so many decimals, very large ones as they are elsewhere."""
    value, low, high = (
        f"{x:,.{decimals}f}" if abs(x) < MOST else write_value(score.metric, x)
        for x in (score.value, score.low, score.high)
    )
    return f"{value} ({low}-{high})" if math.isfinite(score.high - score.low) else value


def resampling_note(scores: Iterable[Score]) -> str:
    """What was resampled for the intervals, as a sentence; empty where no record says so."""
    drawn = {score.resampled for score in scores}
    names = [name for kind, name in RESAMPLED.items() if kind in drawn]
    if not names:
        return ""
    some = "Some intervals" if len(drawn) > 1 else "Intervals"
    return f"{some} are resampled over {', others over '.join(names)}."


def _depth_tables(scores: Sequence[Score]) -> list[ScoreTable]:
    """For the longest context window of each task, the share that is answered at each depth."""
    tables = []
    deep = [score for score in scores if split_depth(score.metric)[1]]
    for task in dict.fromkeys(split_depth(score.metric)[0] for score in deep):
        own = [score for score in deep if split_depth(score.metric)[0] == task]
        longest = max(score.context_tokens for score in own)
        own = [score for score in own if score.context_tokens == longest]
        depths = sorted({score.metric for score in own})
        cells = {(score.source.label, score.metric): write_value(score.metric, score.value) for score in own}
        header = ("method", *(split_depth(metric)[1] for metric in depths))
        tables.append(
            ScoreTable(f"{metric_label(task)} at {longest:,} tokens, by depth", header, _rows(own, cells, depths))
        )
    return tables


def _rows(scores: Sequence[Score], cells: dict, columns: Sequence) -> tuple[tuple[str, ...], ...]:  # type: ignore[type-arg]
    labels = dict.fromkeys(score.source.label for score in scores)
    return tuple((label, *(cells.get((label, column), "") for column in columns)) for label in labels)


def interval(score: Score) -> str:
    """A value with its interval; the value alone where the interval has no end."""
    return write_interval(score.metric, score.value, score.low, score.high)


def number(value: object) -> str:
    """A value in a table of data: five digits of a float, all of a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return "∞" if value > 0 else str(value)
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:,.5g}" if abs(value) >= 1e-4 else f"{value:.3e}"
