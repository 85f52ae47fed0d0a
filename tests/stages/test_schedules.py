"""What the stages of a run leave.

The oracle is the same steps called by hand, one after the other, on a model of their own.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from intervals import perplexity
from safetensors.torch import load_file
from staged_runs import (
    SEARCHED,
    SHORT,
    STEPS,
    TARGET,
    TUNED_AT,
    assert_tuned,
    contents,
    folders_of,
    open_texts,
    scores_of,
)
from trainings import weights_of
from transformers import AutoModelForCausalLM

from longrope.errors import LongRopeError, RecipeError
from longrope.evaluation.perplexity import window_losses
from longrope.models import LanguageModel
from longrope.pipeline import (
    Session,
    extend,
    plan_tasks,
    run_tasks,
)
from longrope.recipe import (
    Recipe,
    Stage,
)
from longrope.report.contents import read_run
from longrope.report.sections import cost_section
from longrope.rope import FactorTable, RescaleFactors, compose, extrapolate, load_factors, relative_to, tuned_spec
from longrope.runs.identity import TUNED
from longrope.runs.records import TrainStep, Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.search import find_factors, search_short_window
from longrope.tuning import fine_tune

GRADIENT = "longrope-gradient"


def set_of(folder: Path) -> RescaleFactors:
    """The one factor set that a stage has left."""
    (factor_set,) = load_factors(folder / "factors.json").factor_sets
    return factor_set


# What a run leaves


def test_each_stage_has_a_folder_with_what_it_promises(run: RunDir) -> None:
    folders = folders_of(run)
    assert [path.name.rpartition("-")[0] for path in folders] == [
        "1-search-128",
        "2-tune-128",
        "3-search-256",
        "4-carry-512",
        "5-recover-64",
    ]
    for folder in folders:
        messages = json.loads((folder / "stage.json").read_text())
        assert folder.name.endswith(messages["inputs"]["window"] + "-" + folder.name[-8:])
        assert messages["factors"] == set_of(folder).fingerprint
    kinds = {path.name[0]: {file.name for file in path.iterdir()} for path in folders}
    assert kinds["1"] == kinds["3"] == {"stage.json", "factors.json", "factors-longrope-gradient.json", "trials.jsonl"}
    assert kinds["2"] == {"stage.json", "factors.json", "train.jsonl", "tuning.safetensors"}
    assert kinds["4"] == {"stage.json", "factors.json"}
    assert kinds["5"] == {"stage.json", "factors.json", "trials.jsonl"}
    assert [step.step for step in read_records(folders[1] / "train.jsonl", TrainStep)] == list(range(STEPS))
    assert {trial.method for trial in read_records(folders[4] / "trials.jsonl", Trial)} == {"longrope-recovered"}


def test_the_costs_of_a_schedule_are_those_of_its_searches(run: RunDir) -> None:
    """Each by itself, for the losses of different windows tell nothing of each other; the report lists them."""
    costs = json.loads((run.path / "costs.json").read_text())
    searched = {"search 128": 0, "search 256": 2, "recover 64": 4}
    assert [cost["stage"] for cost in costs] == list(searched)
    for cost, number in zip(costs, searched.values(), strict=True):
        trials = read_records(folders_of(run)[number] / "trials.jsonl", Trial)
        assert (cost["method"], cost["trials"]) == (trials[0].method, len(trials))
        assert cost["token_passes"] == sum(trial.token_passes for trial in trials)
        assert cost["common_loss_nats"] == cost["validation_loss_nats"]
    (table, *_) = cost_section([read_run(run)]).tables
    assert table.header == (
        "search",
        "LongRoPE, gradient, search 128",
        "LongRoPE, gradient, search 256",
        "LongRoPE, short context, short-context search 64",
    )
    assert table.rows[0] == ("trials", *(str(cost["trials"]) for cost in costs))


def test_a_schedule_is_the_arrows_called_one_after_the_other(recipe: Recipe, run: RunDir) -> None:
    model, texts = open_texts(recipe)
    given: dict[str, Any] = {"settings": recipe.search, "seed": recipe.seed}
    first = find_factors(model, texts.search, TUNED_AT, **given)
    at = replace(recipe.tune, window_tokens=TUNED_AT)
    tuned = fine_tune(model, first, texts.tune, settings=at, seed=recipe.seed)
    second = find_factors(tuned, texts.search, SEARCHED, tuned_with=first, **given)
    relative = extrapolate(relative_to(first, second, tuned.spec), tuned_spec(tuned.spec, first), TARGET)
    extrapolated = compose(first, relative, tuned.spec)
    short = search_short_window(tuned, texts.search, SHORT, extrapolated, **given)
    folders = folders_of(run)
    assert [set_of(folder).fingerprint for folder in folders] == [
        factor_set.fingerprint for factor_set in (first, first, second, extrapolated, short)
    ]
    assert load_factors(run.factors()) == FactorTable((short, first, second, extrapolated))
    saved = load_file(folders[1] / "tuning.safetensors")
    for name, weight in weights_of(tuned).items():
        assert torch.equal(saved[f"weight/{name}"], weight), name


def test_the_scores_are_those_of_the_tuned_weights_and_each_length_has_its_factor_set(
    recipe: Recipe, run: RunDir
) -> None:
    """Short sequences take the short factors, long ones the extrapolated; the model before them stays beside."""
    scores = {(score.method, score.context_tokens): score for score in scores_of(run)}
    assert set(scores) == {(method, n) for method in ("none", "longrope-tuned") for n in (SHORT, TARGET)}
    model, texts = open_texts(recipe)
    table, windows = load_factors(run.factors()), texts.measure.windows(TARGET, 2)
    assert [factor_set.target_window for factor_set in table.factor_sets] == [SHORT, TUNED_AT, SEARCHED, TARGET]
    assert table.choose(SHORT).chosen_by == "longrope-recovered"
    first = table.choose(TUNED_AT).method
    assert {s.source for s in scores.values()} == {
        ("none", "", ""),
        ("longrope-tuned", GRADIENT, table.factor_sets[-1].method),
    }
    assert set(first.split("+")) <= set(table.factor_sets[-1].method.split("+")), "composed with those of the tuning"
    for length in (SHORT, TARGET):
        losses = window_losses(model, None, texts.measure.divided(windows, length))
        assert scores["none", length].value == pytest.approx(perplexity(losses))
        assert scores["none", length].model == recipe.model
    load_weights(model, folders_of(run)[1])
    for length, folder in ((SHORT, folders_of(run)[4]), (TARGET, folders_of(run)[3])):
        losses = window_losses(model, set_of(folder), texts.measure.divided(windows, length))
        score = scores["longrope-tuned", length]
        assert score.value == pytest.approx(perplexity(losses))
        assert score.factors_fingerprint == table.fingerprint
        assert score.model == f"{recipe.model}{TUNED}{folders_of(run)[1].name[-8:]}"


def load_weights(model: LanguageModel, folder: Path) -> None:
    """Put the weights that a tuning has left into a model."""
    weights = dict(model.network.named_parameters())
    for path, tensor in load_file(folder / "tuning.safetensors").items():
        weights[path.removeprefix("weight/")].data.copy_(tensor)


def test_the_exported_checkpoint_has_the_tuned_weights_and_the_longest_factors(recipe: Recipe, run: RunDir) -> None:
    report = json.loads(run.export_report.read_text())
    assert report["target_window"] == TARGET
    network = AutoModelForCausalLM.from_pretrained(run.checkpoint)
    assert network.config.max_position_embeddings == TARGET
    assert network.config.rope_parameters["long_factor"] == pytest.approx(set_of(folders_of(run)[3]).lambdas)
    assert_tuned(run)


# The paper's schedule: both searches on the original model, then a tuning with the factors of each

BY_THE_PAPER = (
    Stage(search=TUNED_AT),
    Stage(search=SEARCHED),
    Stage(tune=TUNED_AT, factors_of=1),
    Stage(tune=TUNED_AT, steps=STEPS + 1, factors_of=2),
    Stage(search=TARGET),
    Stage(short=SHORT),
)


@pytest.mark.usefixtures("unopened")
def test_a_tuning_trains_with_the_factors_of_the_stage_that_it_names(recipe: Recipe, tmp_path: Path) -> None:
    """As the same steps called by hand; the run is shown and resumed like any other."""
    paper, run = replace(recipe, stages=BY_THE_PAPER), RunDir(tmp_path)
    extend(paper, run)
    model, texts = open_texts(recipe)
    given: dict[str, Any] = {"settings": recipe.search, "seed": recipe.seed}
    near, far = (find_factors(model, texts.search, window, **given) for window in (TUNED_AT, SEARCHED))
    at = replace(recipe.tune, window_tokens=TUNED_AT)
    model = fine_tune(model, near, texts.tune, settings=at, seed=recipe.seed)
    model = fine_tune(model, far, texts.tune, settings=replace(at, steps=STEPS + 1), seed=recipe.seed)
    longest = find_factors(model, texts.search, TARGET, tuned_with=far, **given)
    short = search_short_window(model, texts.search, SHORT, longest, **given)
    assert [set_of(folder) for folder in folders_of(run)] == [near, far, near, far, longest, short]
    assert load_factors(run.factors()) == FactorTable((short, far, longest))
    saved = load_file(folders_of(run)[3] / "tuning.safetensors")
    for name, weight in weights_of(model).items():
        assert torch.equal(saved[f"weight/{name}"], weight), name
    assert [stage.name for stage in read_run(run).stages] == [path.name[2:] for path in folders_of(run)]
    before = contents(run.path)
    extend(paper, run)
    assert contents(run.path) == before


def test_another_stage_of_factors_trains_again_and_none_keeps_its_name(recipe: Recipe, tmp_path: Path) -> None:
    model, texts = open_texts(recipe)

    def hashes(*tunings: Stage) -> list[str]:
        changed = replace(recipe, target_tokens=SEARCHED, stages=(*BY_THE_PAPER[:2], *tunings))
        return [task.made_of for task in plan_tasks(Session(changed, RunDir(tmp_path), model, texts))]

    longest, second = hashes(Stage(tune=TUNED_AT)), hashes(Stage(tune=TUNED_AT, factors_of=2))
    first = hashes(Stage(tune=TUNED_AT, factors_of=1), Stage(tune=TUNED_AT, factors_of=2))
    assert longest[:2] == second[:2] == first[:2]
    assert len({longest[2], second[2], first[2], first[3]}) == 4


@pytest.mark.parametrize(
    ("given", "found", "needed"),
    [
        ([{"tune": 64, "factors_of": 1}], "stage 1 is to tune 64, factors of stage 1", "must come before it"),
        ([{"search": 512}, {"tune": 64, "factors_of": 3}], "stage 2 is to tune 64", "must come before it"),
        ([{"search": 128}, {"search": 512}, {"tune": 512, "factors_of": 1}], "tune 512", "factors for its window"),
    ],
)
def test_factors_of_a_stage_that_cannot_serve_are_refused(
    given: list[dict[str, Any]], found: str, needed: str, recipe: Recipe
) -> None:
    with pytest.raises(RecipeError) as caught:
        replace(recipe, stages=tuple(Stage(**stage) for stage in given))
    assert found in caught.value.found
    assert needed in caught.value.needed


def test_a_schedule_without_training_keeps_the_model_and_compares_with_the_best_baseline(
    recipe: Recipe, tmp_path: Path, unopened: None
) -> None:
    """Search and carry alone: the method is the search's, and no weight is touched."""
    untuned = replace(recipe, stages=(Stage(search=TUNED_AT), Stage(extrapolate=TARGET), Stage(short=SHORT)))
    untuned = replace(untuned, measure=replace(recipe.measure, baselines=("yarn",)))
    scores = extend(untuned, RunDir(tmp_path))
    assert {score.source.known_as for score in scores} == {"none", "yarn", GRADIENT}
    assert {score.model for score in scores} == {recipe.model}
    assert scores[-1].metric == "ratio-to-yarn"
    first, last = (set_of(folder) for folder in folders_of(RunDir(tmp_path))[:2])
    assert np.allclose(np.log(last.lambdas), 3 * np.log(first.lambdas)), "ln 8 / ln 2 is 3"
    assert (first.chosen_by, last.chosen_by, last.method) == (GRADIENT, GRADIENT, first.method)


def test_the_table_of_a_schedule_in_memory_chooses_as_its_file_does(
    recipe: Recipe, run: RunDir, tmp_path: Path
) -> None:
    """Walking in Python, without the pipeline."""
    model, texts = open_texts(recipe)
    session = Session(recipe, RunDir(tmp_path), model, texts)
    progress = run_tasks(session, plan_tasks(session))
    assert progress.table == load_factors(run.factors())
    assert progress.longest.target_window == TARGET
    assert progress.tuned_with == progress.table.choose(TUNED_AT)
    with pytest.raises(LongRopeError, match="513"):
        progress.table.choose(TARGET + 1)
