"""How a GGUF file can hold rescale factors, and for which of llama.cpp's architectures it uses them.

``static`` is one list for every length, the tensor ``rope_freqs``; llama.cpp of all years, Ollama and mistral.rs know
it from Llama-3.1. ``longrope`` is a short and a long list, of which llama.cpp takes one by the size of its context.

An architecture is listed if llama.cpp reads the tensors into it and its graph divides the frequencies by them. Of the
others most refuse a file with tensors that they do not know; falcon-h1, llada, pangu-embedded and refact read it and
run as before, without a word. Read in the source of b11549, and seen with it: each listed one gives other logits.
"""

from longrope.errors import ExportError

STATIC, LONGROPE = "static", "longrope"
LAYOUTS = (STATIC, LONGROPE)
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "mistral3", "minicpm", "granite", "deci"), LAYOUTS),
    **dict.fromkeys(("exaone", "arcee", "nanbeige"), (STATIC,)),
    "phi3": (LONGROPE,),
}


def choose_layout(architecture: str, factor_sets: str, wanted: str = "") -> str:
    """The layout of a file.

    Args:
        architecture: of llama.cpp, such as ``llama``.
        factor_sets: ``single``, or ``two``, which the static layout cannot hold.
        wanted: a layout; if empty, the static one where it can hold the factors.

    Raises:
        ExportError: no such layout, or one that the architecture or the factor sets rule out.
    """
    if wanted not in ("", *LAYOUTS):
        raise ExportError(
            f"The layout {wanted!r} was asked for.", f"Known: {', '.join(LAYOUTS)}.", f"Use --layout {STATIC}."
        )
    if architecture not in ARCHITECTURES:
        raise ExportError(
            f"llama.cpp's graph of the architecture {architecture!r} does not use factor tensors.",
            f"With these architectures it does: {', '.join(ARCHITECTURES)}. With any other it would refuse the file or "
            "run without the factors.",
            "Export a folder with --to hf.",
        )
    able = [
        layout
        for layout in ARCHITECTURES[architecture]
        if layout == LONGROPE or factor_sets == "single"  # one list cannot hold two
    ]
    if not able or (wanted and wanted not in able):
        raise ExportError(
            f"The layout {wanted or LONGROPE!r} was asked for, of {factor_sets} factor sets.",
            f"The architecture {architecture!r} can have: {_describe(architecture)}.",
            f"Export with --layout {able[0]}." if able else "Export a single factor set.",
        )
    return wanted or able[0]


def _describe(architecture: str) -> str:
    sets = {STATIC: "static (a single factor set)", LONGROPE: "longrope (one or two)"}
    return " or ".join(sets[layout] for layout in ARCHITECTURES[architecture])
