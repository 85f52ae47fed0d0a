"""The section of the stages of a run: how long each took, and its own curves."""

from collections.abc import Iterator, Sequence
from functools import partial

from longrope.registry import TUNED
from longrope.report.charts.axes import linear_axis
from longrope.report.charts.rows import Row, RowChart, draw_rows
from longrope.report.contents import Contents, Stage
from longrope.report.curves import train_figure, trials_figure
from longrope.report.palette import style_of
from longrope.report.parts import Figure, Section, make_figure, titled
from longrope.report.tables import ScoreTable, number
from longrope.schedule import stage_label

NAMED_ELSEWHERE = ("stage", "kind", "window", "settings")  # in a stage's name, and in the recipe


def stage_section(runs: Sequence[Contents]) -> Section:
    """The stages of a staged run: how long each took, and its own curves."""
    figures: list[Figure] = []
    for run in runs:
        done = [stage for stage in run.stages if stage.marker]
        if done:
            figures.append(_stage_bars(runs, run, done))
        for stage in run.stages:
            figures += _stage_curves(runs, run, stage)
    tables = [_stage_table(runs, run) for run in runs if run.stages]
    words = ("The run followed a stage schedule: each stage starts from the result of the one before it.",)
    return Section("stages", "Stages", "stages come with a staged run", words, tuple(figures), tuple(tables))


def _stage_bars(runs: Sequence[Contents], run: Contents, stages: Sequence[Stage]) -> Figure:
    made = [(_stage_name(stage), (stage.marker or {}).get("seconds", 0.0)) for stage in stages]
    styles = [style_of(TUNED if stage.train else "longrope-gradient") for stage in stages]
    rows = [
        Row(name, style, seconds, i, f"{number(round(seconds, 1))} s")
        for i, ((name, seconds), style) in enumerate(zip(made, styles, strict=True))
    ]
    chart = RowChart(linear_axis([0.0, *(row.value for row in rows)], "seconds", tight=True), tuple(rows))
    title = titled(runs, run, "Seconds of each stage")
    return make_figure(title, title, "", partial(draw_rows, chart, description=title), (("stage", "seconds"), made))


def _stage_curves(runs: Sequence[Contents], run: Contents, stage: Stage) -> Iterator[Figure]:
    name = titled(runs, run, _stage_name(stage))
    if stage.trials:
        yield trials_figure([run], f"{name}: the search", [stage.trials])
    if stage.train:
        yield train_figure([run], f"{name}: the training", [stage.train])


def _stage_table(runs: Sequence[Contents], run: Contents) -> ScoreTable:
    rows = []
    for stage in run.stages:
        marker = stage.marker or {}
        shown = {name: value for name, value in marker.get("inputs", {}).items() if name not in NAMED_ELSEWHERE}
        inputs = ", ".join(f"{name} {value}" for name, value in shown.items())
        seconds = number(marker["seconds"]) if "seconds" in marker else "not finished"
        made = [str(marker.get(name) or "as before") if marker else "" for name in ("factors", "weights")]
        rows.append((_stage_name(stage), seconds, *made, inputs))
    return ScoreTable(titled(runs, run, "The stages"), ("stage", "seconds", "factors", "weights", "from"), tuple(rows))


def _stage_name(stage: Stage) -> str:
    return stage_label(str((stage.marker or {}).get("stage", stage.name)))
