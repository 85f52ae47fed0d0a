"""Which files are read, which are skipped with a reason, and which are refused."""

import gzip
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from split_documents import documents_of, encoded, parts_of, write_documents

from longrope.data import (
    Texts,
    load_texts,
)
from longrope.data.sources import stdlib_modules
from longrope.errors import TextsError


def test_a_compressed_file_is_read_as_its_content(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(pico.make_text(600).encode()))
    parts = parts_of(load_texts([tmp_path], tokenizer))
    assert np.concatenate(parts).tolist() == encoded(tokenizer, pico.make_text(600))


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
    """The reason for each file that was skipped, by its name, without the encoding that it may have."""
    return {path.name: reason.partition(", probably")[0] for path, reason in texts.report.skipped}


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
        (tmp_path / f"bytes-{i}.txt").write_bytes(bytes([0x81, 0x8D, 0x90, i]))
    (tmp_path / "blank.txt").write_text("")
    texts = load_texts([tmp_path], tokenizer)
    first, *rest = texts.report.lines()
    counts = "; ".join(
        f"{part.name} 1 document, {len(part.tokens):,} tokens" for part in (texts.search, texts.tune, texts.measure)
    )
    size = len((tmp_path / "00.txt").read_bytes())
    assert first == f"read 1 file, {size / 1000:.3g} kB: {counts}"
    shown = ", ".join(str(tmp_path / f"bytes-{i}.txt") for i in range(3))
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

    def __call__(self, text: str | list[str], **options: Any) -> dict[str, list[Any]]:
        return {"input_ids": [*text.encode()] if isinstance(text, str) else [[*one.encode()] for one in text]}


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


def test_only_modules_of_the_standard_library_are_read(tmp_path: Path) -> None:
    """Neither packages nor tests nor what a platform or a distribution lays beside the modules."""
    modules = ["abc.py", "heapq.py", "zipapp.py"]
    for name in (
        *modules,
        *("_sysconfigdata__linux.py", "sitecustomize.py", "test/test_abc.py", "json/decoder.py", "LICENSE.txt"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("pass")
    assert stdlib_modules(tmp_path) == [tmp_path / name for name in modules]


def test_the_standard_library_stands_beside_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the same name is read by a path to it, or as a Path."""
    library = b"".join(path.read_bytes() for path in stdlib_modules())
    (tmp_path / "stdlib").mkdir()
    (tmp_path / "stdlib" / "own.txt").write_text(own := pico.make_text(240, seed=7))
    monkeypatch.chdir(tmp_path)
    for path in ("./stdlib", Path("stdlib")):
        whole = np.concatenate(parts_of(load_texts(["stdlib", path], ByteTokenizer())))
        assert whole[whole != 256].astype(np.uint8).tobytes() == library + own.encode()
    measured = load_texts(["./stdlib"], ByteTokenizer(), measure=["stdlib"]).measure.tokens
    assert measured[measured != 256].astype(np.uint8).tobytes() == library


def test_a_python_without_sources_is_reported(tmp_path: Path) -> None:
    (tmp_path / "abc.pyc").write_bytes(b"stripped")
    with pytest.raises(TextsError, match="holds no sources of Python's standard library"):
        stdlib_modules(tmp_path)


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
