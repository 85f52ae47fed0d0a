"""The progressive run: what each stage leaves, what a changed recipe does again, and what is refused before it.

The oracle of a run is the same arrows called by hand, one after the other, on a model of their own.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measuring import no_passes
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from longrope import pipeline
from longrope.data import Texts, load_texts
from longrope.errors import LongRopeError, RecipeError, RunError, TextsError
from longrope.evaluation.perplexity import window_losses
from longrope.evaluation.statistics import perplexity
from longrope.models import LanguageModel, load_model
from longrope.pipeline import (
    Callbacks,
    Session,
    estimate_stages,
    estimates,
    export_again,
    extend,
    plan_stages,
    plan_tasks,
    run_tasks,
)
from longrope.pipeline.stages import TUNED
from longrope.recipe import (
    ExportRecipe,
    GradientRecipe,
    MeasureRecipe,
    Recipe,
    SearchRecipe,
    Stage,
    TuneRecipe,
)
from longrope.report.contents import read_run
from longrope.report.sections import cost_section
from longrope.rope import FactorTable, RescaleFactors, compose, extrapolate, load_factors, relative_to, tuned_spec
from longrope.runs.records import Score, TrainStep, Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.search import find_factors, search_short_window
from longrope.search.cost import count_passes
from longrope.settings import build
from longrope.tuning import fine_tune

SHORT, TUNED_AT, SEARCHED, TARGET, STEPS = 64, 128, 256, 512, 4
GRADIENT = "longrope-gradient"
STAGES = (
    Stage(search=TUNED_AT),
    Stage(tune=TUNED_AT),
    Stage(search=SEARCHED),
    Stage(extrapolate=TARGET),
    Stage(short=SHORT),
)


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def run(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run whose checkpoint was really reopened; read it only."""
    directory = RunDir(tmp_path_factory.mktemp("walk") / "run")
    extend(recipe, directory)
    return directory


@pytest.fixture
def copied(run: RunDir, tmp_path: Path) -> RunDir:
    """A finished run of one's own."""
    shutil.copytree(run.path, tmp_path / "run")
    return RunDir(tmp_path / "run")


def open_texts(recipe: Recipe) -> tuple[LanguageModel, Texts]:
    """The model and the texts of a recipe, fresh."""
    model = load_model(recipe.model, device="cpu")
    return model, load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data)


def folders_of(run: RunDir) -> list[Path]:
    """The stages of a run in order."""
    return sorted(run.stages.iterdir())


