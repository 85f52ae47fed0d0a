"""The sections of what was measured: perplexity, retrieval, task suites, paired ratios."""

from collections.abc import Sequence
from functools import partial

from longrope.recipe import format_tokens
from longrope.records import Score
from longrope.reports.contents import Contents
from longrope.reports.heat import Cell, HeatMap, HeatMaps, draw_heat
from longrope.reports.lines import LineChart, Point, Series
from longrope.reports.palette import label_of
from longrope.reports.parts import Data, Figure, Section, Way, draw_one, make_figure, metrics_of, relabelled, ways_of
from longrope.reports.rows import Row, RowChart, draw_rows
from longrope.reports.svg import linear_axis, log_axis, share_axis, token_axis
from longrope.reports.tables import DEPTH, ScoreTable, interval, score_table

LOWER = 3.0
PAIRED = (
    "A method's perplexity as a share of another's on the same windows, paired token by token: below 1 it is lower. "
    "Bars are 95 % intervals of the ratio."
)
HEADER = ("tokens", "value", "from", "to", "windows", "tokens scored", "seconds")


def measured_sections(runs: Sequence[Contents]) -> list[Section]:
    """All sections that scores fill."""
    return [
        perplexity_section(runs),
        retrieval_section(runs),
        suite_section(runs, "ruler", "RULER", "`longrope measure --metrics ruler`"),
        ratio_section(
            runs, "retention", "Short-window retention", "short-window retention needs a score ratio-to-none"
        ),
        suite_section(runs, "harness", "Short-window benchmarks", "`longrope measure --metrics harness:TASK`"),
        ratio_section(runs, "ratios", "Paired with its rivals", "paired ratios need scores ratio-to-METHOD"),
        other_section(runs),
    ]


def perplexity_section(runs: Sequence[Contents]) -> Section:
    """Perplexity by context window, over all tokens and over the last ones."""
    metrics = sorted(metrics_of(runs, lambda metric: metric.startswith("perplexity")), key=len)
    words = ("Lower is better. Every length is measured on the same text; bars are 95 % intervals over its blocks.",)
    tables = [_metric_table(runs, metric, _title(metric)) for metric in metrics]
    needs = "perplexity needs scores.jsonl: `longrope measure` writes it"
    figures = [_length_figure(metric, _title(metric), ways_of(runs, metric)) for metric in metrics]
    figures[1:1] = _lower_figure(runs)
    return Section("perplexity", "Perplexity by context window", needs, words, tuple(figures), tuple(tables))


def _lower_figure(runs: Sequence[Contents]) -> list[Figure]:
    """The perplexities of the better methods on a scale of their own, where worse ones hide them."""
    ways = ways_of(runs, "perplexity")
    least = min((score.value for way in ways for score in way.scores), default=0.0)
    lower = [way for way in ways if all(score.value <= LOWER * least for score in way.scores)]
    if len(lower) in (0, 1, len(ways)):
        return []
    note = "The same, for the methods that stay within three times the lowest value at every length."
    return [_length_figure("perplexity-lower", "Perplexity of the better methods", lower, note)]


def retrieval_section(runs: Sequence[Contents]) -> Section:
    """Passkeys and needles: the share found by length, and by depth and length."""
    tasks = metrics_of(runs, lambda metric: metric in ("passkey", "needle"))
    deep = dict.fromkeys(m.split(DEPTH)[0] for m in metrics_of(runs, lambda metric: DEPTH in metric))
    figures = [_length_figure(metric, _title(metric), ways_of(runs, metric)) for metric in tasks]
    figures += [_depth_figure(runs, task) for task in deep]
    tables = [_metric_table(runs, metric, _title(metric)) for metric in tasks]
    words = ("A fact is hidden in a long text and asked for at its end. Higher is better; bars are 95 % intervals.",)
    needs = "passkeys and needles need `longrope measure --metrics passkey`"
    return Section("retrieval", "Passkeys and needles", needs, words, tuple(figures), tuple(tables))


def suite_section(runs: Sequence[Contents], suite: str, title: str, door: str) -> Section:
    """A suite of tasks, one metric each: a map of tasks by lengths, and the same as a table with intervals."""
    metrics = metrics_of(runs, lambda metric: metric.startswith(suite) and DEPTH not in metric)
    words = ("The share of each task that is solved, by context window. Higher is better.",)
    needs = f"{title} needs {door}"
    figures = (_suite_figure(runs, suite, title, metrics),) if metrics else ()
    tables = (_suite_table(runs, suite, title, metrics),) if metrics else ()
    return Section(suite, title, needs, words, figures, tables)


def _suite_table(runs: Sequence[Contents], suite: str, title: str, metrics: Sequence[str]) -> ScoreTable:
    """A row for each method and length, a column for each task."""
    found = {m: {(w.label, s.context_tokens): s for w in ways_of(runs, m) for s in w.scores} for m in metrics}
    rows = [
        (label, f"{n:,}", *(interval(own[label, n]) if (label, n) in own else "" for own in found.values()))
        for label, n in dict.fromkeys(key for own in found.values() for key in own)
    ]
    return ScoreTable(f"{title} (95 % interval)", ("method", "tokens", *_tasks(suite, metrics).values()), tuple(rows))


def _tasks(suite: str, metrics: Sequence[str]) -> dict[str, str]:
    """The name of the task of each metric of a suite."""
    return {metric: metric.removeprefix(suite).lstrip("-:") or "all tasks" for metric in metrics}


