"""Stages that are planned, estimated or refused before the first of them begins."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from documents import words
from staged_runs import SEARCHED, SHORT, STAGES, STEPS, TARGET, TUNED_AT, folders_of

from longrope import pipeline
from longrope.errors import RecipeError, TextsError
from longrope.models import load_model
from longrope.pipeline import (
    Callbacks,
    Cost,
    estimate_stages,
    extend,
    plan_stages,
)
from longrope.pipeline.estimates import check_costs, remedy_on
from longrope.recipe import PRESETS, Recipe, Stage
from longrope.runs.records import Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.search.cost import count_passes
from longrope.settings import build

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


def test_a_stage_that_cannot_fit_is_refused_with_numbers() -> None:
    """Before anything is done, as tests/distributed/test_launches.py holds."""
    fits, large = (
        Cost(f"{name} 128", 60.0, needed, 3 * 2**30, f"Do not {name}.")
        for name, needed in (("search", 2**21), ("tune", 9 * 2**30))
    )
    check_costs([fits])
    with pytest.raises(RecipeError) as caught:
        check_costs([fits, large])
    assert caught.value.found == "tune 128: about 1.0 min, 9.0 GiB at the peak (3.0 GiB are free)."
    assert caught.value.remedy == "Do not tune."


@pytest.mark.parametrize(
    ("device", "searching", "training"),
    [
        (
            "cpu",
            "Take a machine with more memory, or a shorter window.",
            "Take a machine with more memory, tune.parameters or tune.lora_rank, or a shorter window.",
        ),
        (
            "cuda",
            "Take more GPUs with torchrun, or a shorter window.",
            "Take more GPUs with torchrun, tune.offload, tune.parameters or tune.lora_rank, or a shorter window.",
        ),
    ],
)
def test_the_advice_fits_the_device(device: str, searching: str, training: str) -> None:
    assert (remedy_on(device, trains=False), remedy_on(device, trains=True)) == (searching, training)


def test_no_stage_on_a_cpu_is_advised_to_take_gpus(recipe: Recipe) -> None:
    model = load_model(recipe.model, device="cpu")
    stages = (Stage(search=128), Stage(tune=TUNED_AT), Stage(extrapolate=512))
    assert [cost.remedy for cost in estimate_stages(recipe, model, stages, float)] == [
        remedy_on("cpu", trains=stage.kind == "tune") for stage in stages
    ]


def test_estimates_grow_with_steps_windows_and_trained_weights(recipe: Recipe) -> None:
    """By a clock that gives a second for every token: a step is four passes over each window of its batch."""
    model = load_model(recipe.model, device="cpu")
    tuned = [Stage(tune=TUNED_AT), Stage(tune=TUNED_AT, steps=3 * STEPS), Stage(tune=2 * TUNED_AT)]
    one, longer, wider = estimate_stages(recipe, model, tuned, float)
    assert one.seconds == STEPS * 2 * 4 * TUNED_AT
    assert (longer.seconds, wider.seconds) == (3 * one.seconds, 2 * one.seconds)
    assert longer.bytes_needed == one.bytes_needed < wider.bytes_needed
    (adapters,) = estimate_stages(replace(recipe, tune=replace(recipe.tune, lora_rank=4)), model, tuned[:1], float)
    assert adapters.bytes_needed < one.bytes_needed
    short, long, extrapolated = estimate_stages(
        recipe, model, (Stage(search=128), Stage(search=256), Stage(extrapolate=512)), float
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


def test_stages_are_trained_in_windows_of_the_preset_where_theirs_are_longer(recipe: Recipe) -> None:
    """As docs/deviations.md says of ``extend --tune --preset mistral``."""
    longer = replace(recipe, target_tokens=32768, stages=(), tune=PRESETS["mistral"])
    planned = [(at.search, at.tune) for at in pipeline.with_tuning(longer).stages if not at.short]
    windows = [search for search, _ in planned if search]
    assert [tune for _, tune in planned if tune] == [min(window, 16 * 1024) for window in windows]
    assert windows[-1] > 16 * 1024 > windows[0]
    said = "windows of 16k; stages for a shorter window are fine-tuned at that window."
    assert f"`extend --tune` and `tune` take the paper's rate, batch, steps and {said}" in words("docs/deviations.md")


def test_tuning_is_planned_where_a_recipe_lists_no_stages(recipe: Recipe) -> None:
    assert pipeline.with_tuning(replace(recipe, stages=())).stages == plan_stages(SHORT, TARGET)
    assert pipeline.with_tuning(recipe) == recipe
