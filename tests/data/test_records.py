"""Documents of rows: JSON lines, Parquet files, data sets, strings and iterables; weights, encodings, preprocessing."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pico
import pyarrow as pa
import pyarrow.parquet
import pytest
from split_documents import documents_of, encoded, parts_of

from longrope.data import Texts, load_texts
from longrope.errors import TextsError

BODIES = [pico.make_text(120, seed=40 + i) for i in range(6)]
ROWS = [{"id": i, "text": body} for i, body in enumerate(BODIES)]


def write_lines(path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if path.suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(lines)
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


def write_parquet(path: Path) -> None:
    pa.parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2)


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.jsonl": write_lines,
    "a.JSONL": write_lines,
    "a.jsonl.gz": write_lines,
    "a.jsonl.zst": write_lines,
    "a.parquet": write_parquet,
}


def joined(texts: Texts) -> list[int]:
    tokens: list[int] = np.concatenate(parts_of(texts)).tolist()
    return tokens


@pytest.mark.parametrize("name", WRITERS)
def test_each_row_of_a_file_is_a_document(name: str, tokenizer: Any, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    texts = load_texts([tmp_path], tokenizer)
    assert joined(texts) == encoded(tokenizer, *BODIES)
    assert texts.report.files == [tmp_path / name]
    assert texts.report.bytes_read == sum(len(body.encode()) for body in BODIES)
    measured = load_texts([], tokenizer, measure=[tmp_path / name]).measure
    assert documents_of(measured) == [encoded(tokenizer, body) for body in BODIES]
    assert measured.name_of(3) == f"{tmp_path / name}, row 4"


def test_strings_rows_and_generators_are_documents(tokenizer: Any) -> None:
    def stream() -> Iterator[str]:
        yield from BODIES[4:]

    texts = load_texts([BODIES[:2], ROWS[2:4], stream()], tokenizer)
    assert joined(texts) == encoded(tokenizer, *BODIES)


def test_a_data_set_is_read_from_a_folder(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its split, with a slice, too; its rows are streamed: no copy of them is made."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (books := tmp_path / "books").mkdir()
    write_parquet(books / "train.parquet")
    assert joined(load_texts([f"hf:{books}:train"], tokenizer)) == encoded(tokenizer, *BODIES)
    assert joined(load_texts([f"hf:{books}:default:train[:4]"], tokenizer)) == encoded(tokenizer, *BODIES[:4])
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_a_data_set_of_the_hub_is_read_from_the_cache_without_a_network(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name and split, with a slice, too; all tests run with HF_HUB_OFFLINE=1."""
    write_parquet(tmp_path / "books.parquet")
    given = {"data_files": {"test": str(tmp_path / "books.parquet")}, "cache_dir": str(tmp_path / "cache")}
    datasets.load_dataset("parquet", **given)
    (made,) = (tmp_path / "cache" / "parquet").iterdir()
    (tmp_path / "cache" / "owner___books").mkdir()
    kept = made.rename(tmp_path / "cache" / "owner___books" / "default")  # as one of the hub is kept
    for path in kept.rglob("parquet-test.arrow"):
        path.rename(path.with_name("books-test.arrow"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert joined(load_texts(["hf:owner/books:test"], tokenizer)) == encoded(tokenizer, *BODIES)
    assert joined(load_texts(["hf:owner/books:test[1:3]"], tokenizer)) == encoded(tokenizer, *BODIES[1:3])
    with pytest.raises(TextsError, match="HF_HUB_OFFLINE=1") as caught:
        load_texts(["hf:owner/others:test"], tokenizer)
    assert "hf:owner/others:test cannot be read" in caught.value.found


@pytest.mark.parametrize("source", ["hf:", "hf:name", "hf:a:b:c:d", "hf:name:train[:5"])
def test_a_data_set_needs_a_name_and_a_split(source: str, tokenizer: Any) -> None:
    with pytest.raises(TextsError, match="hf:NAME:SPLIT"):
        load_texts([source], tokenizer)


def test_a_data_set_without_the_split_is_named(tokenizer: Any, tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet")
    with pytest.raises(TextsError, match="nosuch") as caught:
        load_texts([f"hf:{tmp_path}:nosuch"], tokenizer)
    assert "cannot be read" in caught.value.found


def test_rows_without_text_and_copies_are_counted(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row) for row in ROWS]
    path.write_text("\n".join([*lines, lines[0], "no json", "[1]", '{"id": 9}', '{"text": " "}', '{"text": null}', ""]))
    texts = load_texts([path], tokenizer)
    assert joined(texts) == encoded(tokenizer, *BODIES)
    name = str(path)
    assert texts.report.rows_skipped == {
        (name, "the same content as another document"): 1,
        (name, "neither text nor a row of fields"): 2,
        (name, "without text in the field 'text'"): 2,
        (name, "blank"): 1,
    }
    assert f"skipped 2 rows of {name} (without text in the field 'text')" in texts.report.lines()


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_another_field_is_named(name: str, tokenizer: Any, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    with pytest.raises(TextsError, match=r"No row .* 'body'; there are id, text") as caught:
        load_texts([tmp_path], tokenizer, text_field="body")
    assert "--text-field" in caught.value.remedy


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_a_damaged_file_of_records_is_refused(name: str, tokenizer: Any, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TextsError, match=rf"{name} cannot be read"):
        load_texts([tmp_path], tokenizer)


def test_half_of_a_surrogate_pair_is_replaced(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "lone \\ud800 half"}\n')
    assert joined(load_texts([tmp_path], tokenizer)) == encoded(tokenizer, "lone \ufffd half")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(encoding: str, tokenizer: Any, tmp_path: Path) -> None:
    text = "größe " * 100
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert joined(load_texts([tmp_path], tokenizer)) == encoded(tokenizer, text)


def test_another_encoding_is_named_and_read_when_it_is_given(tokenizer: Any, tmp_path: Path) -> None:
    text = "Die Straße über den Fluß führt nach Köln, wo schöne Häuser stehen.\n" * 50
    (tmp_path / "a.txt").write_bytes(text.encode("latin-1"))
    (tmp_path / "b.txt").write_text(BODIES[0])
    (tmp_path / "c.bin").write_bytes(bytes(range(256)))
    (tmp_path / "d.pdf").write_bytes(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    texts = load_texts([tmp_path], tokenizer)
    reasons = {path.name: reason for path, reason in texts.report.skipped}
    assert joined(texts) == encoded(tokenizer, BODIES[0])
    assert "cp1252" in reasons["a.txt"]
    assert "--encoding" in reasons["a.txt"]
    assert reasons["c.bin"] == "not UTF-8 text"
    assert "PDF" in reasons["d.pdf"]
    texts = load_texts([tmp_path], tokenizer, encoding="latin-1")
    assert joined(texts) == encoded(tokenizer, text, BODIES[0])
    with pytest.raises(TextsError, match="'latin-99' is not known"):
        load_texts([tmp_path], tokenizer, encoding="latin-99")


def test_every_row_and_file_goes_through_a_function(tokenizer: Any, tmp_path: Path) -> None:
    """It sees all fields, and leaves out what it gives None for."""
    write_lines(tmp_path / "a.jsonl")
    write_parquet(tmp_path / "b.parquet")
    (tmp_path / "c.txt").write_text("plain")

    def prepare(row: Any) -> str | None:
        if "path" in row:
            return f"{Path(row['path']).name} {row['text']}"
        return f"{row['id']} {row['text'].upper()}" if row["id"] % 2 else None

    texts = load_texts([tmp_path], tokenizer, preprocess=prepare)
    odd = [f"{i} {body.upper()}" for i, body in enumerate(BODIES) if i % 2]
    assert joined(texts) == encoded(tokenizer, *odd, "c.txt plain")
    assert texts.report.rows_skipped[str(tmp_path / "a.jsonl"), "left out by --preprocess"] == 3
    with pytest.raises(TextsError, match="gave int"):
        load_texts([tmp_path], tokenizer, preprocess=lambda row: 7)  # type: ignore[arg-type, return-value]
    with pytest.raises(TextsError, match=r"function of --preprocess failed: KeyError: 'title'.*a dict of its fields"):
        load_texts([tmp_path], tokenizer, preprocess=lambda row: row["title"])


def test_a_mix_has_the_shares_in_every_part(tokenizer: Any) -> None:
    """As much as the scarcer source allows; the rest of the other is reported."""
    small, large = ([pico.make_text(60, seed=base + i) for i in range(count)] for base, count in ((500, 20), (700, 60)))
    texts = load_texts([small, large], tokenizer, weights=[1, 1])
    lengths = [len(encoded(tokenizer, *source)) for source in (small, large)]
    assert sum(map(len, parts_of(texts))) == pytest.approx(2 * lengths[0], abs=1)
    assert list(texts.report.left_over.values()) == [0, pytest.approx(lengths[1] - lengths[0], abs=1)]
    own = {tuple(encoded(tokenizer, text)) for text in small}
    for part in (texts.search, texts.tune, texts.measure):
        of_small = sum(len(one) for one in documents_of(part) if tuple(one) in own)
        assert of_small / len(part.tokens) == pytest.approx(0.5, abs=0.1)
    with pytest.raises(TextsError, match=r"1 weight \(1\) came with 2 sources\."):
        load_texts([small, large], tokenizer, weights=[1])


def test_reading_reports_bytes(tokenizer: Any) -> None:
    seen: list[int] = []
    texts = load_texts([BODIES], tokenizer, on_read=seen.append)
    assert seen[-1] == texts.report.bytes_read > 0


def test_windows_that_fit_are_counted(opening_tokenizer: Any) -> None:
    texts = load_texts([BODIES], opening_tokenizer)
    first = texts.lines(64)[0]
    fits = [len(part) // 63 for part in parts_of(texts)]
    assert first.endswith(f"windows of 64 tokens that fit: search {fits[0]}, tune {fits[1]}, measure {fits[2]}")
    assert len(texts.search.windows(64, 10**6)) == fits[0]
