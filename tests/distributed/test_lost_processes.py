"""A run that lost one of its processes."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from launching import launched, timeless

from longrope import pipeline
from longrope.recipe import CmaRecipe, Recipe, dump_recipe
from longrope.runs.records import Trial, read_records
from longrope.runs.run_dir import RunDir


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_one(folder: Path, run: RunDir, launcher: subprocess.Popen[str], trials: int) -> int:
    """Kill the second process when a search has written so many trials, and return how many there were."""
    while launcher.poll() is None and count_lines(run.trials) < trials:
        time.sleep(0.002)
    os.kill(int((folder / "1.pid").read_text()), signal.SIGKILL)
    return count_lines(run.trials)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["evolution", "cma"])
def test_a_search_that_lost_a_process_goes_on_by_torchrun_and_by_one_process(
    method: str, recipe: Recipe, tmp_path: Path
) -> None:
    """Of three processes one is lost twice, and torchrun starts them again once."""
    evolution, cma = replace(recipe.search.evolution, generations=30), CmaRecipe(passes=400, windows=1)
    settings = replace(recipe.search, method=method, evolution=evolution, cma=cma)
    full, reference, run = replace(recipe, search=settings), RunDir(tmp_path / "whole"), RunDir(tmp_path / "run")
    (tmp_path / "recipe.toml").write_text(dump_recipe(full))
    given = ("search", "--recipe", tmp_path / "recipe.toml", "--out", run.path)
    with launched(3, tmp_path, *given, restarts=1) as launcher:
        first = kill_one(tmp_path, run, launcher, trials=10)
        kill_one(tmp_path, run, launcher, trials=first + 10)
        _, messages = launcher.communicate()
    assert launcher.returncode == 1, messages
    said = [line for line in messages.splitlines() if line.startswith("longrope: ")]
    assert len(said) == 2, messages  # one for each of the launches
    assert all("is lost" in line or "was lost" in line for line in said)
    assert all("the same command then goes on where it was" in line for line in said)
    assert "Error: " not in messages.replace("ChildFailedError: ", "")
    kept = run.trials.read_bytes()
    assert not run.factors().exists()
    assert pipeline.search(full, run) == pipeline.search(full, reference)
    assert run.trials.read_bytes().startswith(kept)
    resumed, whole = (list(map(timeless, read_records(of.trials, Trial))) for of in (run, reference))
    assert resumed == whole
    assert 20 <= kept.count(b"\n") < len(whole)
