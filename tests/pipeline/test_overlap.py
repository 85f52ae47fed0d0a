"""Text to measure on is apart from what is searched and tuned on, or it is refused before anything takes time."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pico
import pytest
from measuring import no_passes
from outcomes import TARGET

from longrope.data import load_texts, sketch
from longrope.errors import TextsError
from longrope.models import load_model
from longrope.pipeline import Callbacks, compare, extend, measure_only, tune
from longrope.recipe import MeasureRecipe, Recipe, Stage, TuneRecipe
from longrope.rope import FactorTable, baseline_factors, dump_factors
from longrope.runs.run_dir import RunDir

MEASURED = MeasureRecipe(lengths=(TARGET,), windows=2, tail_tokens=16, metrics=("perplexity",))


def near_copies(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe, measured on its own files under other names and with a line more in each."""
    folder.mkdir()
    for path in Path(recipe.data[0]).iterdir():
        (folder / f"other-{path.name}").write_text(f"One more line.\n{path.read_text()}")
    return replace(recipe, measure_data=(str(folder),))


@pytest.mark.parametrize("command", [extend, compare])
def test_near_copies_of_the_searched_files_are_refused_at_once(command: type, recipe: Recipe, tmp_path: Path) -> None:
    given = near_copies(recipe, tmp_path / "copies")
    run = RunDir(tmp_path / "run")
    with no_passes(), pytest.raises(TextsError, match=r"also text to search on: about \d+% of .*other-"):
        command(given, run)
    assert not any(run.path.iterdir())


def test_near_copies_of_files_to_tune_on_are_refused_where_the_run_tunes(recipe: Recipe, tmp_path: Path) -> None:
    """The second half of the data is the part to tune on; measured on copies of it alone."""
    data, copies = tmp_path / "data", tmp_path / "copies"
    data.mkdir()
    copies.mkdir()
    for number in range(4):
        (data / f"{number}.txt").write_text(pico.make_text(1500, 50 + number))
    for number in (2, 3):
        (copies / f"{number}.txt").write_text("A line.\n" + pico.make_text(1500, 50 + number))
    given = replace(recipe, data=(str(data),), measure_data=(str(copies),))
    stages = (Stage(search=TARGET), Stage(tune=TARGET))
    scheduled = replace(given, stages=stages, tune=TuneRecipe(steps=1, batch_windows=1, warmup_steps=0))
    with no_passes(), pytest.raises(TextsError, match=r"also text to tune on: about \d+% of "):
        extend(scheduled, RunDir(tmp_path / "run"))


@pytest.mark.parametrize("searched", [slice(3, 4), slice(0, 1)])
def test_the_share_of_searched_text_is_reported_or_refused(searched: slice, recipe: Recipe, tmp_path: Path) -> None:
    """By the sketch in the factors: of one file, windows that were not searched on pass, and those that were do not."""
    model = load_model(recipe.model, device="cpu")
    text = load_texts((), model.tokenizer, measure=recipe.measure_data).measure
    factors = baseline_factors(model.spec, "yarn", TARGET).factor_sets[0]
    windows = text.windows(TARGET, 7)[searched]
    file = tmp_path / "factors.json"
    file.write_text(dump_factors(FactorTable((replace(factors, searched=sketch(windows)),))))
    bare, lines = replace(recipe, data=(), measure=MEASURED), list[str]()
    if searched.start == 0:  # the first of the two windows that are measured
        with no_passes(), pytest.raises(TextsError, match=r"is about (4\d|5\d)% of it"):
            measure_only(bare, file, None)
        return
    measure_only(bare, file, None, Callbacks(on_step=lines.append))
    [line] = [line for line in lines if "searched on" in line]
    found, asked = map(int, re.findall(r"\((\d+) of (\d+) samples\)", line)[0])
    assert line.startswith("about 0.0% of the text to measure on was searched on")
    assert (found, asked > 0) == (0, True)


@pytest.mark.usefixtures("unopened")
def test_a_tuned_checkpoint_is_not_measured_on_its_text(recipe: Recipe, tmp_path: Path) -> None:
    """Through files: `tune` writes a checkpoint, and `measure` reads it."""
    model = load_model(recipe.model, device="cpu")
    file = tmp_path / "factors.json"
    file.write_text(dump_factors(baseline_factors(model.spec, "yarn", TARGET).factor_sets[0]))
    settings = TuneRecipe(steps=2, batch_windows=16, warmup_steps=0, learning_rate=1e-4)
    run = RunDir(tmp_path / "run")
    tune(replace(recipe, tune=settings), file, run)
    assert json.loads((run.checkpoint / "tuned_on.json").read_text())["hashes"]
    tuned = replace(recipe, model=str(run.checkpoint), data=(), measure=replace(MEASURED, windows=20))
    lines: list[str] = []
    measure_only(tuned, None, None, Callbacks(on_step=lines.append))
    assert any("0.0% of the text to measure on was tuned on" in line for line in lines)
    for path in Path(recipe.data[0]).iterdir():
        (tmp_path / f"{path.name}.copy").write_text(path.read_text() + "One more line.\n")
    copies = tuple(str(path) for path in tmp_path.glob("*.copy"))
    with no_passes(), pytest.raises(TextsError, match=r"also text to tune on: about \d+% of .*\.copy"):
        measure_only(replace(tuned, measure_data=copies), None)
