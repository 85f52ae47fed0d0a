"""SVG elements, markers and legends.

Coordinates are pixels from the top left. An element is escaped when it is written, so names may hold any character.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from longrope.report.charts.style import Style

CHARACTER = 7.2  # about the width of one in the figures' font of 13 px
LEGEND_LINE = 22
TEXT_LINE = 15.0  # from one line of a long name to the next
SAMPLE = 30  # of a line beside its name


@dataclass(frozen=True)
class Box:
    """A rectangle to draw in."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height


def add(parent: ET.Element, tag: str, text: str = "", **attributes: object) -> ET.Element:
    """Append an element; ``class_`` is class, other underscores are hyphens, numbers are rounded to a tenth."""
    named = {name.rstrip("_").replace("_", "-"): _written(value) for name, value in attributes.items()}
    child = ET.SubElement(parent, tag, named)
    child.text = text or None
    return child


def canvas(width: float, height: float, description: str) -> ET.Element:
    """An empty figure."""
    root = ET.Element("svg", {"class": "fig", "viewBox": f"0 0 {_written(width)} {_written(height)}", "role": "img"})
    root.set("aria-label", description)
    return root


def standalone(root: ET.Element, style: str, description: str) -> str:
    """A figure as a file of its own: on a card, with its style, and a description for who cannot see it."""
    left, top, width, height = root.get("viewBox", "").split()
    card = ET.Element("rect", {"class": "back", "x": left, "y": top, "width": width, "height": height, "rx": "12"})
    for i, (tag, text) in enumerate((("desc", description), ("style", style))):
        child = ET.Element(tag)
        child.text = text
        root.insert(i, child)
    root.insert(2, card)
    root.set("xmlns", "http://www.w3.org/2000/svg")
    root.set("width", width)
    root.set("height", height)
    return ET.tostring(root, encoding="unicode") + "\n"


def _written(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def marker(shape: str, x: float, y: float, size: float = 4) -> tuple[str, bool]:
    """The path of a marker, and whether it is made of strokes alone."""
    s = size
    r, d, w = 1.4 * s, 2 * s, 1.25 * s
    paths = {
        "circle": f"m{-s:.1f} 0a{s:.1f} {s:.1f} 0 1 0 {d:.1f} 0a{s:.1f} {s:.1f} 0 1 0 {-d:.1f} 0z",
        "square": f"m{-s:.1f} {-s:.1f}h{d:.1f}v{d:.1f}h{-d:.1f}z",
        "diamond": f"m0 {-r:.1f}l{r:.1f} {r:.1f}l{-r:.1f} {r:.1f}l{-r:.1f} {-r:.1f}z",
        "up": f"m0 {-1.3 * s:.1f}l{w:.1f} {2.2 * s:.1f}h{-2 * w:.1f}z",
        "down": f"m0 {1.3 * s:.1f}l{w:.1f} {-2.2 * s:.1f}h{-2 * w:.1f}z",
        "cross": f"m{-s:.1f} {-s:.1f}l{d:.1f} {d:.1f}m0 {-d:.1f}l{-d:.1f} {d:.1f}",
        "plus": f"m{-1.2 * s:.1f} 0h{2.4 * s:.1f}m{-1.2 * s:.1f} {-1.2 * s:.1f}v{2.4 * s:.1f}",
    }
    return f"M{x:.1f} {y:.1f}{paths[shape]}", shape in ("cross", "plus")


def draw_marker(parent: ET.Element, style: Style, x: float, y: float, kind: str = "dot") -> None:
    """Draw a marker as a ``dot``, a ``small`` dot or a ``ring``."""
    path, strokes = marker(style.marker, x, y, {"small": 2.6, "ring": 4.6}.get(kind, 4.0))
    add(parent, "path", d=path, class_="stroke" if strokes else {"small": "dot small"}.get(kind, kind))


def wrapped(text: str, width: float) -> list[str]:
    """The lines of a name that is to be no wider than this."""
    return textwrap.wrap(text, max(8, int(width / CHARACTER)), break_on_hyphens=False) or [""]


def add_lines(parent: ET.Element, lines: Sequence[str], x: float, y: float, **attributes: Any) -> None:
    """Append a text of one or several lines, the first of them at this place."""
    if len(lines) == 1:
        add(parent, "text", lines[0], x=x, y=y, **attributes)
        return
    text = add(parent, "text", x=x, y=y, **attributes)
    for i, line in enumerate(lines):
        add(text, "tspan", line + " " * (i + 1 < len(lines)), x=x, y=y + TEXT_LINE * i)


def draw_legend(parent: ET.Element, entries: Sequence[tuple[str, Style, str]], box: Box) -> float:
    """Draw (label, style, kind) in rows as wide as the box; return their height."""
    x, y, height = box.left, box.top, 0.0
    for label, style, kind in entries:
        lines = wrapped(label, box.width - SAMPLE - 8)
        width = SAMPLE + 8 + CHARACTER * max(map(len, lines)) + 18
        if x > box.left and x + width > box.right + 18:
            x, y, height = box.left, y + height, 0.0
        key = add(parent, "g", class_="key", style=f"--c:{style.color}", data_key=label)
        if kind in ("dot", "thin"):
            dash = {"stroke_dasharray": style.dash} if style.dash else {}
            add(
                key, "path", d=f"M{x:.1f} {y + 8:.1f}h{SAMPLE}", class_=f"line {kind if kind == 'thin' else ''}", **dash
            )
        if kind != "thin":
            draw_marker(key, style, x + SAMPLE / 2, y + 8, kind)
        add_lines(key, lines, x + SAMPLE + 8, y + 12.5)
        x += width
        height = max(height, LEGEND_LINE + TEXT_LINE * (len(lines) - 1))
    return y - box.top + height
