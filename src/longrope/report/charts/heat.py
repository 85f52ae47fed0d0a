"""Heat maps of shares: one small map for each method, its columns lengths, its rows depths or tasks."""

from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from longrope.report.charts.svg import CHARACTER, TEXT_LINE, Box, add, add_lines, canvas, wrapped

GAP = 26.0
CELL_HEIGHT = 30.0
HEAD, FOOT = 26.0, 44.0


@dataclass(frozen=True)
class Cell:
    """One share, its row in the figure's table, and of how many prompts it is."""

    share: float
    row: int
    count: int = 0


@dataclass(frozen=True)
class HeatMap:
    """The shares of one method by (row, column)."""

    title: str
    cells: dict[tuple[str, str], Cell]


@dataclass(frozen=True)
class HeatMaps:
    """Maps of the same rows and columns, with the names of both directions."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_name: str
    column_name: str
    maps: tuple[HeatMap, ...]


def draw_heat(heat: HeatMaps, width: float, *, description: str) -> ET.Element:
    """Draw the maps in as many columns as fit into the width."""
    names = 10 + 6.6 * max(len(row) for row in (*heat.rows, heat.row_name))
    least = max(34.0 * len(heat.columns), CHARACTER * max(len(each.title) for each in heat.maps))
    across = max(1, min(len(heat.maps), 4, int((width - names + GAP) // (least + GAP))))
    each = min(320.0, (width - names - GAP * (across - 1)) / across)
    head = HEAD + TEXT_LINE * (max(len(wrapped(shown.title, each)) for shown in heat.maps) - 1)
    height = head + CELL_HEIGHT * len(heat.rows) + FOOT
    down = -(-len(heat.maps) // across)
    root = canvas(width, down * height, description)
    for i, shown in enumerate(heat.maps):
        box = Box(names + i % across * (each + GAP), i // across * height + head, each, CELL_HEIGHT * len(heat.rows))
        _draw_map(root, heat, shown, box, named=i % across == 0)
    add(root, "circle", class_="cursor", r=11)
    return root


def _draw_map(root: ET.Element, heat: HeatMaps, shown: HeatMap, box: Box, *, named: bool) -> None:
    group = add(root, "g", class_="series", data_key=shown.title)
    lines = wrapped(shown.title, box.width)
    add_lines(group, lines, box.left, box.top - 9 - TEXT_LINE * (len(lines) - 1), class_="head")
    if named:
        add(group, "text", heat.column_name, x=box.left, y=box.bottom + 32, class_="muted")
        add(group, "text", heat.row_name, x=box.left - 8, y=box.top - 9, class_="muted", text_anchor="end")
        for i, row in enumerate(heat.rows):
            y = box.top + CELL_HEIGHT * (i + 0.5) + 4
            add(group, "text", row, x=box.left - 8, y=y, class_="muted", text_anchor="end")
    width, points = box.width / len(heat.columns), []
    for j, column in enumerate(heat.columns):
        x = box.left + width * j
        add(group, "text", column, x=x + width / 2, y=box.bottom + 16, class_="muted", text_anchor="middle")
        for i, row in enumerate(heat.rows):
            place = Box(x + 1, box.top + CELL_HEIGHT * i + 1, width - 2, CELL_HEIGHT - 2)
            if cell := shown.cells.get((row, column)):
                _draw_cell(group, cell, place)
                points.append(f"{x + width / 2:.1f},{place.top + CELL_HEIGHT / 2 - 1:.1f},{cell.row}")
    group.set("data-points", " ".join(points))


def _draw_cell(group: ET.Element, cell: Cell, place: Box) -> None:
    size: dict[str, Any] = {"x": place.left, "y": place.top, "width": place.width, "height": place.height, "rx": 3}
    add(group, "rect", class_="void", **size)
    if cell.share > 0:
        add(group, "rect", class_="heat", fill_opacity=f"{0.08 + 0.92 * cell.share:.3f}", **size)
    text = f"{cell.share:.0%}"
    x, y = place.left + place.width / 2, place.top + place.height / 2 + 4
    name = "cell on" if cell.share > 0.55 else "cell"
    if not cell.count:
        add(group, "text", text, x=x, y=y, class_=name)
        return
    add(group, "text", text, x=x, y=y - 5, class_=name)
    add(group, "text", f"of {cell.count}", x=x, y=y + 6, class_=f"{name} of")
