"""Text to measure on that holds a page of the searched text is refused when the search ends, not after the training."""

from dataclasses import replace
from pathlib import Path

import pico
import pytest
from outcomes import TARGET

from longrope.errors import TextsError
from longrope.pipeline import extend
from longrope.recipe import MeasureRecipe, Recipe, Stage, TuneRecipe
from longrope.runs.run_dir import RunDir

STAGES = (Stage(search=TARGET), Stage(tune=TARGET), Stage(short=64, method="none"))


def test_a_page_of_searched_text_ends_the_run_before_its_training(recipe: Recipe, tmp_path: Path) -> None:
    """It is less than a fifth of the text to measure on, which passes when the run begins."""
    page = next(Path(recipe.data[0]).iterdir()).read_text()
    other = pico.make_text(6000, 77)
    (tmp_path / "measured.txt").write_text(
        other[: len(other) // 2] + page[: len(other) // 12] + other[len(other) // 2 :]
    )
    given = replace(
        recipe,
        measure_data=(str(tmp_path / "measured.txt"),),
        stages=STAGES,
        tune=TuneRecipe(steps=1, batch_windows=1, warmup_steps=0),
        measure=MeasureRecipe(lengths=(64, TARGET), windows=500, tail_tokens=0, metrics=("perplexity",)),
    )
    run = RunDir(tmp_path / "run")
    with pytest.raises(TextsError, match="that these factors were searched on"):
        extend(given, run)
    stages = sorted(path.name.split("-")[1] for path in run.stages.iterdir())
    assert "search" in stages
    assert not list(run.stages.rglob("train.jsonl"))
