"""Runs that are refused before any work is done."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measuring import no_passes
from outcomes import METHODS, TARGET, Countdown, InterruptError, by_method, keep_search

from longrope import pipeline
from longrope.data import load_texts
from longrope.errors import ExportError, LongRopeError, RecipeError, RunError, TextsError
from longrope.models import load_model
from longrope.pipeline import Callbacks, compare, export_again, extend
from longrope.recipe import ExportRecipe, MeasureRecipe, Recipe, SearchRecipe, Stage, TuneRecipe
from longrope.rope import baseline_factors
from longrope.runs.records import Trial
from longrope.runs.run_dir import RunDir
from longrope.search import find_factors


def test_another_recipe_is_refused_and_nothing_changes(recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(InterruptError):
        extend(recipe, run, Callbacks(on_trial=Countdown(3)))
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    others = [
        replace(recipe, seed=4),
        replace(recipe, target_tokens=512),
        by_method(recipe, "evolution"),
        replace(recipe, measure=replace(recipe.measure, windows=1)),
    ]
    for other in others:
        for command in (extend, compare, pipeline.search):
            with pytest.raises(RunError, match="another recipe"):
                command(other, run)
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_of_the_recipe_decides_the_search(method: str, recipe: Recipe, tmp_path: Path) -> None:
    """The same losses as in a search by hand on the search part of the texts with that seed, and no other."""
    model = load_model(recipe.model, device="cpu")
    text = load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data).search
    full, scheduled = by_method(recipe, method), list[Trial]()
    pipeline.search(full, RunDir(tmp_path), Callbacks(on_trial=scheduled.append))
    for seed, same in ((recipe.seed, True), (0, False)):
        by_hand = list[Trial]()
        find_factors(model, text, TARGET, settings=full.search, seed=seed, on_trial=by_hand.append)
        assert ([trial.loss_nats for trial in scheduled] == [trial.loss_nats for trial in by_hand]) == same


def test_a_directory_in_use_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with run.locked():
        for command in (extend, compare, pipeline.search):
            with pytest.raises(RunError, match="in use by another process"):
                command(recipe, run)
    assert not run.trials.exists()


@pytest.mark.usefixtures("unopened")
def test_a_run_that_could_not_begin_does_not_keep_its_directory(recipe: Recipe, tmp_path: Path) -> None:
    """After a typing error in --data the corrected command works, in the same directory."""
    run = RunDir(tmp_path)
    with pytest.raises(TextsError):
        extend(replace(recipe, data=(str(tmp_path / "boks"),)), run)
    assert extend(recipe, run)


@pytest.mark.usefixtures("unopened")
def test_start_tokens_are_not_dropped_silently(recipe: Recipe, tmp_path: Path) -> None:
    """Factors with start tokens: refused by default, and exported with the measured difference when asked."""
    run, careful = RunDir(tmp_path), replace(recipe, export=ExportRecipe())
    yarn = baseline_factors(load_model(recipe.model, device="cpu").spec, "yarn", TARGET).factor_sets[0]
    keep_search(run, careful, replace(yarn, start_tokens=16))
    with pytest.raises(ExportError, match="first 16 tokens"):
        extend(careful, run)
    assert not run.checkpoint.exists()
    assert not run.export_report.exists()
    export_again(run, ExportRecipe(drop_start_tokens=True))
    report = json.loads(run.export_report.read_text())
    assert report["start_tokens_dropped"] == 16
    assert report["loss_change_nats"] != 0


SEARCHED = SearchRecipe(validation_windows=1)
UNABLE: dict[str, tuple[dict[str, Any], str]] = {
    "target within the window": ({"target_tokens": 64, "measure": MeasureRecipe()}, "trained on 64 tokens already"),
    "target too long for the text": ({"target_tokens": 2**20}, "search text .* 2 windows of 1,048,576 tokens"),
    "too many windows held out": ({"search": replace(SEARCHED, validation_windows=10**5)}, "100,001 windows of 256"),
    "no room for needles": ({"search": replace(SEARCHED, needle_weight=1.0)}, "half of it at most"),
    "stage within the window": (
        {"stages": (Stage(search=64), Stage(search=TARGET))},
        "trained on 64 tokens already",
    ),
    "stage too long for the text": (
        {"stages": (Stage(search=128), Stage(search=2**20)), "target_tokens": 2**20},
        "search text .* 2 windows of 1,048,576 tokens",
    ),
    "too little to recover with": (
        {
            "stages": (Stage(search=96), Stage(extrapolate=2**15), Stage(short=2048)),
            "target_tokens": 2**15,
            "search": replace(SEARCHED, validation_windows=4),
        },
        "33 windows of 2,048 tokens",
    ),
    "too little to tune on": (
        {"stages": (Stage(search=96), Stage(extrapolate=2**15), Stage(tune=2**15)), "target_tokens": 2**15},
        "tune text .* 1 window of 32,768 tokens",
    ),
    "no room for needles in a training": (
        {"stages": (Stage(search=TARGET), Stage(tune=TARGET)), "tune": TuneRecipe(needle_weight=1.0)},
        "half of it at most",
    ),
}


@pytest.mark.parametrize("case", UNABLE)
def test_what_cannot_begin_is_reported_before_anything_is_measured(case: str, recipe: Recipe, tmp_path: Path) -> None:
    """Of all stages, and the run directory stays free for the corrected command."""
    changes, words = UNABLE[case]
    with no_passes(), pytest.raises(LongRopeError, match=words):
        extend(replace(recipe, **changes), RunDir(tmp_path))
    assert not any(tmp_path.iterdir())


ALONE = [name for name, (changes, _) in UNABLE.items() if "stages" not in changes]


@pytest.mark.parametrize("command", [pipeline.search, compare], ids=["search", "compare"])
@pytest.mark.parametrize("case", ALONE)
def test_what_cannot_be_searched_is_reported_before_any_pass(
    case: str, command: Any, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the trial of the model, too, and before the time is estimated by short passes."""
    changes, words = UNABLE[case]
    for place in ("extension.check_capable", "comparison_costs.PassTimer"):
        monkeypatch.setattr(f"longrope.pipeline.{place}", None)
    with no_passes(), pytest.raises(LongRopeError, match=words):
        command(replace(recipe, **changes), RunDir(tmp_path))
    assert not any(tmp_path.iterdir())


def test_a_comparison_takes_no_attention_factor(recipe: Recipe, tmp_path: Path) -> None:
    """Instead of running without it: its formulas and searches have their own."""
    given = replace(recipe, search=SearchRecipe("yarn", attention_factor=1.3))
    with no_passes(), pytest.raises(RecipeError, match=r"attention_factor = 1\.3 was given to a comparison.*--factors"):
        compare(given, RunDir(tmp_path))
    assert not any(tmp_path.iterdir())


def test_far_context_of_trained_weights_needs_the_original_before(recipe: Recipe, tmp_path: Path) -> None:
    """Nobody could read it with the original's weights after the training."""
    stages = (Stage(search=TARGET), Stage(tune=TARGET))
    measure = replace(recipe.measure, lengths=(32, TARGET), metrics=("far-context",), baselines=(), original_tokens=64)
    given = replace(recipe, stages=stages, measure=measure, tune=TuneRecipe(steps=1, batch_windows=1, warmup_steps=0))
    with no_passes(), pytest.raises(RecipeError, match=r"the original at 64 tokens, where nothing .*Add 64 to"):
        extend(given, RunDir(tmp_path))
    assert not any(tmp_path.iterdir())
