"""What every table is made of: the committed records, cells that know their scores, and rows of Markdown.

Scores of different texts cannot be compared: a table that holds such scores is refused, unless its first heading says
that each row is on a text of its own.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrope.errors import LongRopeError
from longrope.runs.records import Score, Trial, read_records

ROOT = Path(__file__).parent.parent
EACH_ROW = "each row on its own text"  # the first heading of a table that may hold several texts
ORIGINAL = "original model"
BASELINES = {"none": ORIGINAL, "pi": "PI", "ntk": "NTK", "dynamic-ntk": "dynamic NTK", "yarn": "YaRN"}
SEARCHES = {"longrope-evolution": "LongRoPE, evolution", "longrope-gradient": "LongRoPE, gradient"}


class MixedTextsError(LongRopeError):
    """A table that sets scores of different texts beside each other without saying so."""


@dataclass(frozen=True)
class Cell:
    """The text of one cell, with the scores that it is made from."""

    text: str
    scores: tuple[Score, ...]

    def __str__(self) -> str:
        """Return the text alone."""
        return self.text


Row = Sequence[str | Cell]
Line = dict[str, Any]


@dataclass(frozen=True)
class Records:
    """The committed records below one folder."""

    folder: Path = ROOT / "results"

    def has(self, run: str) -> bool:
        """Whether there are scores of a run."""
        return (self.folder / run / "scores.jsonl").exists()

    def every_score(self, run: str) -> list[Score]:
        """The scores of all methods of a run, in the order in which they were measured."""
        return read_records(self.folder / run / "scores.jsonl", Score)

    def scores(self, run: str, method: str) -> dict[tuple[str, int], Score]:
        """The scores of one method of a run, by metric and length."""
        return {(s.metric, s.context_tokens): s for s in self.every_score(run) if s.method == method}

    def trials(self, run: str, method: str) -> list[Trial]:
        """The trials of one search of a run."""
        trials = read_records(self.folder / run / "trials.jsonl", Trial)
        return [trial for trial in trials if trial.method == method]

    def lines(self, name: str) -> list[Line]:
        """The records of one file of lines."""
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def lines_if_any(self, name: str) -> list[Line]:
        """The same; none where there is no such file."""
        return self.lines(name) if (self.folder / name).exists() else []

    def content(self, name: str) -> Any:
        """What one JSON file holds."""
        return json.loads((self.folder / name).read_text())

    def benchmark(self, name: str) -> list[Line]:
        """The records of one benchmark."""
        return self.lines(f"benchmarks/{name}.jsonl")

    def passes(self, name: str = "h200", *, gradient: bool) -> list[Line]:
        """The lines of the long pass on one GPU, in the order of their lengths."""
        lines = (line for line in self.benchmark(name) if line["gradient"] == gradient)
        return sorted(lines, key=lambda line: int(line["tokens"]))

    def curve(self, way: str) -> list[Line]:
        """The passes of one way on one H200 that came to their end."""
        return [line for line in self.passes(gradient=False) if line["way"] == way and "seconds" in line]


def table(head: Sequence[str], rows: Sequence[Row], *, divided: bool = False) -> str:
    """Write a table; raise MixedTextsError where its scores are of several texts and its first heading hides that.

    ``divided`` is for a model with a BOS token: its shares of the original's have a text of their own at each length.
    """
    for together in [[row] for row in rows] if head[0] == EACH_ROW else [rows]:
        _check_texts((cell for row in together for cell in row if isinstance(cell, Cell)), divided=divided)
    rule = ["---", *("---:" for _ in head[1:])]
    return "".join(f"| {' | '.join(map(str, row))} |\n" for row in (head, rule, *rows))


def one_text(lines: list[Line]) -> list[Line]:
    """Return the lines of a benchmark; raise MixedTextsError where they are of several texts."""
    if len(texts := sorted({line["texts_fingerprint"] for line in lines})) > 1:
        raise MixedTextsError(
            f"A benchmark's lines are of different texts: {', '.join(texts)}.",
            "Losses that stand in one table must be of one text.",
            "Measure them again on one text.",
        )
    return lines


def number(score: Score) -> Cell:
    """The value, with two decimals below a hundred."""
    return Cell(f"{score.value:.0f}" if score.value >= 100 else f"{score.value:.2f}", (score,))


def percent(score: Score) -> Cell:
    """The value in percent."""
    return Cell(f"{score.value:.0%}", (score,))


def percent_with_interval(score: Score) -> Cell:
    """The value in percent, with its interval."""
    return Cell(f"{score.value:.0%} ({100 * score.low:.0f}-{100 * score.high:.0f})", (score,))


def with_interval(score: Score, digits: int = 2) -> Cell:
    """The value with its interval."""
    return Cell(f"{score.value:.{digits}f} ({score.low:.{digits}f}-{score.high:.{digits}f})", (score,))


def ratio(score: Score, other: Score) -> Cell:
    """How many times the other one it is."""
    value = score.value / other.value
    return Cell(f"{value:.3f}" if value < 10 else f"{value:.3g}", (score, other))


def with_share(score: Score, original: Score) -> Cell:
    """The value, and in brackets how many times the original's it is."""
    return Cell(f"{number(score)} ({ratio(score, original)})", (score, original))


def bold(cell: Cell) -> Cell:
    """The same in bold type."""
    return Cell(f"**{cell}**", cell.scores)


def _check_texts(cells: Iterable[Cell], *, divided: bool) -> None:
    """Perplexities of all lengths must be of one text, other metrics of the same samples at each length."""
    seen: dict[str, Score] = {}
    for score in (score for cell in cells for score in cell.scores):
        first = seen.setdefault(_compared(score, divided=divided), score)
        if score.texts_fingerprint != first.texts_fingerprint:
            both = [f"{x.metric} of {x.method} at {x.context_tokens:,} ({x.texts_fingerprint})" for x in (first, score)]
            raise MixedTextsError(
                f"A table holds scores of different texts: {' and '.join(both)}.",
                "Scores that stand in one table must be of one text.",
                f"Make a table of each text, or head its first column {EACH_ROW!r}.",
            )


def _compared(score: Score, *, divided: bool) -> str:
    """What a reader compares the score with: windows of one text are divided for shorter lengths, prompts are not.

    The first tokens of whole windows are another text than these windows divided, of which each part opens with a BOS
    token of its own where the model has one.
    """
    if score.metric.startswith("prefix-perplexity"):
        return "the text of first tokens"
    by_length = divided and score.metric == "ratio-to-none"
    if score.metric.startswith(("perplexity", "ratio-to-")) and not by_length:
        return "the text of perplexities"
    return f"{score.metric.partition('-depth-')[0]} at {score.context_tokens}"
