"""Which stages a changed recipe does again, and what an export of a finished run writes again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from measuring import no_passes
from safetensors.torch import load_file
from staged_runs import (
    SEARCHED,
    SHORT,
    STAGES,
    STEPS,
    TARGET,
    TUNED_AT,
    assert_tuned,
    contents,
    folders_of,
    never,
    open_texts,
    scores_of,
)
from transformers import AutoModelForCausalLM

from longrope import pipeline
from longrope.errors import RunError
from longrope.pipeline import (
    Callbacks,
    Session,
    export_again,
    extend,
    plan_tasks,
    run_tasks,
)
from longrope.recipe import (
    ExportRecipe,
    Recipe,
    Stage,
)
from longrope.report.contents import read_run
from longrope.rope import load_factors
from longrope.runs.identity import TUNED
from longrope.runs.records import Trial
from longrope.runs.run_dir import RunDir


def written_at(folder: Path) -> dict[Path, int]:
    """When each file below a folder was written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


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


@pytest.mark.parametrize(("number", "name"), [(1, "factors.json"), (2, "tuning.safetensors")])
def test_a_finished_stage_whose_file_is_gone_is_not_done_again_unasked(
    number: int, name: str, recipe: Recipe, copied: RunDir
) -> None:
    """Neither to go on nor to export; nothing is written."""
    folder = folders_of(copied)[number - 1]
    (folder / name).unlink()
    before = contents(copied.path)
    for go_on in (lambda: extend(recipe, copied), lambda: export_again(copied, ExportRecipe())):
        with (
            pytest.raises(RunError, match=rf"{name} is gone, though the stage .* was finished") as failure,
            no_passes(),
        ):
            go_on()
        assert f"delete {folder}" in str(failure.value)
    assert contents(copied.path) == before


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
