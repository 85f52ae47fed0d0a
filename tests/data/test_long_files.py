"""Long text files are read in pieces: the same tokens, reports and refusals as of texts that are held."""

import gzip
from pathlib import Path
from typing import Any

import pico
import pytest

from longrope.data import load_texts, pieces
from longrope.errors import TextsError

TEXT = "\r\n\n".join(pico.make_text(20, seed=i) + "é" for i in range(40))
ASCII = "Plain words.\n" * 1000  # more than is decoded at once: as UTF-8 they are text with zeros


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred characters are long."""
    for name, size in {"HELD_BYTES": 400, "CHUNK": 70, "PIECE_CHARACTERS": 300}.items():
        monkeypatch.setattr(pieces, name, size)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("limit", [10**9, 200])
@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("a.txt", TEXT.encode(), ""),
        ("marked.txt", TEXT.encode("utf-8-sig"), ""),
        ("wide.txt", TEXT.encode("utf-16"), ""),
        ("unmarked.txt", (ASCII + TEXT).encode("utf-16")[2:], "utf-16"),
        ("a.txt.gz", gzip.compress(TEXT.encode()), ""),
        ("western.txt", TEXT.encode("latin-1"), "latin-1"),
    ],
)
def test_a_long_file_has_the_tokens_of_its_text(
    name: str,
    content: bytes,
    encoding: str,
    limit: int,
    tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In pieces of either size; between other documents, of which a copy is skipped."""
    monkeypatch.setattr(pieces, "LONG_CHARACTERS", limit)
    monkeypatch.setattr(pieces, "SHORT_PIECE", 90)
    (tmp_path / name).write_bytes(content)
    assert pieces.is_long(tmp_path / name)
    shown, text = list[int](), content.decode("utf-16-le") if name == "unmarked.txt" else TEXT
    given: list[Any] = [["Before. " * 9], tmp_path / name, ["After. " * 9], [text]]
    read = load_texts([], tokenizer, measure=given, encoding=encoding, on_read=shown.append)
    held = load_texts([], tokenizer, measure=[["Before. " * 9], [text], ["After. " * 9]])
    assert read.measure.tokens.tolist() == held.measure.tokens.tolist()
    assert read.measure.documents.tolist() == held.measure.documents.tolist()
    assert read.report.bytes_read == held.report.bytes_read
    assert read.report.rows_skipped == {("the given texts", "the same content as another document"): 1}
    assert shown == sorted(shown)
    assert len(set(shown)) > 6
    assert shown[-1] == read.report.bytes_read


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("limit", [10**9, 200])
def test_pieces_do_not_depend_on_how_the_text_arrives(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference finds each end in the whole text."""
    monkeypatch.setattr(pieces, "LONG_CHARACTERS", limit)
    monkeypatch.setattr(pieces, "SHORT_PIECE", 90)
    text, size = TEXT + "x" * 700, 300 if limit > len(TEXT) + 700 else 90
    expected, first = list[str](), 0
    while len(text) - first > size:
        window = text[first : first + size]
        places = [window.rfind(mark, 1) + len(mark) for mark in ("\n\n", "\n", " ")]
        last = first + next((place for place in places if place > size // 2), size)
        expected.append(text[first:last])
        first = last
    for step in (1, 7, 5000):
        chunks = (text[at : at + step] for at in range(0, len(text), step))
        assert list(pieces.cut(chunks, len(text))) == [*expected, text[first:]]


REFUSED = {
    "western.txt": (TEXT * 3).encode("latin-1"),
    "blank.txt": b" \n" * 500,
    "nul.txt": TEXT.encode() + b"\0",
    "a.pdf": b"%PDF-1.7 \xff" + TEXT.encode("latin-1"),
    "cut.txt.gz": gzip.compress(TEXT.encode())[:-40],
    "a.docx": b"PK\x03\x04\xff" + TEXT.encode("latin-1"),
    "no.txt": bytes(range(128, 256)) * 9,
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("encoding", ["", "ascii"])
def test_what_is_no_text_is_refused_as_a_short_file_is(
    name: str, encoding: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(REFUSED[name])
    said = []
    for size in (10**6, 400):
        monkeypatch.setattr(pieces, "HELD_BYTES", size)
        assert pieces.is_long(tmp_path / name) == (size == 400)
        with pytest.raises(TextsError) as caught:
            load_texts([tmp_path / name], tokenizer, encoding=encoding)
        said.append(caught.value.found)
    assert said[0] == said[1]


def test_a_stream_holds_no_more_than_it_may() -> None:
    """While a long document comes in parts, they go to the file."""
    import numpy as np

    from longrope.data.streams import TokenStream

    stream, held = TokenStream(in_memory=100), list[int]()

    def parts() -> Any:
        for i in range(20):
            held.append(stream._held_tokens)
            yield np.full(30, i, np.int32)

    stream.extend("long", parts())
    assert max(held) <= 100
    assert stream.tokens().tolist() == [i for i in range(20) for _ in range(30)]
    assert stream.borders().tolist() == [0, 600]
