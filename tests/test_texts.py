"""Texts: what is read, how it is split and cut, and that nobody measures on text that a search has seen.

The oracles are sets of tuples: no hash and no prefix sum of the module is used to judge it.
"""

import gzip
import os
import re
import sys
import sysconfig
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from longrope.errors import TextsError
from longrope.texts import (
    Texts,
    TokenText,
    check_unsearched,
    fingerprint,
    load_texts,
    opening_token,
    plant_needles,
    sketch,
)

SHINGLE = 48


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The pico tokenizer, which puts nothing before a text."""
    return pico.make_tokenizer()


@pytest.fixture(scope="module")
def opening_tokenizer() -> Any:
    """The same tokenizer with a begin-of-text token before every text, as Llama's has."""
    tokenizer = pico.make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    template = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", len(tokenizer) - 1)])
    tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


def shingles(*streams: np.ndarray) -> set[tuple[int, ...]]:
    """Every run of 48 tokens, as it is."""
    return {tuple(s[i : i + SHINGLE].tolist()) for s in streams for i in range(len(s) - SHINGLE + 1)}


def parts_of(texts: Texts) -> list[np.ndarray]:
    """The token streams of the three splits, in the order of the text."""
    return [texts.search.tokens, texts.tune.tokens, texts.measure.tokens]


def encoded(tokenizer: Any, *contents: str) -> list[int]:
    """The tokens of documents one after the other, each closed by the end-of-text token."""
    rows = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in contents]
    return [token for row in rows for token in row]