def set_of(folder: Path) -> RescaleFactors:
    """The one factor set that a stage has left."""
    (factor_set,) = load_factors(folder / "factors.json").factor_sets
    return factor_set


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written_at(folder: Path) -> dict[Path, int]:
    """When each file below a folder was written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def weights_of(model: LanguageModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.network.named_parameters()}


def scores_of(run: RunDir) -> list[Score]:
    """The scores without their wall clock."""
    return [replace(score, seconds=0.0) for score in read_records(run.scores, Score)]


def never(*_: object, **__: object) -> None:
    """Stand in for what must not be called."""
    raise AssertionError("done again")


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
    """It was reopened by plain transformers in a process of its own, and its logits compared."""
    report = json.loads(run.export_report.read_text())
    assert report["target_window"] == TARGET
    assert max(report["difference_short"], report["difference_long"]) < 0.02
    network = AutoModelForCausalLM.from_pretrained(run.checkpoint)
    assert network.config.max_position_embeddings == TARGET
    assert network.config.rope_parameters["long_factor"] == pytest.approx(set_of(folders_of(run)[3]).lambdas)
    assert_tuned(run)


def assert_tuned(run: RunDir) -> None:
    """The weights of the checkpoint are those of the tuning, and not those of the model before it."""
    network = AutoModelForCausalLM.from_pretrained(run.checkpoint)
    saved = load_file(folders_of(run)[1] / "tuning.safetensors")
    before = load_model(run.recipe().model, device="cpu").network.state_dict()
    for name, weight in network.named_parameters():
        assert torch.equal(saved[f"weight/{name}"], weight), name
        assert not torch.equal(before[name], weight), name


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


# Begun again


def test_a_finished_schedule_is_only_read(recipe: Recipe, copied: RunDir) -> None:
    """Not one pass, for an estimate neither; every stage is told to be done, and every file stays."""
    before, steps, exported = contents(copied.path), list[str](), written_at(copied.checkpoint)
    with no_passes():
        again = extend(recipe, copied, Callbacks(on_step=steps.append))
    assert written_at(copied.checkpoint) == exported
    assert [replace(score, seconds=0.0) for score in again] == scores_of(copied)
    assert contents(copied.path) == before
    messages = [step for step in steps if step.startswith("stage ")]
    assert messages == [f"stage {n} of 5: {stage.label} (done before)" for n, stage in enumerate(STAGES, 1)]


@pytest.mark.usefixtures("unopened")
def test_other_steps_of_the_tuning_do_it_and_what_follows_again(recipe: Recipe, copied: RunDir, tmp_path: Path) -> None:
    """As a fresh run would, and the old stages stay."""
    before, changed = contents(copied.stages), replace(recipe, tune=replace(recipe.tune, steps=STEPS + 1))
    trials = list[Trial]()
    extend(changed, copied, Callbacks(on_trial=trials.append))
    extend(changed, RunDir(tmp_path / "fresh"))
    after, fresh = contents(copied.stages), contents(RunDir(tmp_path / "fresh").stages)
    assert {path: after[path] for path in before} == before
    assert {path.parts[0] for path in after} == {path.parts[0] for path in before} | {path.parts[0] for path in fresh}
    assert len({path.parts[0] for path in after}) == 5 + 4
    assert {trial.method for trial in trials} == {"longrope-gradient", "longrope-recovered"}
    assert all(len(trial.model) > len(recipe.model) for trial in trials), (
        "nothing of the untuned model is searched again"
    )
    for name in ("factors.json", "recipe.toml", "schedule.txt"):
        assert (copied.path / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert set(scores_of(RunDir(tmp_path / "fresh"))) < set(scores_of(copied))
    shown, expected = read_run(copied), read_run(RunDir(tmp_path / "fresh"))
    assert [stage.name for stage in shown.stages] == [stage.name for stage in expected.stages]
    assert {replace(score, seconds=0.0) for score in shown.scores} == set(scores_of(RunDir(tmp_path / "fresh")))
    assert [cost["token_passes"] for cost in shown.costs] == [cost["token_passes"] for cost in expected.costs]
    exported = load_file(copied.checkpoint / "model.safetensors")
    for name, weight in load_file(tmp_path / "fresh" / "hf" / "model.safetensors").items():
        assert torch.equal(exported[name], weight), name


@pytest.mark.usefixtures("unopened")
def test_another_short_window_is_searched_without_any_other_stage(recipe: Recipe, copied: RunDir) -> None:
    before, trials = contents(copied.stages), list[Trial]()
    shorter = replace(recipe, stages=(*STAGES[:-1], Stage(short=32)))
    extend(shorter, copied, Callbacks(on_trial=trials.append, on_train=never))
    assert {trial.method for trial in trials} == {"longrope-recovered"}
    after = contents(copied.stages)
    assert {path: after[path] for path in before} == before
    assert {path.parts[0][:12] for path in after.keys() - before.keys()} == {"5-recover-32"}
    table = load_factors(copied.factors())
    assert [factor_set.target_window for factor_set in table.factor_sets] == [32, TUNED_AT, SEARCHED, TARGET]
    shown = {score.factors_fingerprint for score in read_run(copied).scores if TUNED in score.model}
    assert (
        shown
        == {table.fingerprint}
        < {score.factors_fingerprint for score in scores_of(copied) if TUNED in score.model}
    )


@pytest.mark.usefixtures("unopened")
def test_a_schedule_that_was_changed_back_is_only_read(recipe: Recipe, copied: RunDir) -> None:
    """Scores, too; the checkpoint alone is written again."""
    shorter, scheduled = replace(recipe, stages=(*STAGES[:-1], Stage(short=32))), copied.factors().read_bytes()
    extend(shorter, copied)
    with no_passes(most=SHORT):  # an export reads texts of that length
        extend(recipe, copied)
    assert copied.factors().read_bytes() == scheduled


def test_stages_that_go_on_from_a_finished_schedule_are_shown_with_it(recipe: Recipe, copied: RunDir) -> None:
    """As a script may run on; while a stage is not finished, what it goes on from is not known."""
    model, texts = open_texts(recipe)
    longer = replace(recipe, stages=(*STAGES, Stage(extrapolate=2 * TARGET)), target_tokens=2 * TARGET)
    before = [stage.name for stage in read_run(copied).stages]
    session = Session(longer, copied, model, texts)
    run_tasks(session, plan_tasks(session))
    *shown, last = (stage.name for stage in read_run(copied).stages)
    assert shown == before
    assert last.startswith("carry-1k-")


def test_a_run_of_an_earlier_version_goes_on_without_doing_anything_again(recipe: Recipe, copied: RunDir) -> None:
    """Other names of keys and of a file; what its checkpoint was made of is written as it was then."""
    path = copied.path / "recipe.toml"
    now = path.read_text()
    path.write_text(
        now.replace("baselines = ", "rivals = ")
        .replace("factor_sets = ", "tiers = ")
        .replace("extrapolate = ", "carry = ")
        .replace("short = ", "recover = ")
    )
    assert now.count("baselines = ") == now.count("factor_sets = ") == 1
    form = {"tiers": "single", "drop_start_tokens": True, "base_model": ""}
    assert copied.scheduled.read_text().partition(" ")[2] == json.dumps(form) + "\n"
    copied.scheduled.rename(copied.path / "walk.txt")
    before, exported = contents(copied.path), written_at(copied.checkpoint)
    with no_passes():
        extend(recipe, copied)
    after = contents(copied.path)
    assert written_at(copied.checkpoint) == exported
    assert {name: after[name] for name in before if name.name not in ("recipe.toml", "report.html")} == {
        name: before[name] for name in before if name.name not in ("recipe.toml", "report.html")
    }


@pytest.mark.usefixtures("unopened")
def test_another_form_of_the_checkpoint_is_written(recipe: Recipe, copied: RunDir) -> None:
    extend(replace(recipe, export=ExportRecipe("two", drop_start_tokens=True)), copied)
    assert json.loads(copied.export_report.read_text())["factor_sets"] == "two"
    assert_tuned(copied)


def test_a_key_that_changes_nothing_of_a_stage_leaves_it(recipe: Recipe, tmp_path: Path) -> None:
    """Steps that stages give themselves, and a window, stand above those of all tunings."""
    model, texts = open_texts(recipe)

    def names(changed: Recipe) -> list[str]:
        return [task.folder.name for task in plan_tasks(Session(changed, RunDir(tmp_path), model, texts))]

    given = replace(recipe, stages=(STAGES[0], Stage(tune=TUNED_AT, steps=STEPS), *STAGES[2:]))
    assert names(given) == names(recipe)
    assert names(replace(given, tune=replace(recipe.tune, steps=9, window_tokens=32))) == names(recipe)
    assert names(replace(recipe, measure=replace(recipe.measure, windows=1))) == names(recipe)
    other = names(replace(recipe, search=replace(recipe.search, tail_tokens=8)))
    assert not set(other) & set(names(recipe))


CHANGES: dict[str, Callable[[Recipe], Recipe]] = {
    "seed": lambda recipe: replace(recipe, seed=4),
    "data": lambda recipe: replace(recipe, data=recipe.measure_data, measure_data=recipe.data),
    "dtype": lambda recipe: replace(recipe, dtype="float32"),
    "model": lambda recipe: replace(recipe, model="nano"),
    "stages": lambda recipe: replace(recipe, stages=()),
    "tail_tokens": lambda recipe: replace(recipe, measure=replace(recipe.measure, tail_tokens=8)),
}


@pytest.mark.parametrize("key", CHANGES)
def test_what_a_schedule_cannot_change_is_refused_and_nothing_changes(key: str, recipe: Recipe, copied: RunDir) -> None:
    before = contents(copied.path)
    with pytest.raises(RunError, match=f"another recipe: .*{key} = "):
        extend(CHANGES[key](recipe), copied)
    assert contents(copied.path) == before


# Exported again


@pytest.mark.usefixtures("unopened")
def test_a_schedule_exported_again_has_the_tuned_weights(recipe: Recipe, copied: RunDir) -> None:
    """And going on with the run leaves the form that was asked for last."""
    with no_passes(most=SHORT):
        export_again(copied, ExportRecipe("two", drop_start_tokens=True))
        assert_tuned(copied)
        extend(recipe, copied)
    assert json.loads(copied.export_report.read_text())["factor_sets"] == "two"


def test_a_schedule_that_is_not_finished_is_not_exported(copied: RunDir) -> None:
    (folders_of(copied)[4] / "stage.json").unlink()
    with pytest.raises(RunError, match="not finished: short-context search 64"):
        export_again(copied, ExportRecipe())


@pytest.mark.usefixtures("unopened")
def test_a_tuning_alone_exported_again_has_the_tuned_weights(recipe: Recipe, run: RunDir, tmp_path: Path) -> None:
    """It has a file of factors instead of a search, so none is made."""
    plain = replace(recipe, stages=(), target_tokens=TUNED_AT)
    alone = RunDir(tmp_path)
    tuned = pipeline.tune(plain, folders_of(run)[0] / "factors.json", alone)
    factors = alone.factors().read_bytes()
    with no_passes(most=SHORT):
        export_again(alone, ExportRecipe("two", drop_start_tokens=True))
    network = AutoModelForCausalLM.from_pretrained(alone.checkpoint)
    for name, weight in network.named_parameters():
        assert torch.equal(weight, tuned.network.get_parameter(name)), name
    assert alone.factors().read_bytes() == factors


# Stages that cannot be


@pytest.mark.parametrize(
    ("given", "found", "needed"),
    [
        ([{"tune": TARGET}], "tune 512 comes after factors for no window", "factors for its window"),
        ([{"short": SHORT}], "short-context search 64 comes after factors for no window", "factors of a longer window"),
        ([{"extrapolate": TARGET}], "extrapolate 512 comes after factors for no window", "searched factors"),
        ([{"search": 128}, {"tune": 256}], "tune 256 comes after factors for 128", "factors for its window"),
        ([{"search": 512}, {"short": 512}], "short-context search 512 comes", "factors of a longer window"),
        ([{"search": 512}, {"extrapolate": 256}], "extrapolate 256 comes", "searched factors of a shorter window"),
        ([{"search": 128}, {"tune": 128}, {"extrapolate": 512}], "tuned with: 128", "searched factors"),
        ([{"search": 512}, {"tune": 128}, {"search": 512}], "search 512 comes after", "longer than the window"),
        ([{"search": 128}], "factors for 128, and target_tokens = 512", "must be the target"),
        ([{"search": 1024}], "factors for 1k, and target_tokens = 512", "must be the target"),
    ],
)
def test_stages_that_cannot_be_are_refused(
    given: list[dict[str, Any]], found: str, needed: str, recipe: Recipe
) -> None:
    with pytest.raises(RecipeError) as caught:
        replace(recipe, stages=tuple(Stage(**stage) for stage in given))
    assert "stages" in caught.value.found
    assert found in caught.value.found
    assert needed in caught.value.needed


@pytest.mark.parametrize("given", [{"search": -64}, {"search": 64, "extrapolate": -1}])
def test_a_stage_has_no_window_below_zero(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"stages\.(search|extrapolate) = -"):
        Stage(**given)


@pytest.mark.parametrize("given", [{}, {"search": 64, "tune": 64}])
def test_a_stage_is_of_exactly_one_kind(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="Exactly one of search, tune, extrapolate, short"):
        Stage(**given)


@pytest.mark.parametrize("key", ["steps", "factors_of"])
def test_only_a_tuning_has_steps_and_names_factors(key: str) -> None:
    with pytest.raises(RecipeError, match=f"Only a tuning has {key}"):
        build(Stage, {"search": 64, key: 3})
    with pytest.raises(RecipeError, match=f"stages.{key} = -1"):
        build(Stage, {"tune": 64, key: -1})


def test_a_warm_up_longer_than_the_steps_of_one_stage_is_refused_with_the_recipe(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"tune\.warmup_steps = 1 with tune\.steps = 1"):
        replace(recipe, stages=(STAGES[0], Stage(tune=TUNED_AT, steps=1), *STAGES[2:]))


def test_positions_that_a_tuning_imitates_need_factors_for_them(recipe: Recipe) -> None:
    skips = replace(recipe.tune, window_tokens=SHORT, skipped_positions=SEARCHED)
    with pytest.raises(RecipeError, match="tune 64 comes after factors for 128"):
        replace(recipe, tune=skips, stages=(Stage(search=TUNED_AT), Stage(tune=SHORT), Stage(search=TARGET)))
    assert replace(recipe, tune=skips, stages=(Stage(search=TARGET), Stage(tune=SHORT))).tune == skips


@pytest.mark.parametrize("stage", [Stage(search=8192), Stage(tune=8192)], ids=str)
def test_a_text_too_short_for_a_later_stage_is_reported_before_the_first(
    stage: Stage, recipe: Recipe, tmp_path: Path
) -> None:
    scheduled = (STAGES[0], Stage(search=8192), *([stage] if stage.kind == "tune" else []))
    short = replace(recipe, target_tokens=8192, stages=scheduled, measure=replace(recipe.measure, lengths=(SHORT,)))
    with pytest.raises(TextsError, match="must fit"):
        extend(short, RunDir(tmp_path))
    assert not RunDir(tmp_path).stages.exists()
    assert not RunDir(tmp_path).scores.exists()


# Estimates


def test_the_cost_of_each_stage_that_is_left_is_reported_before_the_first(recipe: Recipe, copied: RunDir) -> None:
    (folders_of(copied)[1] / "stage.json").unlink()
    steps = list[str]()
    extend(recipe, copied, Callbacks(on_step=steps.append))
    (messages,) = [step for step in steps if "GiB at the peak" in step]
    assert messages.startswith("tune 128: about ")
    assert steps.index(messages) < steps.index("stage 1 of 5: search 128 (done before)")


def test_a_stage_that_cannot_fit_is_refused_with_numbers_before_anything_is_done(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is between what the searches need and what the tuning needs."""
    monkeypatch.setattr(estimates, "estimate_training_memory", lambda *_, adapters: 2**21 if adapters else 9 * 2**30)
    monkeypatch.setattr(estimates, "free_memory", lambda _: 3 * 2**30)
    with pytest.raises(RecipeError) as caught:
        extend(recipe, RunDir(tmp_path), Callbacks(on_trial=never, on_train=never))
    assert caught.value.found.startswith("tune 128: about ")
    assert "9.0 GiB at the peak (3.0 GiB are free)" in caught.value.found
    assert "lora_rank" in caught.value.remedy
    assert not RunDir(tmp_path).stages.exists()
    assert not RunDir(tmp_path).scores.exists()


