"""What a model's weights were tuned on: a sketch that lies beside them, so that nobody measures on it (data.sketches).

A folder of weights or of an adapter has a file of it, and a GGUF file a key.
"""

from pathlib import Path

from transformers.utils.hub import cached_file

from longrope.data import TextSketch, dump_sketch, parse_sketch
from longrope.models.gguf_file import GgufFile

FILE, GGUF_KEY = "tuned_on.json", "longrope.tuned_on"


def read_tuned_on(source: str | Path, file: GgufFile | None = None) -> TextSketch:
    """The sketch of a folder, of a hub name or of a GGUF file; an empty one where there is none.

    Raises:
        TextsError: it is damaged.
    """
    if file:
        text = file.metadata.get(GGUF_KEY)
        return TextSketch() if text is None else parse_sketch(str(text), str(file.path))
    path = Path(source) / FILE if Path(source).is_dir() else _of_hub(str(source))
    return parse_sketch(path.read_text(encoding="utf-8"), str(path)) if path and path.is_file() else TextSketch()


def write_tuned_on(folder: Path, sketch: TextSketch) -> None:
    """Write the sketch of a model into the folder of its weights; one of no text is not written."""
    if sketch:
        (folder / FILE).write_text(dump_sketch(sketch) + "\n", encoding="utf-8")


def _of_hub(name: str) -> Path | None:
    found = cached_file(
        name,
        FILE,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(found) if found else None
