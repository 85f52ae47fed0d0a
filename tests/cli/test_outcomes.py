"""The end of a run: the verdict in one sentence, or why there is none."""

from pathlib import Path

import pytest
from commands import Command
from handmade import score

from longrope.cli.console import print_outcome
from longrope.runs.records import append_records
from longrope.runs.run_dir import RunDir


@pytest.mark.usefixtures("unopened")
def test_a_run_that_measures_prefixes_alone_ends_with_its_verdict(command: Command, recipe_file: Path) -> None:
    """As runs over long windows on a CPU do: one pass for all lengths, the original in its own window."""
    given = ("--metrics", "prefix-perplexity", "--set", "measure.original_tokens=64")
    result = command("extend", "--recipe", recipe_file, "--out", "run", *given)
    assert result.code == 0, result.err
    last = result.out.splitlines()[-1]
    assert last.startswith("At 64 tokens, ")
    assert " against the original model: " in last
    assert "perplexity of the first tokens of longer windows [" in last


def test_measurements_in_one_directory_have_a_verdict(
    command: Command, recipe_file: Path, pico_folder: Path, text_folders: tuple[Path, Path]
) -> None:
    """The first one names the commands that are missing for it; those without a directory name them each time."""
    assert command("search", "--recipe", recipe_file, "--out", "found").code == 0
    asked = ("--measure-data", text_folders[1], "--metrics", "perplexity", "--lengths", "64,256")
    given = ("measure", pico_folder, *asked)
    alone, first = (command(*given, "--factors", "found", *out) for out in ((), ("--out", "run")))
    words = "For a verdict, run this command without --factors, and again with --method yarn instead, with"
    assert [result.out.splitlines()[-1] for result in (alone, first)] == [
        f"{words} one --out for all.",
        f"{words} --out run.",
    ]
    assert "For a verdict" not in command(*given).out
    second, third = (command(*given, "--out", "run", *method) for method in ((), ("--method", "yarn")))
    assert " against the original model: " in second.out.splitlines()[-1]
    assert " against the best baseline, YaRN: " in third.out.splitlines()[-1]


def test_where_nothing_can_be_compared_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir(tmp_path)
    append_records(run.scores, [score("none", 64, "perplexity", 10.0)])
    print_outcome(run)
    assert capsys.readouterr().out.startswith("There is no verdict: at no length was the same metric measured for")