def ratio_section(runs: Sequence[Contents], name: str, title: str, needs: str) -> Section:
    """Perplexities as shares of another method's; ``retention`` holds those of the model as it is."""
    kept = "ratio-to-none"
    metrics = metrics_of(runs, lambda m: m == kept if name == "retention" else m.startswith("ratio-to-") and m != kept)
    figures = (_ratio_figure(runs, name, title, metrics),) if metrics else ()
    return Section(name, title, needs, (PAIRED,), figures)


def other_section(runs: Sequence[Contents]) -> Section:
    """Metrics that no figure knows, as tables."""
    known = ("perplexity", "passkey", "needle", "ruler", "harness", "ratio-to-")
    metrics = metrics_of(runs, lambda metric: not metric.startswith(known))
    return Section("other", "Other measurements", "", tables=tuple(_metric_table(runs, m, m) for m in metrics))


def length_chart(ways: Sequence[Way]) -> LineChart:
    """One metric against the context window; the rows of its points count through the scores of all ways."""
    scores = [score for way in ways for score in way.scores]
    rows = {id(score): i for i, score in enumerate(scores)}
    ends = [end for score in scores for end in (score.value, score.low, score.high)]
    is_loss = scores[0].metric.startswith("perplexity")
    y = log_axis(ends, "perplexity") if is_loss else share_axis(_title(scores[0].metric).lower())
    series = (
        Series(
            way.label, way.style, tuple(_point(score, rows[id(score)]) for score in way.scores if score.value < 1e300)
        )
        for way in ways
    )
    return LineChart(token_axis(score.context_tokens for score in scores), y, tuple(s for s in series if s.points))


def _point(score: Score, row: int) -> Point:
    return Point(score.context_tokens, score.value, row, score.low, score.high)


def _length_figure(name: str, title: str, ways: Sequence[Way], note: str = "") -> Figure:
    chart = length_chart(ways)
    return make_figure(name, title, note, partial(draw_one, chart), _data(_named(ways)))


def _metric_table(runs: Sequence[Contents], metric: str, title: str) -> ScoreTable:
    return score_table(f"{title} (95 % interval)", relabelled(ways_of(runs, metric)))


def _data(scores: Sequence[tuple[str, Score]], first: str = "method") -> Data:
    """The rows of a figure's data: a name for each score, and what its record says."""
    return (first, *HEADER), [
        (name, s.context_tokens, s.value, s.low, s.high, s.num_windows, s.num_tokens, s.seconds) for name, s in scores
    ]


def _named(ways: Sequence[Way]) -> list[tuple[str, Score]]:
    return [(way.label, score) for way in ways for score in way.scores]


def _depth_figure(runs: Sequence[Contents], task: str) -> Figure:
    """Depth by length of one task, a map for each method."""
    metrics = sorted(metrics_of(runs, lambda metric: metric.startswith(task + DEPTH)))
    rows = {metric: f"{float(metric.removeprefix(task + DEPTH)):.0%}" for metric in metrics}
    title = f"{_title(task)} by depth and length"
    note = "Depth 0% is the start of the text; a cell holds the share in percent."
    return _map_figure(runs, f"{task}-depth", title, note, rows, "depth")


def _suite_figure(runs: Sequence[Contents], suite: str, title: str, metrics: Sequence[str]) -> Figure:
    note = "A cell holds the share in percent."
    return _map_figure(runs, f"{suite}-map", f"{title} by task and length", note, _tasks(suite, metrics), "task")


def _map_figure(
    runs: Sequence[Contents], name: str, title: str, note: str, rows: dict[str, str], row_name: str
) -> Figure:
    """Heat maps whose rows are metrics and whose columns are lengths."""
    found = [(way, row, score) for m, row in rows.items() for way in ways_of(runs, m) for score in way.scores]
    lengths = sorted({score.context_tokens for *_, score in found})
    cells: dict[str, dict[tuple[str, str], Cell]] = {}
    for i, (way, row, score) in enumerate(found):
        cells.setdefault(way.label, {})[row, format_tokens(score.context_tokens)] = Cell(score.value, i)
    maps = tuple(HeatMap(label, own) for label, own in cells.items())
    columns = tuple(format_tokens(length) for length in lengths)
    heat = HeatMaps(tuple(rows.values()), columns, row_name, "tokens read at once", maps)
    header, data = _data([(way.label, score) for way, _, score in found])
    table = ((header[0], row_name, *header[1:]), [(line[0], found[i][1], *line[1:]) for i, line in enumerate(data)])
    return make_figure(name, title, note, lambda width: draw_heat(heat, width, description=title), table)


def _ratio_figure(runs: Sequence[Contents], name: str, title: str, metrics: Sequence[str]) -> Figure:
    found = [(way, score) for metric in metrics for way in ways_of(runs, metric) for score in way.scores]
    rows, table = [], []
    for i, (way, score) in enumerate(found):
        rival = label_of(score.metric.removeprefix("ratio-to-"))
        label = f"{way.label} / {rival}, {format_tokens(score.context_tokens)}"
        rows.append(Row(label, way.style, score.value, i, interval(score), score.low, score.high))
        table.append((f"{way.label} / {rival}", score))
    ends = [end for _, score in table for end in (score.value, score.low, score.high)]
    axis = linear_axis([1.0, *ends], "ratio of perplexities")
    chart = RowChart(axis, tuple(rows), reference=1.0)
    draw = partial(draw_rows, chart, description=title)
    return make_figure(name, title, "", draw, _data(table, "methods"))


def _title(metric: str) -> str:
    """A metric in words."""
    if metric.startswith("perplexity-last-"):
        return f"Perplexity over the last {int(metric.removeprefix('perplexity-last-')):,} tokens"
    return {"perplexity": "Perplexity", "passkey": "Passkeys found", "needle": "Needles found"}.get(metric, metric)
