"""Line charts: values against a quantity, one series for each method, with intervals where records have them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.etree import ElementTree as ET

from longrope.report.charts.axes import Axis
from longrope.report.charts.style import Style
from longrope.report.charts.svg import CHARACTER, Box, add, canvas, draw_legend, draw_marker

DENSE = 150  # points of a line from which on it has no markers
INSET = 10.0  # pixels from the axis to the first points, so that no marker stands over its labels
MARKERS = 12  # of a line with fewer points, about


@dataclass(frozen=True)
class Point:
    """One record in a chart: its place, its interval (None: it has none), and its row in the figure's table."""

    x: float
    y: float
    row: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    ``kind`` is ``dot`` (a line with markers), ``thin`` (a faint line), ``small`` (faint markers without a line) or
    ``ring`` (outstanding markers without a line).
    """

    label: str
    style: Style
    points: tuple[Point, ...]
    kind: str = "dot"


@dataclass(frozen=True)
class Rule:
    """A line across the chart at one value of an axis, with its name."""

    axis: str
    value: float
    label: str


@dataclass(frozen=True)
class LineChart:
    """One panel."""

    x: Axis
    y: Axis
    series: tuple[Series, ...]
    rules: tuple[Rule, ...] = ()


def draw_lines(charts: Sequence[LineChart], width: float, height: float, *, title: str = "") -> ET.Element:
    """Draw panels side by side under one legend; ``height`` is that of a panel, the legend is added to it."""
    root = canvas(width, height, title or charts[0].y.label)
    top = 0.0
    if title:
        add(root, "text", title, x=20, y=34, class_="title")
        top = 52.0
    inset = 20 if title else 0
    entries = {series.label: (series.label, series.style, series.kind) for chart in charts for series in chart.series}
    top += draw_legend(root, list(entries.values()), Box(inset, top, width - 2 * inset, 0)) + 8
    gap = 28.0
    each = (width - 2 * inset - gap * (len(charts) - 1)) / len(charts)
    for i, chart in enumerate(charts):
        _draw_panel(root, chart, Box(inset + i * (each + gap), top, each, height))
    add(root, "circle", class_="cursor", r=7)
    root.set("viewBox", f"0 0 {width:g} {top + height + inset:g}")
    return root


def _draw_panel(root: ET.Element, chart: LineChart, box: Box) -> None:
    left = 14 + CHARACTER * max(len(label) for _, label in chart.y.ticks)
    plot = Box(box.left + left, box.top + 30, box.width - left - 14, box.height - 30 - 44)
    panel = add(root, "g", class_="panel")
    _draw_frame(panel, chart, box, plot)
    for rule in chart.rules:
        _draw_rule(panel, chart, rule, plot)
    order = ("small", "thin", "dot", "ring")
    for series in sorted(chart.series, key=lambda series: order.index(series.kind)):
        _draw_series(panel, chart, series, plot)


def _draw_frame(panel: ET.Element, chart: LineChart, box: Box, plot: Box) -> None:
    add(panel, "text", chart.y.label, x=box.left, y=box.top + 11, class_="muted")
    for value, label in chart.y.ticks:
        y = chart.y.place(value, plot.bottom, plot.top)
        add(panel, "path", d=f"M{plot.left:.1f} {y:.1f}H{plot.right:.1f}", class_="grid")
        add(panel, "text", label, x=plot.left - 8, y=y + 4, class_="muted", text_anchor="end")
    add(panel, "path", d=f"M{plot.left:.1f} {plot.bottom:.1f}H{plot.right:.1f}", class_="base")
    taken = -1e9
    for value, label in chart.x.ticks:
        x, half = chart.x.place(value, plot.left + INSET, plot.right), CHARACTER * len(label) / 2
        if x - half > taken + 4:
            add(panel, "path", d=f"M{x:.1f} {plot.bottom:.1f}v5", class_="base")
            add(panel, "text", label, x=x, y=plot.bottom + 20, class_="muted", text_anchor="middle")
            taken = x + half
    add(panel, "text", chart.x.label, x=plot.left, y=plot.bottom + 39, class_="muted")


def _draw_rule(panel: ET.Element, chart: LineChart, rule: Rule, plot: Box) -> None:
    if rule.axis == "x":
        x = chart.x.place(rule.value, plot.left + INSET, plot.right)
        near_end = x + CHARACTER * len(rule.label) > plot.right
        add(panel, "path", d=f"M{x:.1f} {plot.top - 4:.1f}V{plot.bottom:.1f}", class_="rule")
        place = {"x": x - 6, "text_anchor": "end"} if near_end else {"x": x + 6}
        add(panel, "text", rule.label, y=plot.top + 8, class_="muted halo", **place)
    else:
        y = chart.y.place(rule.value, plot.bottom, plot.top)
        add(panel, "path", d=f"M{plot.left:.1f} {y:.1f}H{plot.right:.1f}", class_="rule")
        add(panel, "text", rule.label, x=plot.left + 6, y=y - 6, class_="muted halo")


def _draw_series(panel: ET.Element, chart: LineChart, series: Series, plot: Box) -> None:
    """The part that is drawn, and for the page's script where each record stands: x, y and row, in one attribute."""
    group = add(panel, "g", class_="series", style=f"--c:{series.style.color}", data_key=series.label)
    placed = []
    for point in series.points:
        x = chart.x.place(point.x, plot.left + INSET, plot.right)
        ends = (point.y, point.low, point.high)
        y, low, high = (None if end is None else chart.y.place(end, plot.bottom, plot.top) for end in ends)
        assert y is not None
        placed.append((x, y, point))
        if low is not None and high is not None and abs(high - low) > 3:
            add(group, "path", d=f"M{x:.1f} {low:.1f}V{high:.1f}", class_="whisker")
    if series.kind in ("dot", "thin"):
        _draw_line(group, series, [(x, y) for x, y, _ in placed])
    every = 1 if series.kind != "dot" else 1 + len(placed) // MARKERS if len(placed) <= DENSE else len(placed)
    for x, y, _ in placed[::every] if series.kind != "thin" else ():
        draw_marker(group, series.style, x, y, series.kind)
    group.set("data-points", " ".join(f"{x:.1f},{y:.1f},{point.row}" for x, y, point in placed))


def _draw_line(group: ET.Element, series: Series, places: list[tuple[float, float]]) -> None:
    corners = [place for place, _ in groupby(places)]
    dash = {"stroke_dasharray": series.style.dash} if series.style.dash else {}
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
    add(group, "path", d=path, class_="line thin" if series.kind == "thin" else "line", **dash)
