"""A recipe with stages, and a finished run of it."""

import shutil
from pathlib import Path

import pytest
from outcomes import leave_unopened
from staged_runs import SHORT, STAGES, STEPS, TARGET

from longrope.pipeline import (
    extend,
)
from longrope.recipe import (
    ExportRecipe,
    GradientRecipe,
    MeasureRecipe,
    Recipe,
    SearchRecipe,
    TuneRecipe,
)
from longrope.runs.run_dir import RunDir


@pytest.fixture(scope="session")
def recipe(pico_folder: Path, text_folders: tuple[Path, Path]) -> Recipe:
    """A whole run in a few seconds; training is fast enough to change every loss."""
    return Recipe(
        str(pico_folder),
        TARGET,
        (str(text_folders[0]),),
        (str(text_folders[1]),),
        seed=3,
        device="cpu",
        stages=STAGES,
        search=SearchRecipe(validation_windows=1, gradient=GradientRecipe(steps=3, validate_every=2, scan_windows=1)),
        tune=TuneRecipe(steps=STEPS, batch_windows=2, learning_rate=3e-3, warmup_steps=1, checkpoint_every=2),
        measure=MeasureRecipe(lengths=(SHORT, TARGET), metrics=("perplexity",), windows=2, tail_tokens=0),
        export=ExportRecipe(drop_start_tokens=True),
    )


@pytest.fixture(scope="session")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run whose checkpoint was not reopened; read it only."""
    directory = RunDir(tmp_path_factory.mktemp("stages") / "run")
    with pytest.MonkeyPatch.context() as patch:
        leave_unopened(patch)
        extend(recipe, directory)
    return directory


@pytest.fixture
def copied(run: RunDir, tmp_path: Path) -> RunDir:
    """A finished run of one's own."""
    shutil.copytree(run.path, tmp_path / "run")
    return RunDir(tmp_path / "run")
