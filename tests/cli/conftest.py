"""What tests of the command line share."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from commands import Command, run_command

from longrope.recipe import EvolutionRecipe, GradientRecipe, MeasureRecipe, Recipe, SearchRecipe, dump_recipe


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run ``longrope`` with arguments, as its console script does, in an empty directory."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "400")

    return partial(run_command, monkeypatch, capsys)


@pytest.fixture
def recipe_file(pico_folder: Path, text_folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """A recipe whose numbers are small enough for a test."""
    evolution = EvolutionRecipe(population=6, parents=3, mutations=3, crossovers=2, generations=3, windows=1)
    search = SearchRecipe(validation_windows=1, evolution=evolution, gradient=GradientRecipe(steps=3, validate_every=2))
    measured = MeasureRecipe(lengths=(64, 256), metrics=("perplexity",), windows=2, tail_tokens=16)
    data, measure_data = ((str(folder),) for folder in text_folders)
    full = Recipe(str(pico_folder), 256, data, measure_data, device="cpu", search=search, measure=measured)
    full = replace(full, export=replace(full.export, drop_start_tokens=True))
    (tmp_path / "recipe.toml").write_text(dump_recipe(full))
    return tmp_path / "recipe.toml"
