"""Dry runs print what a command will take, and leave nothing; what cannot be done is said before it begins."""

import re
from pathlib import Path

import pytest
from commands import Command, assert_one_paragraph, report_at_once

from longrope.pipeline import comparison_costs, estimates

PARTS = {
    "extend": ["search by gradient", "measure 2 methods", "export, open again and compare", "in all"],
    "search": ["search by gradient"],
    "compare": ["search by evolution", "search by gradient", "scan of base and attention factor"],
}


@pytest.mark.parametrize("name", PARTS)
def test_a_dry_run_ends_with_its_estimate(name: str, command: Command, recipe_file: Path) -> None:
    result = command(name, "--recipe", recipe_file, "--out", "run", "--dry-run")
    assert result.code == 0, result.err
    lines = [line for line in result.err.splitlines() if "GiB at the peak" in line]
    assert [line.partition(":")[0] for line in lines][: len(PARTS[name])] == PARTS[name]
    assert result.out == ""
    assert not Path("run").exists()


def test_a_dry_run_leaves_no_folder_for_runs(command: Command, recipe_file: Path) -> None:
    """Not the one where runs without --out are, unless another run is in it."""
    for kept in (False, True):
        if kept:
            Path("runs/other").mkdir(parents=True)
        result = command("search", "--recipe", recipe_file, "--dry-run")
        assert result.code == 0, result.err
        assert [str(path) for path in Path().rglob("*")] == (["runs", "runs/other"] if kept else [])


def test_a_measurement_is_estimated(command: Command, pico_folder: Path, text_folders: tuple[Path, Path]) -> None:
    given = ("measure", pico_folder, "--measure-data", text_folders[1], "--lengths", "64,256", "--out", "run")
    result = command(*given, "--metrics", "perplexity", "--dry-run")
    assert result.code == 0, result.err
    assert re.search(r"\nmeasure 1 method: about \d+ s,", result.err)
    assert result.out == ""
    assert not Path("run").exists()
    assert command(*given, "--metrics", "perplexity").code == 0
    finished = command(*given, "--metrics", "perplexity", "--dry-run")
    assert "2 of 2 scores are in the records already" in finished.err
    assert "measure 1 method" not in finished.err


def test_a_measurement_that_cannot_begin_leaves_nothing(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path]
) -> None:
    given = ("measure", pico_folder, "--measure-data", text_folders[1], "--lengths", "1m", "--out", "run")
    assert_one_paragraph(command(*given))
    assert not Path("run").exists()


def test_less_than_a_minute_is_not_announced(command: Command, recipe_file: Path) -> None:
    result = command("search", "--recipe", recipe_file, "--out", "run")
    assert result.code == 0, result.err
    assert "GiB at the peak" not in result.err


@pytest.mark.parametrize("name", PARTS)
def test_what_does_not_fit_is_refused(
    name: str, command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (comparison_costs, estimates):
        monkeypatch.setattr(module, "free_memory", lambda _: 1000)
    refused = assert_one_paragraph(command(name, "--recipe", recipe_file, "--out", "run"))
    assert "(0.0 GiB are free)" in refused
    assert not Path("run").exists()


CHEAP = {
    "lengths beyond the target": (("--lengths", "64,512"), "measure.lengths has 512 tokens"),
    "missing text": (("--data", "nowhere"), "nowhere does not exist"),
    "missing questions": (("--set", "measure.qa_data=nowhere.json"), "measure.qa_data names nowhere.json"),
    "missing factors": (("--set", "factors=nowhere.json"), "factors names nowhere.json"),
}


@pytest.mark.parametrize("case", CHEAP)
@pytest.mark.parametrize("name", ["extend", "compare"])
def test_mistakes_are_seen_before_the_model_is_loaded(
    name: str, case: str, command: Command, recipe_file: Path
) -> None:
    """There is no such model, and nothing says so."""
    options, words = CHEAP[case]
    result = command(name, "--recipe", recipe_file, "--out", "run", *options, "--set", "model=no/such-model")
    assert words in assert_one_paragraph(result)
    assert "load" not in result.err


def test_a_length_without_room_for_a_passkey_is_said_before_the_searches(command: Command, recipe_file: Path) -> None:
    result = command("compare", "--recipe", recipe_file, "--out", "run", "--metrics", "perplexity,passkey")
    assert "64" in assert_one_paragraph(result)
    assert "search factors" not in result.err
    assert not Path("run").exists()


def test_measuring_reports_its_passes(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no time between two lines; the last one says that all is done."""
    report_at_once(monkeypatch)
    given = ("--metrics", "perplexity,passkey", "--lengths", "256", "--set", "measure.passkeys=3")
    result = command("measure", pico_folder, "--measure-data", text_folders[1], *given)
    assert result.code == 0, result.err
    passes = [line for line in result.err.splitlines() if line.startswith("measure original model: ")]
    assert passes[0] == "measure original model: 3 of 6 passes"
    assert passes[-1] == "measure original model: 6 of 6 passes"
