"""Each bad input ends as one paragraph with exit code 2, our own faults with a traceback."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_commands import COMMANDS, bad_files
from commands import Command, assert_one_paragraph, stopping_at_a_text

from longrope.engine import compiling
from longrope.evaluation import perplexity
from longrope.runs.run_dir import RunDir

CASES = [
    pytest.param(f"{name} {arguments}", words, id=f"{name}: {case}")
    for name, cases in COMMANDS.items()
    for case, arguments, words in cases
]


@pytest.mark.parametrize(("line", "words"), CASES)
def test_bad_input_ends_in_one_paragraph(
    line: str, words: str, command: Command, pico_folder: Path, text_folders: tuple[Path, Path]
) -> None:
    for name, content in bad_files(pico_folder, text_folders[0]).items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content)
    arguments = [word.format(model=pico_folder, data=text_folders[0]) for word in line.split()]
    assert words in assert_one_paragraph(command(*arguments))


def test_the_traceback_of_bad_input_is_shown_if_asked(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "llama", "hidden_size": "many"}')
    assert_one_paragraph(command("inspect", tmp_path / "odd"))
    monkeypatch.setenv("LONGROPE_DEBUG", "1")
    result = command("inspect", tmp_path / "odd")
    assert result.code == 2
    assert "Traceback" in result.err
    assert "direct cause" in result.err, "of the library's own exception"
    assert result.err.splitlines()[-1].startswith("longrope: The model")


def test_a_missing_argument_is_named(command: Command) -> None:
    """Where the parser itself refuses, its own words are kept."""
    cases = {
        "measure": "model",
        "inspect": "model",
        "report": "runs",
        "extend --nonsense": "nonsense",
        "nonsense": "nonsense",
    }
    for arguments, word in cases.items():
        result = command(*arguments.split())
        assert (result.code, result.out) == (2, "")
        assert "Traceback" not in result.err
        assert word in result.err.lower().split("error", 1)[1]


def test_compiled_passes_are_made_where_they_are_asked_for(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each layer of `measure` and of `generate`; and what a user reads says so."""
    made: set[str] = set()

    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        made.add(function.__qualname__)
        return function

    monkeypatch.setattr(compiling, "compiled", note)
    book = Path("book.txt")
    book.write_text("A short one.")
    lengths = ("--lengths", 64, "--metrics", "perplexity")
    commands = (
        ("measure", pico_folder, "--data", text_folders[0], *lengths),
        ("generate", pico_folder, "--document", book, "--prompt", "What?", "--max-new-tokens", 2),
    )
    for arguments in commands:
        for asked in (False, True):
            made.clear()
            result = command(*arguments, *["--compile"] * asked)
            assert result.code == 0, result.err
            assert made == ({"LlamaDecoderLayer.forward"} if asked else set())
            assert ("layers compiled (as asked)" in result.err) is asked


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_refused(
    command: Command, pico_folder: Path, text_folders: tuple[Path, Path]
) -> None:
    result = command("measure", pico_folder, "--data", text_folders[0], "--lengths", "64", "--device", "cuda")
    assert "No GPU is here" in assert_one_paragraph(result)


def test_a_locked_run_is_refused(
    command: Command, recipe_file: Path, pico_folder: Path, text_folders: tuple[Path, Path]
) -> None:
    """By every command that writes into it."""
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    measured = ["--data", str(text_folders[0]), "--lengths", "64", "--metrics", "perplexity"]
    cases = [[name, "--recipe", str(recipe_file), "--out", "run"] for name in ("extend", "search", "compare")]
    cases += [["export", "run"], ["measure", str(pico_folder), *measured, "--out", "run"]]
    with RunDir("run").locked():
        for arguments in cases:
            result = command(*arguments)
            assert "in use by another process" in assert_one_paragraph(result), arguments
    assert not RunDir("run").scores.exists()


def test_another_recipe_is_refused_with_what_differs(command: Command, recipe_file: Path) -> None:
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    result = command("extend", "--out", "run", "--seed", 41)
    assert "seed" in (paragraph := assert_one_paragraph(result))
    assert "41" in paragraph


def test_searched_text_is_refused(
    command: Command, recipe_file: Path, pico_folder: Path, text_folders: tuple[Path, Path]
) -> None:
    assert command("search", "--recipe", recipe_file, "--out", "run").code == 0
    given = ("--factors", "run/factors.json", "--measure-data", text_folders[0], "--lengths", "256")
    result = command("measure", pico_folder, *given, "--metrics", "perplexity")
    assert "no search has seen" in assert_one_paragraph(result)


def test_a_failed_command_leaves_no_run_behind(command: Command) -> None:
    """A slip of the pen must not become a directory."""
    assert_one_paragraph(command("export", "rum"))
    assert not Path("rum").exists()


def test_an_interruption_says_how_to_go_on(command: Command, recipe_file: Path) -> None:
    result = command(*stopping_at_a_text(recipe_file, "raise KeyboardInterrupt"))
    assert result.code == 130
    assert "the same command goes on from here" in result.err


def test_our_own_faults_are_not_swallowed(command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ValueError from within is no bad input: only our own errors are."""

    def fail(*_: object, **__: object) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(perplexity, "token_losses", fail)
    with pytest.raises(ValueError, match="a fault of ours"):
        command("extend", "--recipe", recipe_file, "--out", "run")
