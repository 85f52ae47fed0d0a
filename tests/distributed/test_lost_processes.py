"""A run that lost one of its processes."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from launching import launched, timeless

from longrope import pipeline
from longrope.recipe import Recipe, dump_recipe
from longrope.runs.records import Trial, read_records
from longrope.runs.run_dir import RunDir

# Processes that are lost


@contextlib.contextmanager
def searching(folder: Path, recipe: Recipe, trials: int) -> Iterator[tuple[RunDir, subprocess.Popen[str], list[int]]]:
    """A search by three processes that has written some trials: its run, its launcher, its processes by rank."""
    (folder / "recipe.toml").write_text(dump_recipe(recipe))
    run = RunDir(folder / "run")
    with launched(3, folder, "search", "--recipe", folder / "recipe.toml", "--out", run.path) as launcher:
        while launcher.poll() is None and count_lines(run.trials) < trials:
            time.sleep(0.002)
        yield run, launcher, [int((folder / f"{rank}.pid").read_text()) for rank in range(3)]


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_a_search_that_lost_a_process_is_resumed_by_one(recipe: Recipe, tmp_path: Path) -> None:
    settings = replace(recipe.search, method="evolution", evolution=replace(recipe.search.evolution, generations=60))
    full, reference = replace(recipe, search=settings), RunDir(tmp_path / "whole")
    with searching(tmp_path, full, trials=20) as (run, launcher, processes):
        os.kill(processes[1], signal.SIGKILL)
        _, messages = launcher.communicate()
    assert launcher.returncode == 1, messages
    assert messages.count("longrope: ") == 1
    assert "is lost" in messages or "was lost" in messages
    assert "the same command then goes on where it was" in messages
    assert "Error: " not in messages.replace("ChildFailedError: ", "")
    kept = run.trials.read_bytes()
    assert not run.factors().exists()
    assert pipeline.search(full, run) == pipeline.search(full, reference)
    assert run.trials.read_bytes().startswith(kept)
    resumed, whole = (list(map(timeless, read_records(of.trials, Trial))) for of in (run, reference))
    assert resumed == whole
    assert 20 <= kept.count(b"\n") < len(whole)
