"""Tables of a report and of the terminal, and how their numbers are written."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from longrope.labels import metric_label, split_depth, write_interval, write_value
from longrope.runs.records import Score

RESAMPLED = {"documents": "whole documents", "blocks": "blocks of consecutive tokens", "prompts": "prompts"}


@dataclass(frozen=True)
class ScoreTable:
    """A caption, column names, and cells as text, the first of a row its name; and a sentence about all of them."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


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
    return ScoreTable(title, header, _rows(scores, cells, lengths), resampling_note(scores))


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
