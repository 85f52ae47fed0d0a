"""The page about texts: its sources are read, its code runs."""

import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pico
import pytest
from split_documents import parts_of

import longrope
from longrope.cli import app
from longrope.data import check_sources

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)


def test_data_sets_of_the_page_have_names_and_splits() -> None:
    check_sources(re.findall(r"hf:[\w/-]+:[\w\[\]:]+", PAGE))


def test_its_function_makes_documents_of_pairs(tokenizer: Any) -> None:
    names: dict[str, Any] = {}
    (code,) = [body for language, body in BLOCKS if language == "python" and "def " in body]
    exec(code, names)  # noqa: S102
    rows: list[Any] = [{"question": "Who?", "answer": "Nobody."}, {"question": "Why?", "answer": None}]
    tokens = np.concatenate(parts_of(longrope.load_texts([rows], tokenizer, preprocess=names["dialogue"])))
    assert tokens.tolist() == [*tokenizer("Who?\nNobody.\n")["input_ids"], tokenizer.eos_token_id]


def test_its_lines_of_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("books").mkdir()
    Path("books/rows.jsonl").write_text(json.dumps({"text": pico.make_text(600)}) + "\n")
    pico.save_gguf(Path("model.gguf"), pico.make_network(num_hidden_layers=1))
    exec(BLOCKS[-1][1], {})  # noqa: S102
    assert "read 1 file, " in (said := capsys.readouterr().out)
    assert "windows of 65,536 tokens that fit: search 0, tune 0, measure 0" in said


def test_its_commands_have_the_options() -> None:
    hints = (
        get_type_hints(one.callback, include_extras=True).values() for one in app.registered_commands if one.callback
    )
    known = {flag for of_one in hints for hint in of_one for flag in re.findall(r"'(--[a-z-]+)'", f"{vars_of(hint)}")}
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= known


def vars_of(hint: Any) -> list[dict[str, Any]]:
    """What the annotations of an option say."""
    return [vars(note) for note in getattr(hint, "__metadata__", ())]


@pytest.mark.parametrize(("form", "words"), [("jsonl", "in `.jsonl` take"), ("txt", "in one `.txt` file take")])
def test_the_memory_of_reading_is_that_of_its_record(form: str, words: str) -> None:
    (record,) = (one for one in read_memory() if one["form"] == form and one["bytes"] < 1e9)
    said = re.findall(rf"(\d+) MB {words} ([\d.]+) GiB at the peak, of which ([\d.]+) are", PAGE)
    assert said == [(f"{record['bytes'] / 1e6:.0f}", f"{record['peak_gib']}", f"{record['peak_gib_before']}")]


@pytest.mark.parametrize(("form", "words"), [("jsonl", "in `.jsonl`"), ("txt", "in one `.txt` file")])
def test_the_memory_of_reading_a_gigabyte_is_that_of_its_record(form: str, words: str) -> None:
    (record,) = (one for one in read_memory() if one["form"] == form and one["bytes"] >= 1e9)
    said = re.findall(rf"gigabyte {words}, (\d+) million\s+tokens, takes ([\d.]+) GiB .*?([\d.]+) (?:when|\()", PAGE)
    tokens = f"{record['tokens'] / 1e6:.0f}"
    assert said == [(tokens, f"{record['peak_gib']:.2f}", f"{record['compared_peak_gib']:.2f}")]


def read_memory() -> list[dict[str, Any]]:
    """The records of the memory that reading takes."""
    records = (Path(__file__).parents[2] / "results" / "benchmarks" / "texts.jsonl").read_text().splitlines()
    return [json.loads(line) for line in records]
