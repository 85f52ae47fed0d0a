"""A run that is interrupted anywhere ends as a whole one: its factors byte by byte, trials, scores, checkpoint."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from disk import note_syncs
from exporting import save_by
from measuring import no_passes
from outcomes import Countdown, InterruptError, Outcome, appends_scores, by_method, outcome, read_lines, written_scores
from spying import before

from longrope.evaluation import passkey, perplexity
from longrope.exports import hf
from longrope.pipeline import Callbacks, extend
from longrope.recipe import GradientRecipe, Recipe, dump_recipe
from longrope.runs import run_dir
from longrope.runs.run_dir import RunDir
from longrope.search import score as search_score


def interrupted_in_search(count: int) -> Callable[[pytest.MonkeyPatch], Callbacks]:
    """After so many evaluations."""
    return lambda _: Callbacks(on_trial=Countdown(count))


def interrupted_at_file(name: str) -> Callable[[pytest.MonkeyPatch], Callbacks]:
    """When this file was about to be written."""

    def arrange(patch: pytest.MonkeyPatch) -> Callbacks:
        before(patch, RunDir, "write_text", Countdown(1, lambda _run, path, _text: path.name == name))
        return Callbacks()

    return arrange


def interrupted_in(
    module: Any, name: str, count: int = 1, counts: Callable[..., bool] = lambda *_, **__: True
) -> Callable[[pytest.MonkeyPatch], Callbacks]:
    """At this call of a function, of those that count."""

    def arrange(patch: pytest.MonkeyPatch) -> Callbacks:
        before(patch, module, name, Countdown(count, counts))
        return Callbacks()

    return arrange


def interrupted_in_a_half_written_checkpoint(patch: pytest.MonkeyPatch) -> Callbacks:
    """The config is there, the weights are not."""

    def write_half(_: Any, folder: Path, *_rest: Any) -> None:
        (folder / "config.json").write_text("{}")
        raise InterruptError

    save_by(patch, write_half)
    return Callbacks()


MOMENTS: dict[str, Callable[[pytest.MonkeyPatch], Callbacks]] = {
    "in the first evaluation": interrupted_in(search_score, "token_losses"),
    "after one trial": interrupted_in_search(1),
    "after seven trials": interrupted_in_search(7),
    "in a later evaluation": interrupted_in(search_score, "token_losses", 8),
    "before factors of the search": interrupted_at_file("factors-longrope-{method}.json"),
    "before factors of the run": interrupted_at_file("factors.json"),
    "in perplexity": interrupted_in(perplexity, "token_losses", 2),
    "in passkeys": interrupted_in(passkey, "greedy_answers", 13),
    "between a summary and its score": interrupted_in(run_dir, "append_records", 2),
    "after two scores": interrupted_in(run_dir, "append_records", 2, appends_scores),
    "after fifteen scores": interrupted_in(run_dir, "append_records", 4, appends_scores),
    "in the checkpoint": interrupted_in_a_half_written_checkpoint,
    "while reopening": interrupted_in(hf, "compare_logits"),
    "before the report": interrupted_at_file("export.json"),
}


IN_THE_SEARCH = [moment for moment in MOMENTS if "evaluation" in moment or "trial" in moment or "factors" in moment]
INTERRUPTED = [*(("gradient", moment) for moment in MOMENTS), *(("evolution", moment) for moment in IN_THE_SEARCH)]
QUICK = {*INTERRUPTED[::3], ("gradient", "in the checkpoint")}  # of every part of a run one moment or more


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize(
    ("method", "moment"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in INTERRUPTED],
)
def test_a_run_interrupted_at_any_moment_ends_as_a_whole_one(
    method: str, moment: str, recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path
) -> None:
    run, full = RunDir(tmp_path / "run"), by_method(recipe, method)
    arrange = MOMENTS[moment]
    if moment == "before factors of the search":
        arrange = interrupted_at_file(f"factors-longrope-{method}.json")
    with pytest.MonkeyPatch.context() as patch:
        watch = arrange(patch)
        with pytest.raises(InterruptError):
            extend(full, run, watch)
    assert not run.export_report.exists()
    assert run.checkpoint.exists() == (moment == "before the report")
    returned = extend(full, RunDir(tmp_path / "run"))
    assert outcome(run) == whole[method]
    assert written_scores(returned) == whole[method].scores


@pytest.mark.usefixtures("unopened")
def test_a_run_interrupted_again_and_again_ends_as_a_whole_one(
    recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path
) -> None:
    """Some writes (of a file, and of its name) are let through each time, then the power goes: so it ends."""
    run, rounds, ended = RunDir(tmp_path), 0, False
    writes = len(whole["gradient"].trials) + 8  # for two metrics of two methods: samples and scores
    while not ended:
        assert rounds <= writes / 3
        with pytest.MonkeyPatch.context() as patch:
            note_syncs(patch, Countdown(30))
            with contextlib.suppress(InterruptError):
                extend(recipe, run)
                ended = True
        rounds += 1
    extend(recipe, run)  # the last round may have ended in its report, which is written after the checkpoint's
    assert outcome(run) == whole["gradient"]
    assert rounds >= writes / 14


@pytest.mark.slow
@pytest.mark.usefixtures("unopened")
def test_a_killed_process_is_resumed(recipe: Recipe, tmp_path: Path) -> None:
    """SIGKILL in the middle of a search, of a real command in a process of its own."""
    gradient = GradientRecipe(steps=80, validate_every=20)
    full = replace(recipe, search=replace(recipe.search, gradient=gradient))
    (tmp_path / "recipe.toml").write_text(dump_recipe(full))
    run, reference = RunDir(tmp_path / "run"), RunDir(tmp_path / "whole")
    command = [sys.executable, "-m", "longrope", "extend", "--recipe", str(tmp_path / "recipe.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--out", str(run.path)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and len(read_lines(run.trials)) < 10:
        time.sleep(0.002)
    process.kill()
    _, messages = process.communicate()
    extend(full, reference)
    assert process.returncode == -signal.SIGKILL, messages
    left = len(read_lines(run.trials))
    assert 10 <= left < len(read_lines(reference.trials))
    assert not run.factors().exists()
    extend(full, run)
    assert outcome(run) == outcome(reference)


@pytest.mark.usefixtures("unopened")
def test_a_finished_run_is_only_read(recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    first = extend(recipe, run)
    files = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    written = {path: path.stat().st_mtime_ns for path in run.checkpoint.iterdir()}
    with no_passes():
        again = extend(recipe, run)
    assert {path: path.stat().st_mtime_ns for path in run.checkpoint.iterdir()} == written
    assert written_scores(again) == written_scores(first)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == files
