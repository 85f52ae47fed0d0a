"""What a stranger's recipe or name must not do, and how a command stops."""

import signal
from pathlib import Path

import pytest
from commands import Command, assert_one_paragraph, stopping_at_a_text

from longrope.exports.card import as_code, plain
from longrope.exports.licences import inherited


def test_sigterm_stops_as_an_interrupt_with_a_code_of_its_own(command: Command, recipe_file: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    result = command(*stopping_at_a_text(recipe_file, "os.kill(os.getpid(), signal.SIGTERM)"))
    assert result.code == 143
    assert result.err.splitlines()[-1] == "longrope: stopped by SIGTERM; the same command goes on from here."
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("by", ["recipe", "run", "option", "assignment"])
def test_task_files_are_read_only_where_they_are_trusted(by: str, command: Command, recipe_file: Path) -> None:
    named = 'metrics = [\n    "harness:evil.yaml",\n]'
    written = recipe_file.read_text()
    harmed = written.replace('metrics = [\n    "perplexity",\n]', named)
    assert harmed != written
    Path("run").mkdir()
    Path("harmed.toml").write_text(harmed)
    Path("run/recipe.toml").write_text(harmed)
    arguments = {
        "recipe": ("--recipe", "harmed.toml", "--out", "other"),
        "run": ("--out", "run"),
        "option": ("--recipe", recipe_file, "--metrics", "harness:evil.yaml", "--out", "other"),
        "assignment": ("--recipe", recipe_file, "--set", "measure.metrics=harness:evil.yaml", "--out", "other"),
    }[by]
    assert "--trust-task-files" in assert_one_paragraph(command("extend", *arguments))
    assert not Path("other").exists()


def test_names_are_plain_text_in_a_card() -> None:
    assert plain("<script>[x](http://y) *z* | `\x1b[31m") == (
        "&lt;script&gt;\\[x\\](http://y) \\*z\\* \\| \\`\\\\x1b\\[31m"
    )
    assert as_code("a`b\nc") == "a'b\\nc"


@pytest.mark.parametrize(
    "card",
    ["tags: 1\nlicense: mit", "license: " + "[" * 5000 + "]" * 5000, "license: {a: 1}", "license: [mit, 1]", "- 1"],
)
def test_an_odd_card_of_the_base_costs_nothing(card: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n")
    assert inherited(str(tmp_path)) in ({}, {"license": "mit"})
