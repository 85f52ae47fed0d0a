"""The sections of what was measured: perplexity, retrieval, task suites, paired ratios."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from longrope.labels import compared_with, label_of, metric_label, metric_row, split_depth
from longrope.lengths import format_tokens
from longrope.metrics import ACCURACY, DIFFERENCE, LAST_TOKENS, LONG_PPL, MANY_PASSKEYS, PROSE, RATIO
from longrope.report.charts.axes import Axis, linear_axis, log_axis, share_axis
from longrope.report.charts.heat import Cell, HeatMap, HeatMaps, draw_heat
from longrope.report.charts.lines import LineChart, Point, Series
from longrope.report.charts.rows import Row, RowChart, draw_rows
from longrope.report.contents import Contents
from longrope.report.parts import (
    Data,
    Figure,
    Section,
    Way,
    draw_one,
    make_figure,
    metrics_of,
    relabelled,
    text_notes,
    token_axis,
    ways_of,
)
from longrope.report.tables import ScoreTable, even_table, interval, resampling_note
from longrope.runs.records import Score

LOWER = 3.0
RATIOS = (
    "A method's perplexity as a share of another's on the same windows, paired token by token: below 1 it is lower. "
    "Bars are 95 % intervals of the comparison."
)
COMPARISONS = {  # of methods: how their metrics begin, and the name, title, axis and reference of a figure
    RATIO: ("ratios", "Ratio of perplexities", "ratio", 1.0),
    f"{LAST_TOKENS}{RATIO}": ("last-ratios", "Ratio of perplexities of the last tokens", "ratio", 1.0),
    f"{LONG_PPL}{RATIO}": ("longppl-ratios", "Ratio of LongPPL", "ratio", 1.0),
    DIFFERENCE: ("differences", "Difference of passkeys found", "difference of shares", 0.0),
    f"{MANY_PASSKEYS}-{DIFFERENCE}": (
        "many-passkeys-differences",
        "Difference of passkeys found, several in a text",
        "difference of shares",
        0.0,
    ),
    f"{ACCURACY}-{DIFFERENCE}": ("accuracy-differences", "Difference of accuracy", "difference of shares", 0.0),
    f"{PROSE}-{DIFFERENCE}": ("prose-differences", "Difference of needles in prose", "difference of shares", 0.0),
}
HEADER = ("tokens", "value", "from", "to", "windows", "tokens scored", "seconds")


def measured_sections(runs: Sequence[Contents]) -> list[Section]:
    """All sections that scores fill."""
    return [
        perplexity_section(runs),
        retrieval_section(runs),
        ruler_section(runs),
        effective_section(runs),
        retention_section(runs),
        far_section(runs),
        benchmark_section(runs),
        paired_section(runs),
        other_section(runs),
    ]


def perplexity_section(runs: Sequence[Contents]) -> Section:
    """Perplexity by context window, over all tokens and over the last ones."""
    metrics = sorted(_of_section(runs, "perplexity"), key=len)
    texts = {score.texts_fingerprint for way in ways_of(runs, "perplexity") for score in way.scores}
    same = "Every length is measured on the same text; bars" if len(texts) < 2 else "Bars"
    words = (f"Lower is better. {same} are 95 % intervals.",)
    tables = [_metric_table(runs, metric) for metric in metrics]
    needs = "perplexity needs scores.jsonl: `longrope measure` writes it"
    figures = [_length_figure(metric, metric_label(metric), ways_of(runs, metric)) for metric in metrics]
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
    tasks = _of_section(runs, "retrieval")
    deep = dict.fromkeys(split_depth(metric)[0] for metric in metrics_of(runs, lambda m: split_depth(m)[1] != ""))
    figures = [_length_figure(metric, metric_label(metric), ways_of(runs, metric)) for metric in tasks]
    figures += [_depth_figure(runs, task) for task in deep]
    tables = [_metric_table(runs, metric) for metric in tasks]
    words = ("A fact is hidden in a long text and asked for at its end. Higher is better; bars are 95 % intervals.",)
    needs = "passkeys and needles need `longrope measure --metrics passkey`"
    return Section("retrieval", "Passkeys and needles", needs, words, tuple(figures), tuple(tables))


def ruler_section(runs: Sequence[Contents]) -> Section:
    """The tasks of RULER, one metric each: a map of tasks by lengths, and the same as a table with intervals."""
    metrics = _of_section(runs, "ruler")
    tasks = {metric: metric.removeprefix("ruler").lstrip("-") or "all tasks" for metric in metrics}
    words = ("The share of each task that is solved, by context window. Higher is better.",)
    needs = "RULER needs `longrope measure --metrics ruler`"
    if not metrics:
        return Section("ruler", "RULER", needs)
    note = "A cell holds the share, and of how many."
    figure = _map_figure(runs, "ruler-map", "RULER by task and length", note, tasks, "task")
    return Section("ruler", "RULER", needs, words, (figure,), (_task_table(runs, "RULER", tasks),))


def benchmark_section(runs: Sequence[Contents]) -> Section:
    """The benchmarks of lm-evaluation-harness, one metric each, with a bar for each method."""
    metrics = _of_section(runs, "benchmarks")
    title, needs = "Short-window benchmarks", "short-window benchmarks need `longrope measure --metrics harness:TASK`"
    words = ("Scores of lm-evaluation-harness, on prompts within the trained window.",)
    figures = [_benchmark_figure(runs, metric) for metric in metrics]
    return Section("harness", title, needs, words, tuple(figures))


def _benchmark_figure(runs: Sequence[Contents], metric: str) -> Figure:
    ways = ways_of(runs, metric)
    rows = [
        Row(way.label, way.style, s.value, i, interval(s), *((s.low, s.high) if math.isfinite(s.high) else ()))
        for i, (way, s) in enumerate((way, score) for way in ways for score in way.scores)
    ]
    ends = [end for way in ways for score in way.scores for end in (score.value, score.high) if math.isfinite(end)]
    name = metric_label(metric)
    chart = RowChart(linear_axis([0.0, *ends], name.rpartition(":")[2], tight=True), tuple(rows))
    return make_figure(metric, name, "", partial(draw_rows, chart, description=name), _data(_named(ways)))


def _task_table(runs: Sequence[Contents], title: str, tasks: dict[str, str]) -> ScoreTable:
    """A row for each method and length, a column for each task."""
    found = {task: {(w.label, s.context_tokens): s for w in ways_of(runs, task) for s in w.scores} for task in tasks}
    rows = [
        (label, f"{n:,}", *(interval(own[label, n]) if (label, n) in own else "" for own in found.values()))
        for label, n in dict.fromkeys(key for own in found.values() for key in own)
    ]
    return ScoreTable(f"{title} (95 % interval)", ("method", "tokens", *tasks.values()), tuple(rows))


def retention_section(runs: Sequence[Contents]) -> Section:
    """Perplexities at short windows as shares of those of the original model."""
    metrics = _of_section(runs, "retention")
    title, needs = "Short-window retention", "short-window retention needs a score ratio-to-none"
    figures = (_paired_figure(runs, "retention", title, metrics, "ratio of perplexities", 1.0),) if metrics else ()
    return Section("retention", title, needs, (RATIOS,), figures)


def effective_section(runs: Sequence[Contents]) -> Section:
    """Accuracy by length, and the length up to which it is kept."""
    words = (
        "Accuracy is the mean of needles in prose and of six tasks of RULER.",
        "The effective length is the longest at which it is 85 % of the original model's at the shortest length.",
    )
    needs = "the effective length needs `longrope measure --metrics effective-length`"
    return _plain_section(runs, "effective", "Accuracy and effective length", needs, words)


def far_section(runs: Sequence[Contents]) -> Section:
    """The same last tokens with near context alone, with far context, and with other far context."""
    words = (
        "The last tokens of each window are read with near context alone, and with all before them.",
        "Below 1 the far context helps; shuffled or replaced, it should help less. Intervals are paired by token.",
    )
    needs = "the use of far context needs `longrope measure --metrics far-context`"
    return _plain_section(runs, "far", "Use of far context", needs, words)


def paired_section(runs: Sequence[Contents]) -> Section:
    """Perplexities as shares of a baseline's, and differences of the shares of prompts that both were given."""
    paired = _of_section(runs, "paired")
    figures = []
    for begins, (name, title, label, reference) in COMPARISONS.items():
        if own := [metric for metric in paired if metric.startswith(begins)]:
            figures.append(_paired_figure(runs, name, title, own, label, reference))
    needs = "paired ratios need scores ratio-to-METHOD"
    return Section("ratios", "Paired with its baselines", needs, (RATIOS,), tuple(figures))


