"""What every figure is made of: SVG elements, scales from values to pixels, ticks, markers, legends.

Coordinates are pixels from the top left. An element is escaped when it is written, so names may hold any character.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from longrope.lengths import format_tokens
from longrope.reports.palette import Style

CHARACTER = 7.2  # about the width of one in the figures' font of 13 px
LEGEND_LINE = 22
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


@dataclass(frozen=True)
class Axis:
    """One direction of a chart: its range, its ticks with their labels, and whether it shows logarithms."""

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value stands between the pixels of ``low`` and ``high``; beyond them it stands at the edge."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, self._inside(value)))
        return start + (end - start) * (at - low) / (high - low)

    def _inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)


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


def token_axis(values: Iterable[float], label: str = "tokens read at once") -> Axis:
    """Lengths in tokens: logarithms to the base 2, a tick at each length that was measured."""
    known = sorted(set(values))
    low, high = (known[0], known[-1]) if known[0] < known[-1] else (known[0] / 2, known[-1] * 2)
    return Axis(label, low, high, tuple((value, format_tokens(int(value))) for value in known), log=True)


def share_axis(label: str) -> Axis:
    """Shares from 0 to 1 in percent."""
    return Axis(label, 0.0, 1.0, tuple((i / 4, f"{25 * i}%") for i in range(5)))


def linear_axis(values: Iterable[float], label: str, *, count: int = 6, tight: bool = False) -> Axis:
    """Numbers as they are, with ticks at round ones, where the axis begins and ends, too, unless it is ``tight``."""
    low, high = _range(values)
    step = _round_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [step * i for i in range(first, last + 1)]
    low, high = (low, high) if tight else (ticks[0], ticks[-1])
    return Axis(label, low, high, tuple((tick, short_number(tick)) for tick in ticks if low <= tick <= high))


def log_axis(values: Iterable[float], label: str, *, count: int = 7) -> Axis:
    """Positive numbers as logarithms, with ticks at round ones; a range within a factor of 2 stays as it is."""
    known = [value for value in values if value > 0]
    low, high = _range(known)
    if high < 2 * low:
        return linear_axis(known, label, count=count)
    low, high = low / 1.04, high * 1.04
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= count:
            break
    return Axis(label, low, high, tuple((tick, short_number(tick)) for tick in ticks), log=True)


def _range(values: Iterable[float]) -> tuple[float, float]:
    finite = [value for value in values if math.isfinite(value)] or [1.0]
    low, high = min(finite), max(finite)
    return (low, high) if low < high else (low - abs(low or 1) / 2, high + abs(high or 1) / 2)


def _round_step(wanted: float) -> float:
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= wanted * (1 - 1e-9))


def short_number(value: float) -> str:
    """A number on an axis: 0.0001, 2.5, 300, 12k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            unit = 1e3 if letter == "k" else size
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.0e}"


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


def draw_legend(parent: ET.Element, entries: Sequence[tuple[str, Style, str]], box: Box) -> float:
    """Draw (label, style, kind) in rows as wide as the box; return their height."""
    x, y = box.left, box.top
    for label, style, kind in entries:
        width = SAMPLE + 8 + CHARACTER * len(label) + 18
        if x > box.left and x + width > box.right + 18:
            x, y = box.left, y + LEGEND_LINE
        key = add(parent, "g", class_="key", style=f"--c:{style.color}", data_key=label)
        if kind in ("dot", "thin"):
            dash = {"stroke_dasharray": style.dash} if style.dash else {}
            add(
                key, "path", d=f"M{x:.1f} {y + 8:.1f}h{SAMPLE}", class_=f"line {kind if kind == 'thin' else ''}", **dash
            )
        if kind != "thin":
            draw_marker(key, style, x + SAMPLE / 2, y + 8, kind)
        add(key, "text", label, x=x + SAMPLE + 8, y=y + 12.5)
        x += width
    return y - box.top + LEGEND_LINE if entries else 0.0
