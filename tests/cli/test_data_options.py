"""Options of texts: which field, which encoding, which weights, and a function that every row goes through."""

import json
from pathlib import Path

import pico
import pytest
from commands import Command, assert_one_paragraph, note_recipes

CLEAN = 'def text_of(row):\n    return row["body"].replace("<br>", " ")\n'


def test_options_of_texts_reach_the_recipe(
    command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = note_recipes(monkeypatch)
    given = ("--data", "a", "--data", "b", "--data-weights", "3,1", "--text-field", "body", "--encoding", "latin-1")
    result = command("extend", "--recipe", recipe_file, *given, "--out", "run")
    assert result.code == 0, result.err
    (full,) = begun
    assert (full.data, full.data_weights, full.text_field, full.encoding) == (("a", "b"), (3, 1), "body", "latin-1")


def test_a_function_of_this_folder_makes_the_texts(command: Command, pico_folder: Path) -> None:
    """Measured on rows with a field of their own, with what the function leaves of it."""
    text = pico.make_text(90)
    Path("clean_rows.py").write_text(CLEAN)
    Path("rows.jsonl").write_text(json.dumps({"body": text.replace(" ", "<br>")}) + "\n")
    Path("plain.txt").write_text(text)
    given = ("--metrics", "perplexity", "--lengths", 64, "--json", "--measure-data")
    plain = command("measure", pico_folder, *given, "plain.txt")
    made = command("measure", pico_folder, *given, "rows.jsonl", "--preprocess", "clean_rows:text_of")
    assert made.code == 0, made.err
    values = [[score["value"] for score in json.loads(result.out)] for result in (plain, made)]
    assert values[0] == values[1]
    refused = assert_one_paragraph(command("measure", pico_folder, *given, "rows.jsonl"))
    assert "there are body" in refused


def test_a_run_is_resumed_with_the_same_function(command: Command, recipe_file: Path) -> None:
    """Another one, or none, would go on with other texts."""
    Path("clean_run.py").write_text("def same(row):\n    return row['text']\n")
    begin = ("search", "--recipe", recipe_file, "--out", "run")
    result = command(*begin, "--preprocess", "clean_run:same")
    assert result.code == 0, result.err
    refused = assert_one_paragraph(command(*begin))
    assert "went through clean_run:same, and now none" in refused
    assert "--preprocess clean_run:same" in refused
    assert command(*begin, "--preprocess", "clean_run:same").code == 0
    assert "longrope export run --preprocess clean_run:same\n" in result.out


@pytest.mark.usefixtures("unopened")
def test_an_export_reads_short_texts_through_the_function_of_the_run(command: Command, recipe_file: Path) -> None:
    """Which is given again, for the run remembers its name alone; without it the short texts would be others."""
    Path("clean_export.py").write_text("def spaced(row):\n    return row['text'].replace('The', 'A')\n")
    function = ("--preprocess", "clean_export:spaced")
    begun = command("extend", "--recipe", recipe_file, "--out", "run", "--method", "yarn", *function)
    assert begun.code == 0, begun.err
    report = Path("run/export.json")
    before = report.read_bytes()
    for given, words in (((), "and now none"), (("--preprocess", "json:loads"), "and now json:loads")):
        refused = assert_one_paragraph(command("export", "run", *given))
        assert f"went through clean_export:spaced, {words}" in refused
        assert "--preprocess clean_export:spaced" in refused
        assert report.read_bytes() == before
    again = command("export", "run", *function)
    assert again.code == 0, again.err
    assert report.read_bytes() == before
    assert b"perplexity_single" in before


def test_an_export_without_a_run_reads_no_texts(command: Command, pico_folder: Path) -> None:
    given = ("--model", pico_folder, "--factors", "factors.json", "--out", "hf", "--preprocess", "json:loads")
    assert "--preprocess json:loads is given, and no run" in assert_one_paragraph(command("export", *given))
