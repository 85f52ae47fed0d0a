"""Commands of the command line that run in this process, and the tables that they print."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from longrope import cli, pipeline
from longrope.labels import metric_label
from longrope.recipe import Recipe
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir


@dataclass(frozen=True)
class Result:
    """What a command has said."""

    code: int
    out: str
    err: str


Command = Callable[..., Result]


def run_command(patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> Result:
    """Run ``longrope`` with these arguments, as its console script does."""
    patch.setattr(sys, "argv", ["longrope", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    return Result(int(ended.value.code or 0), captured.out, captured.err)


def table_row(out: str, first: str, title: str = "") -> list[str]:
    """The cells of the row whose first cell this is, in the printed table of this title (or the only one)."""
    rows, shown = [], ""
    for line in out.splitlines():
        shown = line.strip() if line[:1].isalpha() else shown
        if line.startswith("│") and line.split("│")[1].strip() == first and title in shown:
            rows.append(line)
    assert len(rows) == 1, out
    return [cell.strip() for cell in rows[0].strip("│").split("│")]


def assert_shown(out: str, score: Score) -> None:
    """A score with its interval stands in the row of its method, in the table of its metric."""
    if "depth" in score.metric:
        return
    cell = f"{score.value:.4g} ({score.low:.4g}-{score.high:.4g})"
    assert cell in table_row(out, score.source.label, f"{metric_label(score.metric)} (95 % interval)")


def note_recipes(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that ``extend`` and ``compare`` are called with from now on; nothing is done with them."""
    begun: list[Recipe] = []

    def extend(full: Recipe, run: RunDir, *_: object, **__: object) -> list[Score]:
        run.bind(full)
        begun.append(full)
        return []

    for name in ("extend", "compare"):
        monkeypatch.setattr(pipeline, name, extend)
    return begun


def stopping_at_a_text(recipe_file: Path, statement: str) -> tuple[object, ...]:
    """A search in the working directory whose ``--preprocess`` runs a statement at its first text."""
    Path("stopping.py").write_text(f"import os, signal\ndef stop(row):\n    {statement}\n")
    sys.modules.pop("stopping", None)
    return "search", "--recipe", recipe_file, "--out", "run", "--preprocess", "stopping:stop"


def report_at_once(patch: pytest.MonkeyPatch) -> None:
    """Let progress be reported with no time between two lines."""
    patch.setattr("longrope.pipeline.progress.QUIET_SECONDS", 0.0)


def assert_one_paragraph(result: Result) -> str:
    """Exit code 2, nothing on stdout, and after the lines of progress one paragraph, which is returned."""
    assert result.code == 2
    assert result.out == ""
    assert "Traceback" not in result.err
    *before, paragraph = result.err.splitlines()
    assert paragraph.startswith("longrope: ")
    assert not any(line.startswith("longrope: ") for line in before)
    assert paragraph.count(". ") >= 2, "found, needed, remedy"
    return paragraph
