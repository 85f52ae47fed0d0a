"""``longrope extend`` without arguments, and the commands that it proposes next."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from commands import Command, Result, assert_one_paragraph, note_recipes

from longrope import cli
from longrope.recipe import load_recipe


def next_commands(result: Result) -> list[str]:
    """The commands that a person is told to type next."""
    return [line.split()[1] for line in result.out.splitlines() if line.startswith("  longrope ")]


def test_extend_without_arguments_takes_the_embedded_recipe(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = note_recipes(monkeypatch)
    result = command("extend")
    assert result.code == 0, result.err
    assert begun == [load_recipe(cli.DEFAULT_RECIPE)]
    assert (begun[0].model, begun[0].target_tokens, begun[0].data) == ("nano", 2048, ("stdlib",))
    assert [path.name for path in Path("runs").iterdir()] == ["nano-2k"]
    assert next_commands(result) == ["inspect", "extend", "compare"]
    assert "report: runs/nano-2k/report.html" in result.out.splitlines()


def test_the_next_commands_are_ones_that_work(
    command: Command,
    pico_folder: Path,
    text_folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is typed as it was printed, with a model and texts of one's own in it."""
    begun = note_recipes(monkeypatch)
    own = {"MODEL": pico_folder, "books/": text_folders[0], "other-books/": text_folders[1]}
    lines = [line for line in command("extend").out.splitlines() if line.startswith("  longrope ")]
    for line in lines:
        result = command(*(own.get(word, word) for word in line.split()[1:]))
        assert result.code == 0, result.err
        assert next_commands(result) == []
    assert [full.target_tokens for full in begun] == [2048, 65536, 65536]
    assert {full.measure_data for full in begun[1:]} == {(str(text_folders[1]),)}


def test_extend_by_default_prints_json_alone_when_asked(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = note_recipes(monkeypatch)
    result = command("extend", "--json")
    assert (result.code, json.loads(result.out)) == (0, [])
    assert begun == [load_recipe(cli.DEFAULT_RECIPE)]


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        (("--seed", 3), {"seed": 3}),
        (("--device", "cpu"), {"device": "cpu"}),
        (("--compile",), {"compiled": True}),
        (("--dtype", "bfloat16"), {"dtype": "bfloat16"}),
        (("--rope-table", "full_attention"), {"rope_table": "full_attention"}),
        (("--trained-window", "16k"), {"trained_window": 16384}),
    ],
)
def test_the_default_is_taken_with_another_setting(
    given: tuple[object, ...], changes: dict[str, object], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = note_recipes(monkeypatch)
    result = command("extend", *given)
    assert result.code == 0, result.err
    assert [asdict(full) for full in begun] == [asdict(load_recipe(cli.DEFAULT_RECIPE)) | changes]
    assert next_commands(result) == ["inspect", "extend", "compare"]


def test_half_a_run_of_ones_own_is_not_the_default(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names a window, texts or a model means their own; what is missing is named, and nothing begins."""
    begun = note_recipes(monkeypatch)
    cases = {
        ("--to", "64k"): "MODEL and --data are missing",
        ("--data", "books"): "MODEL and --to are missing",
        ("model",): "--to and --data are missing",
    }
    for given, words in cases.items():
        assert words in assert_one_paragraph(command("extend", *given))
    assert begun == []
    assert not Path("runs").exists()


def test_a_recipe_of_ones_own_is_followed_by_no_advice(
    command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_recipes(monkeypatch)
    result = command("extend", "--recipe", recipe_file, "--out", "run")
    assert result.code == 0
    assert next_commands(result) == []
