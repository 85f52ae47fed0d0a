"""How much the commands print on stderr: -v, -q and neither; results go to stdout in all cases."""

from pathlib import Path

import pytest
from commands import Command

DETAIL = "longrope-gradient: step 0, loss"


@pytest.mark.parametrize(
    ("option", "lines", "details"), [("-v", True, True), ("-q", False, False), (None, True, False)]
)
def test_verbosity(
    option: str | None, *, lines: bool, details: bool, command: Command, recipe_file: Path, tmp_path: Path
) -> None:
    given = ("search", "--recipe", recipe_file, "--method", "gradient", "--out", tmp_path / "run")
    result = command(*(() if option is None else (option,)), *given)
    assert result.code == 0, result.err
    assert ("load " in result.err) is lines
    assert (DETAIL in result.err) is details
    assert result.out.startswith("factors: ")


def test_quiet_keeps_errors(command: Command, tmp_path: Path) -> None:
    result = command("-q", "inspect", tmp_path / "none")
    assert result.code == 2
    assert "longrope: " in result.err


def test_an_unknown_tracker_ends_before_anything_is_loaded(command: Command, recipe_file: Path, tmp_path: Path) -> None:
    result = command("search", "--recipe", recipe_file, "--out", tmp_path / "run", "--track", "wandbb")
    assert result.code == 2
    assert "The tracker 'wandbb' was asked for." in result.err
    assert "load " not in result.err
    assert not (tmp_path / "run").exists()
