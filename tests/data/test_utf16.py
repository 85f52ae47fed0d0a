"""UTF-16 without a byte order mark: plain English in it is UTF-8 with zeros; it is named, and read if asked."""

from pathlib import Path
from typing import Any

import pytest
from split_documents import documents_of, encoded

from longrope.data import load_texts, pieces
from longrope.errors import TextsError

PLAIN = "Plain words, one line after the other.\n" * 40
FOREIGN = "Straße, Fluß, schöne Häuser in Köln.\n" * 40


@pytest.fixture(params=[2**23, 100], ids=["held", "in pieces"], autouse=True)
def held_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read whole, or as those that are too long to be held."""
    monkeypatch.setattr(pieces, "HELD_BYTES", request.param)


@pytest.mark.parametrize("text", [PLAIN, FOREIGN], ids=["plain", "foreign"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_it_is_named_and_read_when_it_is_given(encoding: str, text: str, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(TextsError, match=f"is not UTF-8 text, probably {encoding}: --encoding names it"):
        load_texts([], tokenizer, measure=[path])
    read = load_texts([], tokenizer, measure=[path], encoding=encoding)
    assert documents_of(read.measure) == [encoded(tokenizer, text)]


@pytest.mark.parametrize(
    "content", [PLAIN.encode() + b"\0", bytes(200), bytes(range(64)) * 9], ids=["a zero", "zeros", "bytes"]
)
def test_other_zeros_are_no_text_in_any_encoding(content: bytes, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(TextsError, match=r"a.txt is binary, not text\."):
        load_texts([], tokenizer, measure=[path])
    with pytest.raises(TextsError, match="neither UTF-8 nor latin-1 text"):
        load_texts([], tokenizer, measure=[path], encoding="latin-1")


def test_a_table_in_it_is_read(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id,text\n1,Plain words.\n".encode("utf-16-le"))
    read = load_texts([], tokenizer, measure=[path], encoding="utf-16-le")
    assert documents_of(read.measure) == [encoded(tokenizer, "Plain words.")]
