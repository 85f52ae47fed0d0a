"""Charts of one line a record: comparisons with their intervals beside a reference, or bars from zero."""

from dataclasses import dataclass
from xml.etree import ElementTree as ET

from longrope.report.charts.axes import Axis
from longrope.report.charts.style import Style
from longrope.report.charts.svg import CHARACTER, TEXT_LINE, Box, add, add_lines, canvas, draw_marker, wrapped

LINE = 34.0
STACKED = 68.0  # with the name above it, where it does not fit beside it
FOOT = 46.0
DIGIT = 8.3  # of a value, which has more wide characters than names: digits, signs, percent


@dataclass(frozen=True)
class Row:
    """One record: its name, its value with an interval (None: it has none), and its row in the figure's table."""

    label: str
    style: Style
    value: float
    row: int
    shown: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class RowChart:
    """Rows on one axis; with a reference they are points beside it, without they are bars from zero."""

    axis: Axis
    rows: tuple[Row, ...]
    reference: float | None = None


def draw_rows(chart: RowChart, width: float, *, description: str) -> ET.Element:
    """Draw the rows; names stand beside them where they fit, else above."""
    names = 16 + CHARACTER * max(len(row.label) for row in chart.rows)
    stacked = names > width * 0.45
    values = 14 + DIGIT * max(len(row.shown) for row in chart.rows)
    above = TEXT_LINE * (max(len(wrapped(row.label, width - 16)) for row in chart.rows) - 1)
    line = STACKED + above if stacked else LINE
    left, right = (8.0, 8.0) if stacked else (names, values)
    plot = Box(left, 4, width - left - right, line * len(chart.rows))
    root = canvas(width, plot.bottom + FOOT, description)
    for value, label in chart.axis.ticks:
        x = chart.axis.place(value, plot.left, plot.right)
        add(root, "path", d=f"M{x:.1f} {plot.top:.1f}V{plot.bottom:.1f}", class_="grid")
        anchor = _anchor(x, plot) if stacked else "middle"
        add(root, "text", label, x=x, y=plot.bottom + 18, class_="muted", text_anchor=anchor)
    add(root, "text", chart.axis.label, x=plot.left, y=plot.bottom + 37, class_="muted")
    if chart.reference is not None:
        x = chart.axis.place(chart.reference, plot.left, plot.right)
        add(root, "path", d=f"M{x:.1f} {plot.top:.1f}V{plot.bottom:.1f}", class_="base")
    for i, row in enumerate(chart.rows):
        y = plot.top + line * i + (above + STACKED * 0.74 if stacked else line / 2)
        _draw_row(root, chart, row, plot, y, stacked=stacked)
    add(root, "circle", class_="cursor", r=8)
    return root


def _anchor(x: float, plot: Box) -> str:
    """Labels at the ends of a plot as wide as the figure stay inside."""
    return "start" if x < plot.left + 12 else "end" if x > plot.right - 12 else "middle"


def _draw_row(root: ET.Element, chart: RowChart, row: Row, plot: Box, y: float, *, stacked: bool) -> None:
    group = add(root, "g", class_="series", style=f"--c:{row.style.color}", data_key=row.label)
    x = chart.axis.place(row.value, plot.left, plot.right)
    if stacked:
        lines = wrapped(row.label, plot.width)
        add_lines(group, lines, plot.left, y - 31 - TEXT_LINE * (len(lines) - 1), class_="halo")
        add(group, "text", row.shown, x=plot.left, y=y - 14, class_="muted halo")
    else:
        add(group, "text", row.label, x=plot.left - 12, y=y + 4, text_anchor="end")
        add(group, "text", row.shown, x=plot.right + 14, y=y + 4)
    if chart.reference is None:
        start = chart.axis.place(0, plot.left, plot.right)
        add(group, "rect", class_="bar", x=start, y=y - 8, width=max(1.5, x - start), height=16, rx=3)
    if row.low is not None and row.high is not None:
        low, high = (chart.axis.place(end, plot.left, plot.right) for end in (row.low, row.high))
        add(group, "path", d=f"M{low:.1f} {y:.1f}H{high:.1f}", class_="line" if chart.reference is not None else "end")
    if chart.reference is not None:
        draw_marker(group, row.style, x, y)
    group.set("data-points", f"{x:.1f},{y:.1f},{row.row}")
