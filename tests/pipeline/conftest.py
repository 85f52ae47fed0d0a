"""A recipe of a whole run in a second, and the whole runs that interrupted ones are compared with."""

from pathlib import Path

import pytest
from outcomes import METHODS, TARGET, Outcome, by_method, leave_unopened, outcome

from longrope.pipeline import extend
from longrope.recipe import EvolutionRecipe, ExportRecipe, GradientRecipe, MeasureRecipe, Recipe, SearchRecipe
from longrope.runs.run_dir import RunDir


@pytest.fixture(scope="session")
def recipe(pico_folder: Path, text_folders: tuple[Path, Path]) -> Recipe:
    """A whole run in a second."""
    evolution = EvolutionRecipe(population=5, parents=3, mutations=2, crossovers=2, generations=2, windows=1)
    return Recipe(
        str(pico_folder),
        TARGET,
        (str(text_folders[0]),),
        (str(text_folders[1]),),
        seed=3,
        device="cpu",
        search=SearchRecipe(
            validation_windows=1, evolution=evolution, gradient=GradientRecipe(steps=4, validate_every=2)
        ),
        measure=MeasureRecipe(lengths=(TARGET,), windows=2, tail_tokens=16, passkeys=10),
        export=ExportRecipe(drop_start_tokens=True),
    )


@pytest.fixture(scope="session")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Cold runs of both methods, unbroken; the checkpoint is not reopened."""
    with pytest.MonkeyPatch.context() as patch:
        leave_unopened(patch)
        runs = {method: RunDir(tmp_path_factory.mktemp("whole") / method) for method in METHODS}
        for method, run in runs.items():
            extend(by_method(recipe, method), run)
    return {method: outcome(run) for method, run in runs.items()}
