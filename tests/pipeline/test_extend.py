"""A cold run leaves every artifact, and its recipe decides it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from outcomes import METHODS, TARGET, Outcome, by_method, outcome, written_scores
from transformers import AutoModelForCausalLM

from longrope.data import load_texts
from longrope.models import load_model
from longrope.pipeline import Callbacks, extend, search
from longrope.recipe import MeasureRecipe, Recipe
from longrope.rope import load_factors
from longrope.runs.records import Score, Trial, read_records
from longrope.runs.run_dir import RunDir


@pytest.mark.slow
def test_a_cold_run_leaves_every_artifact_and_tells_of_its_steps(recipe: Recipe, tmp_path: Path) -> None:
    """With the checkpoint really reopened, in plain transformers, in another process."""
    run, steps = RunDir(tmp_path / "run"), list[str]()
    trials = list[Trial]()
    returned = extend(recipe, run, Callbacks(on_trial=trials.append, on_step=steps.append))
    assert [score.method for score in returned] == ["none"] * 13 + ["longrope-gradient"] * 13
    assert written_scores(read_records(run.scores, Score)) == written_scores(returned)
    assert read_records(run.trials, Trial) == trials
    assert run.recipe() == recipe
    assert [step.split()[0] for step in steps] == [
        *("open", "read", "read", "0.0%", "load", "device", "estimate", "measure", "measure", "search", "measure"),
        *("export", "opened", "weights:", "short", "report:"),
    ]
    assert steps[-4].startswith("opened in transformers (transformers ")
    assert ": applied; " in steps[-4]
    assert "| transformers (transformers " in (run.checkpoint / "README.md").read_text()
    assert (run.checkpoint / "longrope.json").is_file()
    texts = load_texts(recipe.data, load_model(recipe.model).tokenizer, measure=recipe.measure_data)
    assert steps[2:3] == texts.lines(TARGET)
    assert steps[7].startswith(
        f"measure {recipe.measure.windows} of {recipe.measure.windows} windows of {TARGET} tokens"
    )
    (factors,) = load_factors(run.factors()).factor_sets
    assert factors == load_factors(run.factors("longrope-gradient")).factor_sets[0]
    assert (factors.target_window, factors.method) == (TARGET, "longrope-gradient")
    report = json.loads(run.export_report.read_text())
    assert report["target_window"] == TARGET
    assert max(report["difference_short"], report["difference_long"]) < 0.02
    network = AutoModelForCausalLM.from_pretrained(run.checkpoint)
    assert network.config.max_position_embeddings == TARGET
    assert network.config.rope_parameters["long_factor"] == pytest.approx(factors.lambdas)


def test_the_trained_window_and_the_target_are_measured_by_default(
    recipe: Recipe, tmp_path: Path, unopened: None
) -> None:
    settings = MeasureRecipe(metrics=("perplexity",), windows=1, tail_tokens=0)
    scores = extend(replace(recipe, measure=settings), RunDir(tmp_path))
    measured = [(score.method, score.context_tokens) for score in scores]
    assert measured == [(m, n) for m in ("none", "longrope-gradient") for n in (64, TARGET)]


@pytest.mark.usefixtures("unopened")
def test_a_card_that_lacks_later_scores_is_reported(recipe: Recipe, tmp_path: Path) -> None:
    """People edit cards, so it is not written over; the texts to measure on may have changed between two starts."""
    measured = tmp_path / "texts"
    shutil.copytree(recipe.measure_data[0], measured)
    quick = replace(by_method(recipe, "yarn"), measure_data=(str(measured),))
    quick = replace(quick, measure=MeasureRecipe(metrics=("perplexity",), windows=2))
    steps = list[str]()
    for changed in (False, False, True):
        if changed:
            for path in measured.rglob("*.txt"):
                path.write_text(path.read_text()[::-1])
        steps.clear()
        extend(quick, RunDir(tmp_path / "run"), Callbacks(on_step=steps.append))
        said = [step for step in steps if "lacks scores that were measured later" in step]
        assert len(said) == changed
    assert f"`longrope export {tmp_path / 'run'}` writes it again" in said[0]


@pytest.mark.parametrize("method", METHODS)
def test_texts_that_changed_after_a_search_are_reported(method: str, recipe: Recipe, tmp_path: Path) -> None:
    """What was found is kept, for the search may have taken hours."""
    shutil.copytree(recipe.data[0], tmp_path / "texts")
    own, steps = replace(by_method(recipe, method), data=(str(tmp_path / "texts"),)), list[str]()
    run = RunDir(tmp_path / "run")
    first = search(own, run)
    assert search(own, run, Callbacks(on_step=steps.append)) == first
    assert not [step for step in steps if "searched on other texts" in step]
    (path, *_) = sorted((tmp_path / "texts").rglob("*.txt"))
    for changed in (path.read_text()[::-1], "too short"):
        path.write_text(changed)
        assert search(own, run, Callbacks(on_step=steps.append)) == first
        (said,) = (step for step in steps if "searched on other texts" in step)
        assert said.endswith("delete it to search again")
        steps.clear()


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_decided_by_its_recipe(method: str, recipe: Recipe, whole: dict[str, Outcome], tmp_path: Path) -> None:
    extend(by_method(recipe, method), RunDir(tmp_path / "again"))
    assert outcome(RunDir(tmp_path / "again")) == whole[method]