def other_section(runs: Sequence[Contents]) -> Section:
    """Metrics that no section above is about."""
    return _plain_section(runs, "other", "Other measurements", "")


def _plain_section(runs: Sequence[Contents], name: str, title: str, needs: str, words: tuple[str, ...] = ()) -> Section:
    """A figure and a table for each metric."""
    metrics = _of_section(runs, name)
    figures = tuple(_length_figure(metric, metric_label(metric), ways_of(runs, metric)) for metric in metrics)
    tables = tuple(_metric_table(runs, metric) for metric in metrics)
    return Section(name, title, needs, words, figures, tables)


def _of_section(runs: Sequence[Contents], section: str) -> list[str]:
    """The metrics of a section, without those that are about one depth."""
    return metrics_of(runs, lambda metric: metric_row(metric).section == section and not split_depth(metric)[1])


def length_chart(ways: Sequence[Way]) -> LineChart:
    """One metric against the context window; the rows of its points count through the scores of all ways."""
    scores = [score for way in ways for score in way.scores]
    rows = {id(score): i for i, score in enumerate(scores)}
    ends = [end for score in scores for end in (score.value, score.low, score.high)]
    y = _value_axis(scores[0].metric, ends)
    series = (
        Series(
            way.label,
            way.style,
            tuple(Point(s.context_tokens, s.value, rows[id(s)], s.low, s.high) for s in way.scores if s.value < 1e300),
        )
        for way in ways
    )
    return LineChart(token_axis(score.context_tokens for score in scores), y, tuple(s for s in series if s.points))