def write_documents(folder: Path, count: int, words: int = 240) -> list[str]:
    """Files ``00.txt`` … of different content; returns their contents in order."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [pico.make_text(words, seed=100 + i) for i in range(count)]
    for i, content in enumerate(contents):
        (folder / f"{i:02}.txt").write_text(content)
    return contents


def unique_text(tokens: int, seed: int = 0) -> TokenText:
    """Random tokens of a large vocabulary: every stretch of it is unlike every other."""
    drawn = np.random.default_rng(seed).integers(0, 30_000, tokens)
    return TokenText(drawn.astype(np.int32), "search")


# Reading and splitting


def test_splits_share_no_content_and_hold_every_token_once(tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path, 12)
    parts = parts_of(load_texts([tmp_path], tokenizer))
    assert np.concatenate(parts).tolist() == encoded(tokenizer, *contents)
    whole = shingles(*parts)
    assert len(whole) > 2000
    assert sum(len(shingles(part)) for part in parts) == len(whole)


def test_splits_have_their_shares_and_end_at_document_borders(tokenizer: Any, tmp_path: Path) -> None:
    write_documents(tmp_path, 20)
    parts = parts_of(load_texts([tmp_path], tokenizer))
    total = sum(map(len, parts))
    assert [round(len(part) / total, 1) for part in parts] == [0.4, 0.4, 0.2]
    assert [int(part[-1]) for part in parts] == [tokenizer.eos_token_id] * 3


def test_one_long_file_is_cut_at_the_shares_themselves(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(pico.make_text(3000))
    texts = load_texts([tmp_path / "one.txt"], tokenizer)
    total = sum(map(len, parts_of(texts)))
    assert [len(part) for part in parts_of(texts)] == pytest.approx([0.4 * total, 0.4 * total, 0.2 * total], abs=1)
    assert np.concatenate(parts_of(texts)).tolist() == encoded(tokenizer, pico.make_text(3000))


def documents_of(text: TokenText) -> list[list[int]]:
    """The tokens of each document of a text."""
    ends = [*text.documents[1:].tolist(), len(text.tokens)]
    return [text.tokens[a:b].tolist() for a, b in zip(text.documents.tolist(), ends, strict=True)]


def test_splits_know_where_their_documents_begin(tokenizer: Any, tmp_path: Path) -> None:
    """Each file is a document; one that a split cuts is a document in both of its parts."""
    sizes = (240, 2000, 300, 600, 90, 1500)
    contents = [pico.make_text(words, seed=i) for i, words in enumerate(sizes)]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.txt").write_text(content)
    texts = load_texts([tmp_path], tokenizer)
    given = [document for text in (texts.search, texts.tune, texts.measure) for document in documents_of(text)]
    files = [encoded(tokenizer, content) for content in contents]
    assert len(given) > len(files), "no document was cut"
    for file in files:
        pieces: list[int] = []
        while len(pieces) < len(file):
            pieces += given.pop(0)
        assert pieces == file
    assert not given


def test_documents_to_measure_on_are_known(tokenizer: Any, tmp_path: Path) -> None:
    write_documents(tmp_path / "books", 3)
    (tmp_path / "other").mkdir()
    contents = [pico.make_text(90 + 60 * i, seed=i) for i in range(4)]
    for i, content in enumerate(contents):
        (tmp_path / "other" / f"{i}.txt").write_text(content)
    texts = load_texts([tmp_path / "books"], tokenizer, measure=[tmp_path / "other"])
    assert documents_of(texts.measure) == [encoded(tokenizer, content) for content in contents]


def test_a_text_is_one_document_unless_told_otherwise() -> None:
    assert unique_text(100).documents.tolist() == [0]
    assert TokenText(np.zeros(0, np.int32), "search").documents.tolist() == [0]


@pytest.mark.parametrize("starts", [[], [1], [0, 5, 5], [0, 7, 3], [0, 100], [-1, 4]])
def test_documents_that_do_not_follow_one_another_are_refused(starts: list[int]) -> None:
    with pytest.raises(TextsError, match=r"search text \(100 tokens\) has \d documents in disorder"):
        replace(unique_text(100), documents=np.asarray(starts, np.int64))


def test_a_far_border_does_not_empty_a_split(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(pico.make_text(60, seed=1))
    (tmp_path / "b.txt").write_text(pico.make_text(3000, seed=2))
    total = len(encoded(tokenizer, pico.make_text(60, seed=1), pico.make_text(3000, seed=2)))
    lengths = [len(part) for part in parts_of(load_texts([tmp_path], tokenizer))]
    assert lengths == pytest.approx([0.4 * total, 0.4 * total, 0.2 * total], abs=0.05 * total)


def test_reading_is_deterministic(tokenizer: Any, tmp_path: Path) -> None:
    write_documents(tmp_path / "books", 6)
    first, second = load_texts([tmp_path / "books"], tokenizer), load_texts([str(tmp_path / "books")], tokenizer)
    for a, b in zip(parts_of(first), parts_of(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_documents_that_occur_twice_are_read_once(tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path / "books", 5)
    (tmp_path / "books" / "99-copy.txt").write_text(contents[0])
    parts = parts_of(load_texts([tmp_path / "books", tmp_path / "books" / "03.txt", tmp_path / "books"], tokenizer))
    assert np.concatenate(parts).tolist() == encoded(tokenizer, *contents)


def test_a_compressed_file_is_read_as_its_content(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(pico.make_text(600).encode()))
    parts = parts_of(load_texts([tmp_path], tokenizer))
    assert np.concatenate(parts).tolist() == encoded(tokenizer, pico.make_text(600))


def test_a_compressed_copy_is_the_same_document(tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path, 5)
    (tmp_path / "99.txt.gz").write_bytes(gzip.compress(contents[0].encode()))
    parts = parts_of(load_texts([tmp_path], tokenizer))
    assert not shingles(parts[0]) & shingles(parts[2])
    assert np.concatenate(parts).tolist() == encoded(tokenizer, *contents)


def test_files_that_are_not_text_are_skipped(tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path, 2)
    whole = gzip.compress(pico.make_text(600, seed=7).encode())
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
    (tmp_path / "latin.txt").write_bytes("größe ".encode("latin-1") * 100)
    (tmp_path / "binary.txt").write_bytes(b"text with a zero byte \0 in it")
    (tmp_path / "picture.png").write_bytes(bytes(range(256)))
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "no-gzip.gz").write_bytes(b"plain bytes")
    (tmp_path / "torn.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / ".hidden.txt").write_text(pico.make_text(60, seed=8))
    assert np.concatenate(parts_of(load_texts([tmp_path], tokenizer))).tolist() == encoded(tokenizer, *contents)


def test_a_damaged_compressed_file_is_skipped(tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path, 2)
    damaged = bytearray(gzip.compress(pico.make_text(600, seed=7).encode()))
    damaged[12:60] = b"\xff" * 48
    (tmp_path / "damaged.gz").write_bytes(damaged)
    assert np.concatenate(parts_of(load_texts([tmp_path], tokenizer))).tolist() == encoded(tokenizer, *contents)


def skips(texts: Texts) -> dict[str, str]:
    """The reason for each file that was skipped, by its name."""
    return {path.name: reason for path, reason in texts.report.skipped}


def test_what_was_read_and_skipped_is_reported(tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path, 4)
    (tmp_path / "latin.txt").write_bytes("größe ".encode("latin-1") * 100)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG" + bytes(range(256)))
    (tmp_path / "zero.txt").write_bytes(b"text with a zero byte \0 in it")
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(b"text" * 1000)[:40])
    (tmp_path / "copy.txt").write_text(contents[1])
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / ".hidden.txt").write_text("hidden")
    write_documents(tmp_path / ".git", 3)
    texts = load_texts([tmp_path], tokenizer)
    assert np.concatenate(parts_of(texts)).tolist() == encoded(tokenizer, *contents)
    assert texts.report.files == [tmp_path / f"{i:02}.txt" for i in range(4)]
    no_file = "no regular file, or a link to a folder"
    assert skips(texts) == {
        "latin.txt": "not UTF-8 text",
        "picture.png": "not UTF-8 text",
        "zero.txt": "binary, not text",
        "blank.txt": "blank",
        "torn.gz": "a damaged .gz file",
        "copy.txt": "the same content as another file",
        **dict.fromkeys(("gone.txt", "elsewhere", "pipe.txt"), no_file),
    }
    assert texts.report.hidden == 4
    parts = {"search": texts.search, "tune": texts.tune, "measure": texts.measure}
    assert texts.report.tokens == {name: len(part.tokens) for name, part in parts.items()}
    assert texts.report.documents == {name: len(documents_of(part)) for name, part in parts.items()}


def test_the_report_is_one_line_and_one_for_each_reason_to_skip(tokenizer: Any, tmp_path: Path) -> None:
    write_documents(tmp_path, 1)
    for i in range(5):
        (tmp_path / f"latin-{i}.txt").write_bytes(f"größe {i}".encode("latin-1"))
    (tmp_path / "blank.txt").write_text("")
    texts = load_texts([tmp_path], tokenizer)
    first, *rest = texts.report.lines()
    counts = "; ".join(
        f"{part.name} 1 document, {len(part.tokens):,} tokens" for part in (texts.search, texts.tune, texts.measure)
    )
    assert first == f"read 1 file: {counts}"
    shown = ", ".join(str(tmp_path / f"latin-{i}.txt") for i in range(3))
    assert sorted(rest) == [f"skipped 1 (blank): {tmp_path / 'blank.txt'}", f"skipped 5 (not UTF-8 text): {shown}, ..."]
    (tmp_path / ".a").write_text("a")
    assert load_texts([tmp_path], tokenizer).report.lines()[-1] == "skipped 1 (hidden files)"


def test_copies_of_measuring_texts_are_reported(tokenizer: Any, tmp_path: Path) -> None:
    write_documents(tmp_path / "books", 3)
    (tmp_path / "held-out.txt").write_text((tmp_path / "books" / "01.txt").read_text())
    texts = load_texts([tmp_path / "books"], tokenizer, measure=[tmp_path / "held-out.txt"])
    assert skips(texts) == {"01.txt": "the same content as another file"}
    assert len(texts.report.files) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [("größe".encode("latin-1"), "not UTF-8 text"), (b" \n", "blank"), (b"a\0b", "binary, not text")],
)
def test_a_given_file_that_is_no_text_is_refused(content: bytes, reason: str, tokenizer: Any, tmp_path: Path) -> None:
    """Beside good texts, too: what is named is wanted."""
    write_documents(tmp_path / "books", 2)
    (tmp_path / "given.txt").write_bytes(content)
    with pytest.raises(TextsError, match=rf"given\.txt is {reason}"):
        load_texts([tmp_path / "books", tmp_path / "given.txt"], tokenizer)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "deep/A.JSONL"])
def test_files_of_records_are_refused(name: str, tokenizer: Any, tmp_path: Path) -> None:
    """Given by name or in a folder beside texts: their braces are no text, and leaving them out would be silent."""
    write_documents(tmp_path / "books", 2)
    path = tmp_path / "books" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"text": "one document"}\n' * 50)
    for source in (path, tmp_path / "books"):
        with pytest.raises(TextsError, match=r"1 file of records cannot be read: .*\.(?i:jsonl|parquet)") as caught:
            load_texts([source], tokenizer)
        assert ".txt" in caught.value.remedy
        assert ".npy" in caught.value.remedy
    with pytest.raises(TextsError, match="of records"):
        load_texts([tmp_path / "books" / "00.txt"], tokenizer, measure=[path])


def test_a_folder_without_text_is_refused_with_what_was_skipped(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("größe".encode("latin-1"))
    with pytest.raises(TextsError, match=r"No text was found in .*skipped 1 \(not UTF-8 text\): .*latin\.txt"):
        load_texts([tmp_path], tokenizer)


@pytest.mark.parametrize(("start", "given_as"), [("here", ".."), ("here", "../books"), (".", ".hidden/books")])
def test_a_folder_is_read_whatever_the_path_to_it(
    start: str, given_as: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden files inside a source are left out; a dot in the way to the source hides nothing."""
    (tmp_path / start).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / start)
    contents = write_documents(Path(given_as), 2)
    parts = parts_of(load_texts([given_as], tokenizer))
    assert np.concatenate(parts).tolist() == encoded(tokenizer, *contents)


