"""Runs with files that are gone: nothing false is told of them, and nothing is trained or exported instead."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from measuring import no_passes
from outcomes import leave_unopened
from staged_runs import SHORT, TUNED_AT, contents, folders_of

from longrope import pipeline
from longrope.errors import RunError
from longrope.pipeline import compare, export_again, extend
from longrope.recipe import ExportRecipe, Recipe
from longrope.report.contents import read_run
from longrope.rope import load_factors
from longrope.runs.run_dir import RunDir


@pytest.fixture(scope="module")
def plain(recipe: Recipe) -> Recipe:
    """Without stages."""
    measured = replace(recipe.measure, lengths=(SHORT, TUNED_AT))
    return replace(recipe, stages=(), target_tokens=TUNED_AT, measure=measured)


@pytest.fixture
def trained(plain: Recipe, run: RunDir, tmp_path: Path) -> RunDir:
    """A training by ``tune``, whose checkpoint was not reopened."""
    alone = RunDir(tmp_path / "trained")
    with pytest.MonkeyPatch.context() as patch:
        leave_unopened(patch)
        pipeline.tune(plain, folders_of(run)[0] / "factors.json", alone)
    return alone


def test_a_training_without_its_weights_is_neither_exported_nor_trained_again(
    plain: Recipe, run: RunDir, trained: RunDir
) -> None:
    """The checkpoint, which then is the only copy of the weights, stays."""
    trained.tuning.unlink()
    before = contents(trained.path)
    again: tuple[Callable[[], object], ...] = (
        lambda: export_again(trained, ExportRecipe()),
        lambda: pipeline.tune(plain, folders_of(run)[0] / "factors.json", trained),
    )
    for command in again:
        with (
            no_passes(),
            pytest.raises(RunError, match=r"tuning\.safetensors is not there, though "),
        ):
            command()
    assert contents(trained.path) == before
    assert read_run(trained).is_trained


def test_a_training_is_not_gone_on_with_by_another_command(plain: Recipe, trained: RunDir) -> None:
    before = contents(trained.path)
    for command in (extend, compare, pipeline.search):
        with no_passes(), pytest.raises(RunError, match="holds a training of `longrope tune`"):
            command(plain, trained)
    assert contents(trained.path) == before


def test_trained_weights_are_told_to_be_where_their_log_is_gone(trained: RunDir, copied: RunDir) -> None:
    trained.train.unlink()
    for folder in folders_of(copied):
        (folder / "train.jsonl").unlink(missing_ok=True)
    assert read_run(trained).is_trained
    assert read_run(copied).is_trained


@pytest.mark.usefixtures("unopened")
def test_a_checkpoint_that_is_gone_is_written_again(recipe: Recipe, copied: RunDir) -> None:
    before = (copied.checkpoint / "config.json").read_text()
    shutil.rmtree(copied.checkpoint)
    with no_passes(most=SHORT):
        extend(recipe, copied)
    assert (copied.checkpoint / "config.json").read_text() == before


def test_factors_for_another_window_are_not_those_of_a_search(plain: Recipe, run: RunDir, tmp_path: Path) -> None:
    other = RunDir(tmp_path / "other")
    (own,) = folders_of(run)[0].glob("factors-*.json")
    assert load_factors(own).factor_sets[0].target_window != 2 * TUNED_AT
    shutil.copy(own, other.path / own.name)
    with pytest.raises(RunError, match=rf"is for .* tokens\. This run searches factors for {2 * TUNED_AT}"):
        pipeline.search(replace(plain, target_tokens=2 * TUNED_AT), other)
