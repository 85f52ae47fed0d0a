"""Perplexity, passkeys, needles and accuracy of the runs to 2,097,152 tokens, at a few lengths."""

from collections.abc import Callable
from dataclasses import replace

from tables_cells import ORIGINAL, Cell, Records, Row, number, percent, percent_with_interval, table
from tables_million import (
    ATTENTION,
    FAR,
    FORMULAS,
    GEMMA,
    LENGTHS,
    NONE,
    RUNS,
    THIRD,
    Scores,
    joined_scores,
    trained_scores,
)

from longrope.evaluation.statistics import Interval, interval_of_mean
from longrope.runs.records import Score

SHORT_LIST = (4096, 32768, 131072, 2097152)
METRICS: dict[str, tuple[tuple[str, ...], Callable[..., Cell]]] = {  # words -> records in this order, format
    "perplexity": (("perplexity", "prefix-perplexity"), number),
    "passkeys, one a text": (("passkey",), percent),
    "passkeys, 20 a text": (("many-passkeys",), percent),
    "needles in prose": (("prose-needle",), percent),
}
PARTS = {"needles in prose": "prose-needle", "RULER, mean of six tasks": "ruler-subset"}  # accuracy is their mean


def headline_table(records: Records) -> str:
    """Perplexity, passkeys and needles of each model, and accuracy where both of its parts were measured."""
    rows: list[Row] = []
    for run, model in RUNS.items():
        scores = trained_scores(records, run)
        for words, (names, write) in METRICS.items():
            found = [next((scores[n, at] for n in names if (n, at) in scores), None) for at in SHORT_LIST]
            rows.append([f"{model}, {words}", *(write(score) if score else NONE for score in found)])
        if run == GEMMA:
            scores = trained_scores(records, THIRD)
            rows.append([f"{model}, seed 2, accuracy", *(accuracy(scores, at, percent) for at in SHORT_LIST)])
    prose = joined_scores(records, ((FAR, FORMULAS[ATTENTION]),)).get(("prefix-perplexity", SHORT_LIST[-1]))
    if prose:
        words = f"{RUNS[ATTENTION]}, perplexity, one window of prose"
        rows.append([words, *[""] * (len(SHORT_LIST) - 1), number(prose)])
    return table(["each row on its own text", *(LENGTHS[at] for at in SHORT_LIST)], rows)


def accuracy_table(records: Records) -> str:
    """Needles in prose, the mean of RULER's six tasks, and the mean of both, with intervals."""
    rows: list[Row] = []
    for label, scores in ruler_scores(records).items():
        for words, metric in PARTS.items():
            found = [scores.get((metric, at)) for at in SHORT_LIST]
            rows.append([f"{label}, {words}", *(percent_with_interval(score) if score else NONE for score in found)])
        rows.append([f"{label}, accuracy", *(accuracy(scores, at) for at in SHORT_LIST)])
    return table(["each row on its own text", *(LENGTHS[at] for at in SHORT_LIST)], rows)


def ruler_scores(records: Records) -> dict[str, Scores]:
    """Those of the weights whose accuracy was measured, and of the original."""
    original = joined_scores(records, [(THIRD, "none"), (f"{THIRD}-ruler", "none")])
    return {f"{RUNS[GEMMA]}, seed 2": trained_scores(records, THIRD), ORIGINAL: original}


def accuracy(scores: Scores, length: int, write: Callable[[Score], Cell] = percent_with_interval) -> Cell | str:
    """The mean of needles and of RULER at a length; its interval is made from theirs."""
    parts: list[Score] = [scores[metric, length] for metric in PARTS.values() if (metric, length) in scores]
    if len(parts) < len(PARTS):
        return NONE
    value, low, high, _ = interval_of_mean([Interval(part.value, part.low, part.high) for part in parts])
    return replace(write(replace(parts[0], value=value, low=low, high=high)), scores=tuple(parts))