class ByteTokenizer:
    """The bytes of a text as its tokens: quick enough for megabytes."""

    bos_token_id, eos_token_id = None, 256

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [*text.encode()]}


def test_the_standard_library_is_read_by_its_name() -> None:
    """Every single-file module that this Python calls its own, once, in the order of the names; three parts of it."""
    folder = Path(sysconfig.get_path("stdlib"))
    names = sorted(f"{name}.py" for name in sys.stdlib_module_names)
    contents = [(folder / name).read_bytes() for name in names if (folder / name).is_file()]
    texts = load_texts(["stdlib"], ByteTokenizer())
    whole = np.concatenate(parts_of(texts))
    assert len(contents) > 100
    assert whole[whole != 256].astype(np.uint8).tobytes() == b"".join(filter(None, contents))
    again = load_texts(["stdlib"], ByteTokenizer())
    assert all(map(np.array_equal, parts_of(texts), parts_of(again)))
    assert {int(part[-1]) for part in parts_of(texts)} == {256}


def make_stdlib(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A standard library of three modules, with what may lie around them; returns the modules' contents."""
    contents = write_documents(folder, 3)
    for i, name in enumerate(("abc", "heapq", "zipapp")):
        (folder / f"{i:02}.txt").rename(folder / f"{name}.py")
    for name in ("_sysconfigdata__linux.py", "sitecustomize.py", "test/test_abc.py", "json/decoder.py", "LICENSE.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"not to be read: {name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder) if name == "stdlib" else None)
    return contents


def test_only_modules_of_the_standard_library_are_read(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither packages nor tests nor what a platform or a distribution lays beside the modules."""
    contents = make_stdlib(tmp_path / "lib", monkeypatch)
    parts = parts_of(load_texts(["stdlib"], tokenizer))
    assert np.concatenate(parts).tolist() == encoded(tokenizer, *contents)


def test_the_standard_library_stands_beside_paths(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of the same name is read by a path to it, or as a Path."""
    library = make_stdlib(tmp_path / "lib", monkeypatch)
    (tmp_path / "stdlib").mkdir()
    (tmp_path / "stdlib" / "own.txt").write_text(own := pico.make_text(240, seed=7))
    monkeypatch.chdir(tmp_path)
    for path in ("./stdlib", Path("stdlib")):
        parts = parts_of(load_texts(["stdlib", path], tokenizer))
        assert np.concatenate(parts).tolist() == encoded(tokenizer, *library, own)
    texts = load_texts(["./stdlib"], tokenizer, measure=["stdlib"])
    assert texts.measure.tokens.tolist() == encoded(tokenizer, *library)


def test_a_python_without_sources_is_told(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "abc.pyc").write_bytes(b"stripped")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(TextsError, match="holds no sources of Python's standard library"):
        load_texts(["stdlib"], tokenizer)


def test_hidden_folders_inside_a_source_are_left_out(tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path / "books", 2)
    write_documents(tmp_path / "books" / ".git" / "objects", 3)
    parts = parts_of(load_texts([tmp_path / "books"], tokenizer))
    assert np.concatenate(parts).tolist() == encoded(tokenizer, *contents)


def test_token_arrays_are_taken_as_they_are(tokenizer: Any, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, len(tokenizer), 1000)
    np.save(tmp_path / "tokens.npy", ids.astype(np.uint16))
    assert np.concatenate(parts_of(load_texts([tmp_path / "tokens.npy"], tokenizer))).tolist() == ids.tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(100, np.float32),
        np.zeros((10, 10), np.int32),
        np.zeros(0, np.int32),
        np.zeros(100, np.bool_),
        np.array([1, 2, 320 + 50]),
        np.array([1, 2, -1]),
        np.array(["a", "b"]),
        np.array([1, None], dtype=object),
    ],
    ids=["floats", "two-rows", "empty", "booleans", "out-of-vocabulary", "negative", "words", "pickled"],
)
def test_wrong_token_arrays_are_refused(array: np.ndarray, tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "tokens.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(TextsError, match=r"tokens\.npy"):
        load_texts([path], tokenizer)


@pytest.mark.parametrize("content", [b"", b"no array at all"], ids=["empty", "text"])
def test_a_token_file_that_is_no_array_is_refused(content: bytes, tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "tokens.npy").write_bytes(content)
    with pytest.raises(TextsError, match=r"tokens\.npy"):
        load_texts([tmp_path], tokenizer)


def test_measure_sources_stay_apart(tokenizer: Any, tmp_path: Path) -> None:
    searched = write_documents(tmp_path / "search", 6)
    held_out = [pico.make_text(240, seed=900 + i) for i in range(2)]
    (tmp_path / "measure").mkdir()
    for i, content in enumerate([*held_out, searched[2]]):
        (tmp_path / "measure" / f"{i}.txt").write_text(content)
    texts = load_texts([tmp_path / "search"], tokenizer, measure=[tmp_path / "measure"])
    assert texts.measure.tokens.tolist() == encoded(tokenizer, *held_out, searched[2])
    rest = [content for content in searched if content != searched[2]]
    assert [*texts.search.tokens.tolist(), *texts.tune.tokens.tolist()] == encoded(tokenizer, *rest)
    assert not shingles(texts.search.tokens, texts.tune.tokens) & shingles(texts.measure.tokens)
    assert len(texts.search.tokens) == pytest.approx(len(texts.tune.tokens), rel=0.3)


def test_a_path_that_is_not_there_is_named(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(TextsError, match="nowhere does not exist"):
        load_texts([tmp_path / "nowhere"], tokenizer)


def test_sources_without_any_text_are_named(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "good").mkdir()
    write_documents(tmp_path / "good", 1)
    with pytest.raises(TextsError, match=r"No text was found in .*empty"):
        load_texts([tmp_path / "empty"], tokenizer)
    with pytest.raises(TextsError, match=r"No text was found in .*empty"):
        load_texts([tmp_path / "good"], tokenizer, measure=[tmp_path / "empty"])
    with pytest.raises(TextsError, match="no path given"):
        load_texts([], tokenizer)


# Windows


@settings(deadline=None)
@given(size=st.integers(1, 400), length=st.integers(2, 60), count=st.integers(1, 12), bos=st.booleans())
def test_windows_are_whole_stretches_that_never_overlap(size: int, length: int, count: int, bos: bool) -> None:
    """Tokens are their own positions, so every window shows where it was cut."""
    text = TokenText(np.arange(size, dtype=np.int32), "search", bos=1_000_000 if bos else None)
    body = length - bos
    if size < body:
        with pytest.raises(TextsError):
            text.windows(length, count)
        return
    windows = text.windows(length, count)
    assert windows.shape == (min(count, size // body), length)
    assert windows.dtype == np.int32
    if bos:
        assert (windows[:, 0] == 1_000_000).all()
    cut = windows[:, int(bos) :]
    assert (np.diff(cut, axis=1) == 1).all()
    starts = cut[:, 0].tolist()
    assert all(later - earlier >= body for earlier, later in pairwise(starts))
    assert starts[0] == 0
    if len(starts) > 1:
        assert cut[-1, -1] == size - 1


@settings(deadline=None)
@given(pieces=st.integers(1, 5), length=st.integers(2, 40), rows=st.integers(1, 4), extra=st.integers(0, 30))
def test_divided_windows_cover_the_same_tokens(pieces: int, length: int, rows: int, extra: int) -> None:
    extra %= length
    whole = pieces * length + extra
    text = TokenText(np.arange(rows * whole, dtype=np.int32), "measure")
    windows = text.windows(whole, rows)
    short = text.divided(windows, length)
    assert short.shape == (rows * pieces, length)
    assert short.ravel().tolist() == windows[:, : pieces * length].ravel().tolist()


@settings(deadline=None)
@given(pieces=st.integers(1, 5), length=st.integers(2, 40), rows=st.integers(1, 4))
def test_divided_windows_open_with_bos_and_cover_the_same_tokens(pieces: int, length: int, rows: int) -> None:
    whole = pieces * (length - 1) + 1
    text = TokenText(np.arange(rows * (whole - 1), dtype=np.int32), "measure", bos=1_000_000)
    windows = text.windows(whole, rows)
    short = text.divided(windows, length)
    assert short.shape == (rows * pieces, length)
    assert (short[:, 0] == 1_000_000).all()
    assert short[:, 1:].ravel().tolist() == windows[:, 1:].ravel().tolist()


def test_every_window_of_a_tokenizer_with_bos_opens_with_it(opening_tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path, 6)
    texts = load_texts([tmp_path], opening_tokenizer)
    bos = opening_tokenizer.convert_tokens_to_ids("<|begin|>")
    assert np.concatenate(parts_of(texts)).tolist() == encoded(opening_tokenizer, *contents)
    for part in (texts.search, texts.tune, texts.measure):
        windows = part.windows(32, 4)
        assert (windows[:, 0] == bos).all()
        assert bos not in windows[:, 1:]
        assert opening_tokenizer(opening_tokenizer.decode(windows[0, 1:]))["input_ids"][0] == bos


def test_opening_token_is_the_one_that_is_really_put_there(tokenizer: Any, opening_tokenizer: Any) -> None:
    declared = pico.make_tokenizer()
    declared.add_special_tokens({"bos_token": "<|begin|>"})
    assert opening_token(tokenizer) is None
    assert opening_token(declared) is None
    assert opening_token(opening_tokenizer) == opening_tokenizer.bos_token_id


def test_too_short_texts_are_told_with_their_numbers() -> None:
    text = TokenText(np.zeros(12_345, np.int32), "measure")
    with pytest.raises(TextsError) as caught:
        text.windows(65_536, 3)
    assert "measure text has 12,345 tokens" in caught.value.found
    assert "1 window of 65,536 tokens" in caught.value.needed
    with pytest.raises(TextsError) as caught:
        text.windows(5_000, 3, minimum=3)
    assert "3 windows of 5,000 tokens" in caught.value.needed


@pytest.mark.parametrize("bos", [None, 7])
def test_a_numbered_text_says_which_document_each_token_of_a_window_belongs_to(bos: int | None) -> None:
    """Every token is its own place in the text, so a window says where it was cut; documents are looked up by hand."""
    starts = [0, 5, 6, 90, 200]
    text = TokenText(np.arange(100, 400, dtype=np.int32), "measure", bos, np.array(starts))
    windows, numbers = text.windows(41, 6), text.numbered().windows(41, 6)
    for cut, numbered in ((windows, numbers), *[(text.divided(windows, 21), text.numbered().divided(numbers, 21))]):
        assert cut.shape == numbered.shape
        for window, row in zip(cut.tolist(), numbered.tolist(), strict=True):
            opened = int(bos is not None)
            assert row[opened:] == [sum(start <= token - 100 for start in starts) - 1 for token in window[opened:]]
            assert row[:opened] == [0] * opened


# Text that was searched on


def test_the_searched_text_itself_is_refused() -> None:
    windows = unique_text(8000).windows(1000, 6)
    with pytest.raises(TextsError, match="About 100%"):
        check_unsearched(windows, sketch(windows))


@pytest.mark.parametrize("offset", [1, 17, 499, 777])
def test_searched_text_is_refused_at_any_offset(offset: int) -> None:
    text = unique_text(20_000)
    searched = text.windows(4000, 5)
    shifted = text.tokens[offset : offset + 5000].reshape(5, 1000)
    with pytest.raises(TextsError, match="no search has seen"):
        check_unsearched(shifted, sketch(searched))


def test_a_small_share_of_searched_text_is_refused() -> None:
    """5 % of the searched text in a tenth of one measuring window."""
    searched = unique_text(20_000).windows(4000, 5)
    measured = unique_text(30_000, seed=1).windows(10_000, 3)
    measured[1, 3000:4000] = searched[2, 123:1123]
    with pytest.raises(TextsError, match="no search has seen"):
        check_unsearched(measured, sketch(searched))


def test_unrelated_text_passes() -> None:
    searched = unique_text(20_000).windows(4000, 5)
    check_unsearched(unique_text(20_000, seed=1).windows(4000, 5), sketch(searched))


def test_unrelated_prose_of_the_same_vocabulary_passes(tokenizer: Any, tmp_path: Path) -> None:
    searched, measured = pico.save_texts(tmp_path)
    texts = load_texts([searched], tokenizer, measure=[measured])
    check_unsearched(texts.measure.windows(256, 8), sketch(texts.search.windows(256, 8)))


def test_one_short_header_in_common_passes() -> None:
    searched, measured = unique_text(40_000).windows(8000, 5), unique_text(40_000, seed=1).windows(8000, 5)
    header = unique_text(60, seed=2).tokens
    searched[0, :60], measured[3, 100:160] = header, header
    assert shingles(*searched) & shingles(*measured)
    check_unsearched(measured, sketch(searched))


@pytest.mark.parametrize("copied", [300, 1000, 2400])
def test_the_share_that_is_told_is_the_true_one(copied: int) -> None:
    """The share of the searched shingles that stand in the measured text, counted in sets, within sampling error."""
    searched, measured = unique_text(4000), unique_text(4000, seed=1)
    measured.tokens[500 : 500 + copied] = searched.tokens[901 : 901 + copied]
    known = shingles(searched.tokens)
    true_share = len(known & shingles(measured.tokens)) / len(known)
    with pytest.raises(TextsError) as caught:
        check_unsearched(measured.tokens.reshape(2, 2000), sketch(searched.tokens[None]))
    told = float(caught.value.found.split("%")[0].removeprefix("About ")) / 100
    assert told == pytest.approx(true_share, abs=4 * (true_share * (1 - true_share) / 256) ** 0.5 + 0.03)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 5))
def test_a_sketch_does_not_depend_on_the_order_or_repetition_of_windows(order: list[int], again: int) -> None:
    windows = unique_text(1200).windows(200, 6)
    assert sketch(windows[order]) == sketch(windows)
    assert sketch(windows[[*order, again]]) == sketch(windows)


def test_a_sketch_is_small_sorted_and_survives_json() -> None:
    hashes = sketch(unique_text(8000).windows(1000, 6))
    assert len(hashes) == 256
    assert list(hashes) == sorted(set(hashes))
    assert all(type(value) is int and 0 <= value < 2**64 for value in hashes)


def test_windows_too_short_for_a_shingle_are_let_through() -> None:
    """The known limit: below 48 tokens there is nothing to compare."""
    windows = unique_text(200).windows(40, 4)
    assert sketch(windows) == ()
    check_unsearched(windows, sketch(windows))


# Needles


def told_codes(text: str, pattern: str) -> dict[str, str]:
    """The codes in a text by the names of what they belong to."""
    found: list[tuple[str, str]] = re.findall(pattern, text)
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize("opens", [False, True])
def test_needles_are_planted_and_asked_for(opens: bool, tokenizer: Any, opening_tokenizer: Any) -> None:
    """Eight facts at rising depths, eight questions at the end, the text between them as it was, the length kept."""
    tokenizer = opening_tokenizer if opens else tokenizer
    ids = tokenizer(pico.make_text(2400), add_special_tokens=False)["input_ids"]
    window = TokenText(np.asarray(ids, np.int32), "search", opening_token(tokenizer)).windows(3000, 1)[0]
    planted, answers = plant_needles(window, tokenizer, np.random.default_rng(3))
    assert planted.shape == (3000,)
    assert planted.dtype == np.int32
    assert answers.shape == (2999,)
    text = tokenizer.decode(planted)
    asked = told_codes(text, r"What is the code of the (\w+)\? The code of the \1 is (\d{5})")
    facts = told_codes(text, r"\nThe code of the (\w+) is (\d{5})\.\n")
    assert asked == facts
    assert len(facts) == len(set(facts.values())) == 8
    assert list(asked) != list(facts)
    body = re.sub(r"\nThe code of the \w+ is \d{5}\.\n", "", text[: text.index("\nWhat is the code")])
    assert body == tokenizer.decode(window)[: len(body)]
    depths = [text.index(f"The code of the {name} is {code}.") / len(body) for name, code in facts.items()]
    assert depths == sorted(depths)
    assert depths[0] < 0.2
    assert depths[-1] > 0.8
    answered = "".join(tokenizer.decode([token]) for token in planted[1:][answers])
    assert answered == "".join(asked.values())
    if opens:
        assert planted[0] == window[0] == tokenizer.bos_token_id


def test_needles_are_decided_by_their_random_state(tokenizer: Any) -> None:
    window = unique_text(3000).tokens % 300
    first, again, other = (plant_needles(window, tokenizer, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


def test_needles_that_would_fill_the_window_are_refused(tokenizer: Any) -> None:
    with pytest.raises(TextsError, match=r"Needles would take \d+ tokens of a window of 600"):
        plant_needles(unique_text(600).tokens % 300, tokenizer, np.random.default_rng(0))


# Fingerprints


def test_a_fingerprint_names_the_content() -> None:
    windows = unique_text(1000).windows(100, 5)
    other = windows.copy()
    other[4, 99] += 1
    assert fingerprint(windows) == fingerprint(np.asfortranarray(windows.astype(np.int64)))
    assert len({fingerprint(windows), fingerprint(other), fingerprint(windows[::-1])}) == 3
    assert len(fingerprint(windows)) == 16
