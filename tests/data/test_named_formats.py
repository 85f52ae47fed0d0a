"""Files of known kinds that are no text are named, with what to do."""

import bz2
import io
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from longrope.data import load_texts

TEXT = ("Some words that are no text while they are packed. " * 30).encode()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("word/document.xml", TEXT)
    return out.getvalue()


PACKED = {
    "a.docx": (zipped(), "a ZIP archive"),
    "a.txt.xz": (lzma.compress(TEXT), "an xz file: unpack it"),
    "a.txt.bz2": (bz2.compress(TEXT), "a bzip2 file: unpack it"),
    "a.txt.zst": (pa.compress(TEXT, codec="zstd", asbytes=True), "a zstd file: unpack it"),
}


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("encoding", ["", "latin-1"])
def test_what_is_packed_is_named(name: str, encoding: str, tokenizer: Any, tmp_path: Path) -> None:
    content, reason = PACKED[name]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "b.txt").write_text("Some words.")
    ((path, said),) = load_texts([tmp_path], tokenizer, encoding=encoding).report.skipped
    assert path.name == name
    assert said.startswith(reason)
