"""How a series is drawn, and the style sheet of a chart: its colours are CSS variables, for light and dark."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

Colors = tuple[str, str]  # CSS colours for a light and for a dark background
THEME: dict[str, Colors] = {
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


def style_sheet(colors: Mapping[str, Colors]) -> str:
    """All CSS that a chart needs, with these named colours beside those of the theme.

    A browser takes the light colours, or the dark ones where the reader prefers them; the attribute ``data-theme`` of
    the root element overrides both.
    """
    named = {**THEME, **colors}
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in named.items()) for i in (0, 1))
    rules = (
        f":root{{color-scheme:light;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
        f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
    )
    return rules + files(__package__).joinpath("figure.css").read_text(encoding="utf-8")