def test_estimates_grow_with_steps_windows_and_trained_weights(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that gives a second for every token: a step is four passes over each window of its batch."""
    monkeypatch.setattr(estimates, "seconds_of_pass", lambda _, tokens: float(tokens))
    model = load_model(recipe.model, device="cpu")
    tuned = [Stage(tune=TUNED_AT), Stage(tune=TUNED_AT, steps=3 * STEPS), Stage(tune=2 * TUNED_AT)]
    one, longer, wider = estimate_stages(recipe, model, tuned)
    assert one.seconds == STEPS * 2 * 4 * TUNED_AT
    assert (longer.seconds, wider.seconds) == (3 * one.seconds, 2 * one.seconds)
    assert longer.bytes_needed == one.bytes_needed < wider.bytes_needed
    (adapters,) = estimate_stages(replace(recipe, tune=replace(recipe.tune, lora_rank=4)), model, tuned[:1])
    assert adapters.bytes_needed < one.bytes_needed
    short, long, extrapolated = estimate_stages(
        recipe, model, (Stage(search=128), Stage(search=256), Stage(extrapolate=512))
    )
    assert long.seconds == 2 * short.seconds
    assert long.bytes_needed > short.bytes_needed
    assert extrapolated.seconds == extrapolated.bytes_needed == 0


def test_the_estimate_of_a_search_is_about_the_passes_that_it_makes(recipe: Recipe, run: RunDir) -> None:
    """Of the searches of the run, in tokens pushed through the model: within a factor of two."""
    folder = folders_of(run)[2]
    pushed = sum(trial.token_passes for trial in read_records(folder / "trials.jsonl", Trial)) / SEARCHED
    assert 0.5 < count_passes(recipe.search, SEARCHED) / pushed < 2


# Planned


@pytest.mark.parametrize(
    ("trained", "target", "scheduled"),
    [
        (4096, 8192, ["search 8k", "tune 8k", "recover 4k"]),
        (4096, 32768, ["search 32k", "tune 32k", "recover 4k"]),
        (4096, 131072, ["search 32k", "tune 32k", "search 128k", "tune 128k", "recover 4k"]),
        (256, 16384, ["search 2k", "tune 2k", "search 16k", "tune 16k", "recover 256"]),
    ],
)
def test_a_schedule_is_planned_by_ratios_of_at_most_eight(trained: int, target: int, scheduled: list[str]) -> None:
    assert [str(stage) for stage in plan_stages(trained, target)] == scheduled
    Recipe("m", target, ("books",), stages=plan_stages(trained, target))


def test_tuning_is_planned_where_a_recipe_lists_no_stages(recipe: Recipe) -> None:
    assert pipeline.with_tuning(replace(recipe, stages=())).stages == plan_stages(SHORT, TARGET)
    assert pipeline.with_tuning(recipe) == recipe


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
