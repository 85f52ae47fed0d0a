"""Launches of two and three processes, and what one process makes of the same recipe."""

import pickle
import shutil
from pathlib import Path

import pytest
from launching import KEPT_TRIALS, Alone, Launch, launched
from worker_parallel import (
    stopped_training,
)

from longrope import pipeline
from longrope.recipe import EvolutionRecipe, GradientRecipe, MeasureRecipe, Recipe, SearchRecipe, dump_recipe
from longrope.runs.run_dir import RunDir


@pytest.fixture(scope="module")
def recipe(pico_folder: Path, text_folders: tuple[Path, Path]) -> Recipe:
    """A recipe whose numbers are small enough for a test, and no multiples of two and three."""
    evolution = EvolutionRecipe(population=7, parents=3, mutations=3, crossovers=2, generations=3, windows=1)
    gradient = GradientRecipe(steps=4, validate_every=2)
    measured = MeasureRecipe(lengths=(192, 256), metrics=("perplexity", "passkey"), windows=5, passkeys=11)
    return Recipe(
        str(pico_folder),
        256,
        (str(text_folders[0]),),
        measure_data=(str(text_folders[1]),),
        device="cpu",
        search=SearchRecipe(validation_windows=2, evolution=evolution, gradient=gradient),
        measure=measured,
    )


@pytest.fixture(scope="module")
def alone(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Alone:
    """The comparison by one process."""
    run = RunDir(tmp_path_factory.mktemp("alone"))
    return Alone(run, pipeline.compare(recipe, run))


def launch_cases(ranks: int, folder: Path, begun: Path, recipe: Recipe, alone: Alone) -> Launch:
    """All cases of tests/worker_parallel.py in so many processes, which go on with the training in a directory."""
    shutil.copytree(begun, folder / "begun")
    (folder / "recipe.toml").write_text(dump_recipe(recipe))
    started = RunDir(folder / "resumed")
    started.bind(recipe)
    trials = [line for line in alone.run.trials.read_text().splitlines(keepends=True) if "longrope-gradient" in line]
    started.trials.write_text("".join(trials[:KEPT_TRIALS]))
    with launched(ranks, folder) as launcher:
        _, messages = launcher.communicate()
    assert launcher.returncode == 0, messages
    return Launch(folder, [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(ranks)])  # noqa: S301


@pytest.fixture(scope="module")
def two(recipe: Recipe, alone: Alone, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Two processes, which go on with what one has begun."""
    one = tmp_path_factory.mktemp("one")
    stopped_training(one)
    return launch_cases(2, tmp_path_factory.mktemp("two"), one / "stopped", recipe, alone)


@pytest.fixture(scope="module")
def three(two: Launch, recipe: Recipe, alone: Alone, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Three processes, which go on with what two have begun."""
    return launch_cases(3, tmp_path_factory.mktemp("three"), two.folder / "stopped", recipe, alone)


@pytest.fixture(scope="module", params=[pytest.param(ranks, marks=pytest.mark.slow) for ranks in ("two", "three")])
def launch(request: pytest.FixtureRequest) -> Launch:
    """Each of them."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def ranks(launch: Launch) -> int:
    return len(launch.results)
