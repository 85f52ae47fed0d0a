"""How methods and runs look in every figure of the report.

Colour never stands alone: each method has a dash and a marker of its own, so that a figure can be read without colour.
"""

import zlib

from longrope.registry import METHODS
from longrope.report.charts.style import Colors, Style, style_sheet
from longrope.rows import Method

TRAINING: Colors = ("#c2255c", "#f783ac")  # the loss of a training
SPARE_COLORS = (  # light and dark; of methods that have no colour of their own, and of runs beside each other
    ("#12805c", "#3ccb98"),
    ("#c2255c", "#f783ac"),
    ("#7b2d8b", "#cf8be0"),
    ("#0b7285", "#4fc3d6"),
    ("#a8480f", "#e8864c"),
    ("#4a5b8c", "#a3b3e6"),
)


def style_of(method: str, run: int | None = None) -> Style:
    """The style of a method; of run number ``run`` beside others, its colour with the method's dash and marker."""
    row = METHODS.get(method, Method(method, method))
    if run is not None:
        color = _spare(run)
    elif method in _own_colors():
        color = method
    else:
        color = _spare(zlib.crc32(method.encode()))  # the same colour in every figure and on every page
    return Style(f"var(--{color})", row.dash, row.marker)


def figure_style() -> str:
    """All CSS that a figure of the report needs."""
    return style_sheet({**_own_colors(), **{_spare(i): pair for i, pair in enumerate(SPARE_COLORS)}})


def _own_colors() -> dict[str, Colors]:
    """The colours of the methods that have some, and of a training."""
    return {name: row.colours for name, row in METHODS.items() if row.colours} | {"training": TRAINING}


def _spare(number: int) -> str:
    """The name of a spare colour in the style sheet."""
    return f"spare-{number % len(SPARE_COLORS)}"
