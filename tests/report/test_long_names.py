"""Long names of methods and runs: they are broken into lines on a phone, and no two of a page look alike."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from handmade import make_run, score

from longrope.report import write_comparison
from longrope.report.charts.axes import doubling_axis, linear_axis
from longrope.report.charts.heat import Cell, HeatMap, HeatMaps, draw_heat
from longrope.report.charts.lines import LineChart, Point, Series, draw_lines
from longrope.report.charts.rows import Row, RowChart, draw_rows
from longrope.report.charts.style import Style
from longrope.report.charts.svg import CHARACTER
from longrope.runs.run_dir import RunDir

NAME = "LongRoPE, tuned (factors: LongRoPE, gradient) · a-run-with-a-long-name / original model, 8k"
STYLE = Style("var(--spare-0)")
WIDTH = 356.0


def lines_chart(name: str) -> ET.Element:
    """Two series, of which the second has the name."""
    made = tuple(Series(label, STYLE, (Point(64, 1.0, 0), Point(128, 2.0, 1))) for label in ("YaRN", name))
    axis = linear_axis((1.0, 2.0), "loss")
    return draw_lines([LineChart(doubling_axis((64, 128), "tokens", str), axis, made)], WIDTH, 300)


def rows_chart(name: str) -> ET.Element:
    made = tuple(Row(label, STYLE, 1.0, i, "1.0", 0.9, 1.1) for i, label in enumerate(("YaRN", name)))
    return draw_rows(RowChart(linear_axis((0.9, 1.1), "ratio"), made, 1.0), WIDTH, description="")


def heat_chart(name: str) -> ET.Element:
    maps = tuple(HeatMap(label, {("0.5", "8k"): Cell(0.5, 0, 10)}) for label in ("YaRN", name))
    return draw_heat(HeatMaps(("0.5",), ("8k",), "depth", "length", maps), WIDTH, description="")


def texts(root: ET.Element) -> list[tuple[float, float, str]]:
    """Every line of text with its place, a text of several lines as these."""
    found = [part for part in root.iter() if part.tag in ("text", "tspan") and part.text]
    anchors = [part for part in found if not part.get("text-anchor")]
    return [(float(part.get("x", "0")), float(part.get("y", "0")), part.text or "") for part in anchors]


@pytest.mark.parametrize("draw", [lines_chart, rows_chart, heat_chart])
def test_a_long_name_is_broken_into_lines_that_fit(draw: object) -> None:
    """All of its words are there, no line leaves the figure, and no two lines are one above the other."""
    assert callable(draw)
    short, long = draw("PI"), draw(NAME)
    shown = texts(long)
    assert all(x + (CHARACTER - 1) * len(text.strip()) <= WIDTH for x, _, text in shown)
    words = " ".join(text for _, _, text in shown).split()
    assert [word for word in words if word in NAME.split()][: len(NAME.split())] == NAME.split()
    places = [(x, y) for x, y, _ in shown]
    assert len(set(places)) == len(places)
    heights = [float(root.get("viewBox", "").split()[3]) for root in (short, long)]
    assert heights[1] > heights[0]
    assert max(y for _, y, _ in shown) < heights[1]


def test_two_trained_runs_of_a_page_do_not_look_alike(tmp_path: Path) -> None:
    """They have one method, longrope-tuned, with the factors of another one each."""
    runs: list[RunDir] = []
    for name, method in (("one", "longrope-gradient"), ("two", "yarn")):
        own = [
            replace(score("longrope-tuned", tokens, "perplexity", 9.0 + len(runs)), factors_method=method)
            for tokens in (64, 128)
        ]
        runs.append(make_run(tmp_path / name, [score("none", 64, "perplexity", 12.0), *own]))
    page = write_comparison(runs, tmp_path / "both.html").read_text()
    keys = [part for part in page.split("<g ") if part.startswith('class="key"') and "LongRoPE, tuned" in part]
    colors = {part.split('data-key="')[1].split('"')[0]: part.split("--c:")[1].split('"')[0] for part in keys}
    assert len(colors) == 2
    assert len(set(colors.values())) == 2
