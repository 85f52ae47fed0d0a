"""What a page is made of: sections of words, figures and tables; and the methods of one run or of several."""

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar
from xml.etree import ElementTree as ET

from markupsafe import Markup

from longrope.labels import Source
from longrope.lengths import format_tokens
from longrope.report.charts.axes import Axis, doubling_axis
from longrope.report.charts.lines import LineChart, draw_lines
from longrope.report.charts.style import Style
from longrope.report.contents import Contents
from longrope.report.palette import style_of
from longrope.report.tables import ScoreTable, number
from longrope.runs.records import Score

WIDE, NARROW = 960.0, 356.0  # pixels that a figure is drawn for; the page shows the one that fits
MOST_ROWS = 1500
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Shown = tuple[Hashable, ...]
Data = tuple[Sequence[str], Sequence[Sequence[object]]]  # a header and the rows that the points of a figure name


@dataclass(frozen=True)
class Figure:
    """A figure in two widths, its words, and its data."""

    id: str
    title: str
    note: str
    wide: Markup
    narrow: Markup
    table: ScoreTable


@dataclass(frozen=True)
class Section:
    """A part of the page; ``needs`` says what would fill it where it is empty."""

    id: str
    title: str
    needs: str
    words: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[ScoreTable, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.figures or self.tables)


@dataclass(frozen=True)
class Way:
    """The scores of one metric by one method of one run, under the name and the style that figures give it."""

    label: str
    style: Style
    scores: tuple[Score, ...]


def make_figure(
    name: str,
    title: str,
    note: str,
    draw: Callable[[float], ET.Element],
    table: Data,
) -> Figure:
    """Draw a figure for wide and narrow screens, with its data."""
    wide, narrow = (Markup(ET.tostring(draw(width), encoding="unicode")) for width in (WIDE, NARROW))  # noqa: S704  # escaped by its writer
    header, rows = table
    written = tuple(tuple(number(cell) for cell in row) for row in rows)
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return Figure(name, title, note, wide, narrow, ScoreTable(f"{title}: data", tuple(header), written))


def draw_one(chart: LineChart, width: float) -> ET.Element:
    """One chart in the width of a screen."""
    return draw_lines([chart], width, 400.0 if width == WIDE else 330.0)


def token_axis(values: Iterable[float]) -> Axis:
    """Context windows, with a tick at each that was measured."""
    return doubling_axis(values, "tokens read at once", format_tokens)


def merged(runs: Sequence[Contents], found: Iterable[tuple[int, Source, K]]) -> list[tuple[str, Style, K]]:
    """What each method of each run has, under the label and the style that figures give it.

    A baseline that a search chose has the style of the search. On a page of several runs every label names its runs;
    what they have in common is there once.

    Args:
        runs: of the page.
        found: the number of the run, the source of what is shown, and what it has.
    """
    owners: dict[tuple[Source, K], list[int]] = {}
    for i, source, content in found:
        owners.setdefault((source, content), []).append(i)
    looks = [_look(runs, source) for source, _ in owners]
    named = []
    for (source, content), own in owners.items():
        alone = looks.count(_look(runs, source)) == 1
        label = source.label if len(runs) == 1 else f"{source.label} · {_names(runs, own)}"
        named.append((label, style_of(source.known_as, None if alone else own[0]), content))
    return named


def _look(runs: Sequence[Contents], source: Source) -> object:
    """What has one style: of one run a method's source, of several all that has the style of one method."""
    return source if len(runs) == 1 else source.known_as


def _names(runs: Sequence[Contents], own: Sequence[int]) -> str:
    """The names of some runs, or that all have it."""
    some = list(dict.fromkeys(own))
    return f"all {len(runs)} runs" if len(some) == len(runs) > 2 else ", ".join(runs[i].name for i in some)


def ways_of(runs: Sequence[Contents], metric: str) -> list[Way]:
    """The methods that have scores of a metric, shortest length first; at each length the last one of a method."""
    found: list[tuple[int, Source, Shown]] = []
    scores: dict[Shown, tuple[Score, ...]] = {}
    for i, run in enumerate(runs):
        measured = {(s.source, s.context_tokens): s for s in run.scores if s.metric == metric}
        own = sorted(measured.values(), key=lambda score: score.context_tokens)
        for source in dict.fromkeys(source for source, _ in measured):
            made = tuple(score for score in own if score.source == source)
            shown = (source, *((s.context_tokens, s.value, s.low, s.high) for s in made))
            found.append((i, source, shown))
            scores.setdefault(shown, made)
    return [Way(label, style, scores[shown]) for label, style, shown in merged(runs, found)]


def text_notes(runs: Sequence[Contents], ways: Sequence[Way], metric: str) -> list[str]:
    """Sentences about the scores of a metric: those that are not shown, and where texts or factors differ."""
    measured = [[s for s in run.scores if s.metric == metric] for run in runs]
    earlier = sum(len(own) - len({(s.source, s.context_tokens) for s in own}) for own in measured)
    texts: dict[int, set[str]] = {}
    for score in (score for way in ways for score in way.scores):
        texts.setdefault(score.context_tokens, set()).add(score.texts_fingerprint)
    notes = []
    if earlier:
        shown = "The last score of each method and length is shown"
        notes.append(f"{shown}; {earlier:,} earlier ones are of other texts, factors or weights.")
    if mixed := [format_tokens(length) for length, several in sorted(texts.items()) if len(several) > 1]:
        notes.append(f"At {', '.join(mixed)} tokens not all scores are of the same texts.")
    if several := [way.label for way in ways if len({s.factors_fingerprint for s in way.scores} - {""}) > 1]:
        notes.append(f"{', '.join(several)}: other factors at other lengths.")
    return notes


def relabelled(ways: Iterable[Way]) -> list[Score]:
    """Their scores, with the names that figures give them."""
    return [replace(score, **Source(way.label)._asdict()) for way in ways for score in way.scores]


def metrics_of(runs: Sequence[Contents], belongs: Callable[[str], bool]) -> list[str]:
    """The metrics of all runs that belong together, in the order in which they come up."""
    return list(dict.fromkeys(s.metric for run in runs for s in run.scores if belongs(s.metric)))


def titled(runs: Sequence[Contents], run: Contents, title: str) -> str:
    """A title, with the run's name where there are several."""
    return f"{title} · {run.name}" if len(runs) > 1 else title


def thinned(items: Sequence[T]) -> tuple[list[T], str]:
    """At most so many items that a page holds them, the last one always; and a sentence that says what is left out."""
    step = -(-len(items) // MOST_ROWS)
    if step <= 1:
        return list(items), ""
    kept = [*items[:-1:step], items[-1]]
    return kept, f" Every {step}th of {len(items):,} records is shown, and the last."
