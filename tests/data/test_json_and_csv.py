"""JSON, CSV and TSV files: one document a row; in folders, settings and tables of numbers are skipped."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pico
import pytest
from split_documents import documents_of, encoded

from longrope.data import load_texts
from longrope.errors import TextsError

BODIES = [pico.make_text(60, seed=70 + i) + f'\n"{i}", a;b\tc\n\nend' for i in range(4)]
ROWS = [{"id": i, "text": body} for i, body in enumerate(BODIES)]


def table(delimiter: str) -> bytes:
    """The rows as a spreadsheet writes them."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["id", "text"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return out.getvalue().encode()


FILES = {
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "strings.json": json.dumps(BODIES).encode(),
    "lines.json": "\n".join(map(json.dumps, ROWS)).encode(),
    "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "a.ndjson": "\n".join(map(json.dumps, ROWS)).encode(),
    "a.csv": table(","),
    "marked.csv": table(",").decode().encode("utf-8-sig"),
    "wide.csv": table(",").decode().encode("utf-16"),
    "a.tsv": table("\t"),
    "a.TSV.gz": gzip.compress(table("\t")),
}


def measured(source: Path, tokenizer: Any, **options: Any) -> list[list[int]]:
    found: list[list[int]] = documents_of(load_texts([], tokenizer, measure=[source], **options).measure)
    return found


@pytest.mark.parametrize("name", FILES)
def test_each_row_is_a_document(name: str, tokenizer: Any, tmp_path: Path) -> None:
    """By name and in a folder."""
    (tmp_path / name).write_bytes(FILES[name])
    expected = [encoded(tokenizer, body) for body in BODIES]
    assert measured(tmp_path / name, tokenizer) == measured(tmp_path, tokenizer) == expected


def test_a_single_object_is_a_document(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"text": BODIES[0], "id": 1}, indent=2))
    assert measured(tmp_path, tokenizer) == [encoded(tokenizer, BODIES[0])]


def test_a_csv_file_of_another_encoding_is_read_when_it_is_named(tokenizer: Any, tmp_path: Path) -> None:
    body = "the père and the fräulein " * 20
    path = tmp_path / "a.csv"
    path.write_bytes(f'id,text\n1,"{body}"\n'.encode("latin-1"))
    with pytest.raises(TextsError, match="--encoding"):
        measured(path, tokenizer)
    assert measured(path, tokenizer, encoding="latin-1") == [encoded(tokenizer, body)]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("package.json", '{"name": "a", "version": 1}', "no field 'text' in its first row"),
        ("numbers.json", "[1, 2, 3]", "no field 'text' in its first row"),
        ("comments.json", "{ // with a comment\n}", "no records that can be read"),
        ("deep.json", "[" * 100_000, "no records that can be read"),
        ("numbers.csv", "x,y\n1,2\n", "no field 'text' in its first row"),
        ("ragged.csv", "text\na,b\n", "no records that can be read"),
    ],
)
def test_what_is_no_text_is_skipped_in_a_folder_and_refused_by_name(
    name: str, content: str, reason: str, tokenizer: Any, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "a.txt").write_text(BODIES[0])
    texts = load_texts([tmp_path], tokenizer)
    assert [path.name for path in texts.report.files] == ["a.txt"]
    ((path, said),) = texts.report.skipped
    assert path.name == name
    assert said.startswith(reason)
    with pytest.raises(TextsError) as caught:
        load_texts([tmp_path / name], tokenizer)
    assert name in caught.value.found


def test_another_field_and_a_function_are_taken(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,a\nWho is it?,Nobody at all\n")
    (tmp_path / "b.json").write_text('[{"q": "Why is it?"}]')
    both = measured(tmp_path, tokenizer, text_field="q")
    assert both == [encoded(tokenizer, body) for body in ("Who is it?", "Why is it?")]
    joined = measured(tmp_path / "a.csv", tokenizer, preprocess=lambda row: row["q"] + row["a"])
    assert joined == [encoded(tokenizer, "Who is it?Nobody at all")]


def test_the_limit_of_other_readers_of_csv_stays(tokenizer: Any, tmp_path: Path) -> None:
    """A document may be longer than Python's own limit, which is as before afterwards."""
    before, body = csv.field_size_limit(), "word " * 40_000
    (tmp_path / "a.csv").write_text(f"text\n{body}\n")
    assert measured(tmp_path, tokenizer) == [encoded(tokenizer, body)]
    assert csv.field_size_limit() == before