def _value_axis(metric: str, values: Sequence[float]) -> Axis:
    """The axis of a metric's values: logarithms, shares from 0 to 1, or numbers as they are."""
    row = metric_row(metric)
    if row.log:
        return log_axis(values, "perplexity")
    return share_axis(metric_label(metric).lower()) if row.format == "share" else linear_axis(values, metric)


def _length_figure(name: str, title: str, ways: Sequence[Way], note: str = "") -> Figure:
    chart = length_chart(ways)
    return make_figure(name, title, note, partial(draw_one, chart), _data(_named(ways)))


def _metric_table(runs: Sequence[Contents], metric: str) -> ScoreTable:
    ways = ways_of(runs, metric)
    table = even_table(f"{metric_label(metric)} (95 % interval)", relabelled(ways))
    return replace(table, note=" ".join(filter(None, (table.note, *text_notes(runs, ways, metric)))))


def _data(scores: Sequence[tuple[str, Score]], first: str = "method") -> Data:
    """The rows of a figure's data: a name for each score, and what its record says."""
    return (first, *HEADER), [
        (name, s.context_tokens, s.value, s.low, s.high, s.num_windows, s.num_tokens, s.seconds) for name, s in scores
    ]


def _named(ways: Sequence[Way]) -> list[tuple[str, Score]]:
    return [(way.label, score) for way in ways for score in way.scores]


def _depth_figure(runs: Sequence[Contents], task: str) -> Figure:
    """Depth by length of one task, a map for each method."""
    metrics = sorted(metrics_of(runs, lambda metric: split_depth(metric)[0] == task != metric))
    rows = {metric: f"{float(split_depth(metric)[1]):.0%}" for metric in metrics}
    title = f"{metric_label(task)} by depth and length"
    note = "Depth 0% is the start of the text; a cell holds the share, and of how many."
    return _map_figure(runs, f"{task}-depth", title, note, rows, "depth")


def _map_figure(
    runs: Sequence[Contents], name: str, title: str, note: str, rows: dict[str, str], row_name: str
) -> Figure:
    """Heat maps whose rows are metrics and whose columns are lengths."""
    found = [(way, row, score) for m, row in rows.items() for way in ways_of(runs, m) for score in way.scores]
    lengths = sorted({score.context_tokens for *_, score in found})
    cells: dict[str, dict[tuple[str, str], Cell]] = {}
    for i, (way, row, score) in enumerate(found):
        cells.setdefault(way.label, {})[row, format_tokens(score.context_tokens)] = Cell(
            score.value, i, score.num_windows
        )
    maps = tuple(HeatMap(label, own) for label, own in cells.items())
    columns = tuple(format_tokens(length) for length in lengths)
    heat = HeatMaps(tuple(rows.values()), columns, row_name, "tokens read at once", maps)
    header, data = _data([(way.label, score) for way, _, score in found])
    table = ((header[0], row_name, *header[1:]), [(line[0], found[i][1], *line[1:]) for i, line in enumerate(data)])
    return make_figure(name, title, note, lambda width: draw_heat(heat, width, description=title), table)


def _paired_figure(
    runs: Sequence[Contents], name: str, title: str, metrics: Sequence[str], label: str, reference: float
) -> Figure:
    """One row a comparison, beside the value that means that both are alike."""
    found = [(way, score) for metric in metrics for way in ways_of(runs, metric) for score in way.scores]
    rows, table = [], []
    for i, (way, score) in enumerate(found):
        both = f"{way.label} / {label_of(compared_with(score.metric))}"
        named = f"{both}, {format_tokens(score.context_tokens)}"
        rows.append(Row(named, way.style, score.value, i, interval(score), score.low, score.high))
        table.append((both, score))
    ends = [end for _, score in table for end in (score.value, score.low, score.high)]
    chart = RowChart(linear_axis([reference, *ends], label), tuple(rows), reference=reference)
    draw = partial(draw_rows, chart, description=title)
    return make_figure(name, title, resampling_note(score for _, score in table), draw, _data(table, "methods"))
