"""Draw the pictures of the docs from the committed records, by the figures of the report: ``python results/plots.py``.

The numbers that a picture shows stand in its description; a test compares them with the records.
"""

import json
from pathlib import Path

from plots_million import million_pictures
from tables_cells import ROOT, Records
from tables_searches import RUN
from tables_speed import WAYS

from longrope.report.charts.axes import log_axis
from longrope.report.charts.lines import LineChart, Point, Series, draw_lines
from longrope.report.charts.svg import standalone
from longrope.report.contents import read_run
from longrope.report.palette import figure_style, style_of
from longrope.report.parts import WIDE, token_axis, ways_of
from longrope.report.scores import length_chart
from longrope.runs.run_dir import RunDir

PICTURE, GROWTH = (Path(__file__).parent / name for name in ("by-length.svg", "long-pass.svg"))
HEIGHT = 340.0
LIKE = {"ours": "longrope-gradient", "plain": "yarn", "chunked": "ntk", "kernel cuDNN": "none"}  # who wears whose style
MEASURES = {"seconds": "seconds of a pass", "peak_gib": "GiB at the peak"}


def draw() -> str:
    """Return the picture of perplexity and passkeys by length."""
    run = read_run(RunDir(ROOT / "results" / RUN))
    ways = {metric: ways_of([run], metric) for metric in ("perplexity", "passkey")}
    shown = {
        metric: {way.scores[0].method: [round(score.value, 2) for score in way.scores] for way in own}
        for metric, own in ways.items()
    }
    return picture(
        "SmolLM2-135M, trained on 8k tokens, no weight changed",
        [length_chart(own) for own in ways.values()],
        shown,
    )


def draw_growth() -> str:
    """Return the picture of time and memory against length."""
    shown = {key: growth(key) for key in MEASURES}
    charts = []
    for key, ways in shown.items():
        drawn = [way for way in ways if key == "seconds" or not way.startswith("kernel")]  # its memory is no pass's
        points = {way: [Point(tokens, value, 0) for tokens, value in ways[way]] for way in drawn}
        every = [point for own in points.values() for point in own]
        series = (Series(WAYS[way], style_of(LIKE[way]), tuple(own)) for way, own in points.items())
        x, y = token_axis(point.x for point in every), log_axis((point.y for point in every), MEASURES[key])
        charts.append(LineChart(x, y, tuple(series)))
    title = "SmolLM2-135M, original weights, on one H200: the speed of a pass, not a capability"
    return picture(title, charts, shown)


def growth(key: str) -> dict[str, list[list[float]]]:
    """[tokens, value] of every way of a pass."""
    return {way: [[line["tokens"], round(line[key], 3)] for line in Records().curve(way)] for way in WAYS}


def picture(title: str, charts: list[LineChart], shown: object) -> str:
    """Return a picture with what it shows in its description."""
    root = draw_lines(charts, WIDE, HEIGHT, title=title)
    return standalone(root, figure_style(), json.dumps(shown))


def pictures() -> dict[Path, str]:
    """Return every picture by its file."""
    return {PICTURE: draw(), GROWTH: draw_growth(), **million_pictures()}


if __name__ == "__main__":
    for file, drawn in pictures().items():
        file.write_text(drawn)
