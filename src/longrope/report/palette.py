"""How methods and runs look in every figure: names, colours for light and dark, dashes and markers.

Colour never stands alone: each method has a dash and a marker of its own, so that a figure can be read without colour.
"""

from longrope.report.charts.style import Style, style_sheet

LABELS = {
    "none": "the model as it is",
    "pi": "PI",
    "ntk": "NTK",
    "dynamic-ntk": "dynamic NTK",
    "yarn": "YaRN",
    "critical": "critical-pair rule",
    "longrope-gradient": "LongRoPE, gradient",
    "longrope-evolution": "LongRoPE, evolution",
    "longrope-tuned": "LongRoPE, tuned",
    "longrope-recovered": "LongRoPE, short window",
    "training": "training loss",
}
METHOD_COLORS = {  # light, dark
    "none": ("#7a808a", "#9aa1ab"),
    "pi": ("#b0746a", "#d6a297"),
    "ntk": ("#c98500", "#f0b440"),
    "dynamic-ntk": ("#a8480f", "#e8864c"),
    "yarn": ("#2b6cd4", "#74a8ff"),
    "critical": ("#0b7285", "#4fc3d6"),
    "longrope-gradient": ("#12805c", "#3ccb98"),
    "longrope-evolution": ("#7b2d8b", "#cf8be0"),
    "longrope-tuned": ("#c2255c", "#f783ac"),
    "training": ("#c2255c", "#f783ac"),
}
SPARE_COLORS = (  # of methods that have no colour of their own, and of runs beside each other
    ("#12805c", "#3ccb98"),
    ("#c2255c", "#f783ac"),
    ("#7b2d8b", "#cf8be0"),
    ("#0b7285", "#4fc3d6"),
    ("#a8480f", "#e8864c"),
    ("#4a5b8c", "#a3b3e6"),
)
DASHES = {
    "none": "1.5 4",
    "pi": "8 4",
    "ntk": "6 3",
    "dynamic-ntk": "8 3 1.5 3",
    "yarn": "5 3",
    "critical": "2 3",
    "longrope-evolution": "10 5",
}
MARKERS = {
    "none": "cross",
    "pi": "down",
    "ntk": "square",
    "dynamic-ntk": "plus",
    "yarn": "up",
    "critical": "square",
    "longrope-evolution": "diamond",
}


def label_of(method: str) -> str:
    """What a method is called in words; one that is not ours keeps its name."""
    return LABELS.get(method, method)


def style_of(method: str, run: int | None = None) -> Style:
    """The style of a method; of run number ``run`` beside others, its colour with the method's dash and marker."""
    return Style(f"var(--{_color_name(method, run)})", DASHES.get(method, ""), MARKERS.get(method, "circle"))


def _color_name(method: str, run: int | None) -> str:
    if run is not None:
        return f"spare-{run % len(SPARE_COLORS)}"
    return method if method in METHOD_COLORS else f"spare-{sum(map(ord, method)) % len(SPARE_COLORS)}"


def figure_style() -> str:
    """All CSS that a figure of the report needs."""
    return style_sheet({**METHOD_COLORS, **{f"spare-{i}": pair for i, pair in enumerate(SPARE_COLORS)}})
