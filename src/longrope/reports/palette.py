"""How methods and runs look in every figure: colours for light and dark, dashes and markers.

Colour never stands alone: each method has a dash and a marker of its own, so that a figure can be read without colour.
"""

from dataclasses import dataclass
from importlib.resources import files

from longrope import registry

TRAINING = ("#c2255c", "#f783ac")  # the loss of a training, light and dark
SPARE_COLORS = (  # of methods that have no colour of their own, and of runs beside each other
    ("#12805c", "#3ccb98"),
    ("#c2255c", "#f783ac"),
    ("#7b2d8b", "#cf8be0"),
    ("#0b7285", "#4fc3d6"),
    ("#a8480f", "#e8864c"),
    ("#4a5b8c", "#a3b3e6"),
)
THEME = {  # light, dark
    "paper": ("#fbfaf8", "#14161a"),
    "card": ("#ffffff", "#1b1e24"),
    "ink": ("#1c2027", "#e7e5e1"),
    "muted": ("#626973", "#9da4ae"),
    "hair": ("#e7e4df", "#2c3038"),
    "rule": ("#8b929c", "#767e89"),
    "accent": ("#12805c", "#3ccb98"),
    "heat": ("#0e6b63", "#46cfc0"),
    "void": ("#f1efeb", "#24282f"),
    "on-heat": ("#ffffff", "#0d1114"),
}


@dataclass(frozen=True)
class Style:
    """How a series is drawn: a CSS colour, an SVG dash pattern (empty: solid) and a marker."""

    color: str
    dash: str = ""
    marker: str = "circle"


def style_of(method: str, run: int | None = None) -> Style:
    """The style of a method; of run number ``run`` beside others, its colour with the method's dash and marker."""
    row = registry.METHODS.get(method)
    shape = (row.dash, row.marker) if row else ()
    return Style(f"var(--{_color_name(method, run)})", *shape)


def _color_name(method: str, run: int | None) -> str:
    if run is not None:
        return f"spare-{run % len(SPARE_COLORS)}"
    return method if method in _method_colors() else f"spare-{sum(map(ord, method)) % len(SPARE_COLORS)}"


def _method_colors() -> dict[str, tuple[str, str]]:
    """The colours of the methods that have some, and of a training."""
    return {name: row.colours for name, row in registry.METHODS.items() if row.colours} | {"training": TRAINING}


def figure_style() -> str:
    """All CSS that a figure needs."""
    return _color_rules() + files(__package__).joinpath("figure.css").read_text(encoding="utf-8")


def _color_rules() -> str:
    """CSS that gives every colour a variable: light, dark where the reader prefers it, and either by ``data-theme``."""
    spare = {f"spare-{i}": pair for i, pair in enumerate(SPARE_COLORS)}
    named = {**THEME, **_method_colors(), **spare}
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in named.items()) for i in (0, 1))
    return (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
    )
