"""Forms of files and of sources that were once read as something else than they are."""

import json
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pico
import pytest

from longrope.data import TokenText, load_texts
from longrope.errors import TextsError

TOKENIZER = pico.make_tokenizer()
DOCUMENTS = [f"{pico.make_text(8, seed=i)} {i}." for i in range(20)]
OTHER = ["nothing of all these " * 300]


def read(*sources: Any, **given: Any) -> list[int]:
    """The tokens that are searched and tuned on."""
    texts = load_texts(sources, TOKENIZER, measure=[OTHER], **given)
    parts: tuple[TokenText, ...] = (texts.search, texts.tune)
    return [int(token) for part in parts for token in part.tokens]


@pytest.mark.parametrize("part", ["", "[:5]", "[5:10]", "[-3:]", "[:10%]", "[50%:]"])
def test_a_slice_of_a_saved_data_set_is_that_of_datasets(part: str, tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": DOCUMENTS})
    datasets.DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "several")
    rows.save_to_disk(tmp_path / "one")
    start, end = {
        "": (0, 20),
        "[:5]": (0, 5),
        "[5:10]": (5, 10),
        "[-3:]": (17, 20),
        "[:10%]": (0, 2),
        "[50%:]": (10, 20),
    }[part]
    for name in ("several", "one"):
        assert read(f"hf:{tmp_path / name}:train{part}") == read(DOCUMENTS[start:end])


@pytest.mark.parametrize("rest", ["nope", "config:train"])
def test_a_split_or_configuration_that_a_saved_data_set_lacks_is_refused(rest: str, tmp_path: Path) -> None:
    datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": DOCUMENTS})).save_to_disk(tmp_path / "several")
    with pytest.raises(TextsError, match="a saved data set with the splits train"):
        read(f"hf:{tmp_path / 'several'}:{rest}")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_lines_of_json_are_read_by_their_byte_order_mark(name: str, encoding: str, tmp_path: Path) -> None:
    """As PowerShell writes them; a character may have the byte of a line's end in it."""
    documents = [
        f"{text} costs 5 \N{EURO SIGN}, \u010a\u0a0d \u2028 \u043f\u0440\u0438\u0432\u0435\u0442" for text in DOCUMENTS
    ]
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in documents)
    (tmp_path / name).write_bytes(lines.encode(encoding))
    assert read(tmp_path / name) == read(documents)


@pytest.mark.parametrize("end", ["]", ""])
def test_a_damaged_array_is_refused_with_the_place(end: str, tmp_path: Path) -> None:
    """Its last row alone has no comma after it, and would be a line of JSON."""
    rows = ",\n".join(json.dumps({"text": text}) for text in DOCUMENTS)
    (tmp_path / "rows.json").write_text(f"[\n{rows.replace('2.', '2' + chr(1), 1)}\n{end}")
    with pytest.raises(TextsError, match=r"rows\.json cannot be read .* line \d+ column"):
        read(tmp_path / "rows.json")


def test_a_name_that_is_no_utf_8_is_a_path(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    path.write_text(DOCUMENTS[0])
    assert read(path) == read([DOCUMENTS[0]])


def test_given_texts_are_named_by_their_place() -> None:
    """Not by their content, which may be all of a corpus."""
    texts = load_texts([["alpha beta " * 4000], ["gamma " * 900]], TOKENIZER, weights=[0.5, 0.5])
    assert any("of the given texts (1)" in line for line in texts.lines(8))
    assert max(map(len, texts.lines(8))) < 300
    with pytest.raises(TextsError, match=r"No text was found in the given texts \(2\)"):
        load_texts([["alpha " * 900], [" "]], TOKENIZER, weights=[0.5, 0.5])


def test_a_zero_far_into_a_long_file_makes_it_binary(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(b"plain words " * 800_000 + b"\0" + b"more words " * 10)
    with pytest.raises(TextsError, match="binary, not text"):
        read(tmp_path / "long.txt")


def test_endings_of_names_are_whole_and_of_any_case(tmp_path: Path) -> None:
    (tmp_path / "x.tsv.csv").write_text("text,label\n" + "".join(f'"{text}",1\n' for text in DOCUMENTS))
    assert read(tmp_path / "x.tsv.csv") == read(DOCUMENTS)
    np.save(tmp_path / "t.npy", np.arange(5, 300, dtype=np.int32))
    (tmp_path / "t.npy").rename(tmp_path / "T.NPY")
    assert sorted(read(tmp_path / "T.NPY")) == list(range(5, 300))
