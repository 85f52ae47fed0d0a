"""What is said where a run would take long: the settings that save most, what they save, and what is left."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from longrope.pipeline import plan_stages
from longrope.pipeline.shorter_runs import describe_shorter
from longrope.recipe import MeasureRecipe, Recipe, SearchRecipe, TuneRecipe, changed

MINUTE = 60.0


def minutes_of(recipe: Recipe) -> float:
    """Made-up minutes: of a search 200, and of each method 10 for each window and each metric."""
    windows = recipe.measure.windows * len(recipe.measure.metrics)
    methods = 1 + len(recipe.measure.baselines) + 1
    return 200 * (recipe.search.method == "gradient") + 10 * windows * methods


def lines_of(recipe: Recipe, minutes: Callable[[Recipe], float]) -> list[str]:
    return list(describe_shorter(recipe, 8192, lambda asked: MINUTE * minutes(asked)))


@pytest.fixture
def recipe() -> Recipe:
    measure = MeasureRecipe(baselines=("yarn",), windows=2)
    return Recipe("m", 32768, ("books",), measure=measure, search=SearchRecipe())


def test_the_settings_that_save_most_are_named_with_what_they_save(recipe: Recipe) -> None:
    """By hand: 320 minutes; 120 without the search, 60 by half of the windows or the metrics, 30 by both.

    That is short, so nothing more is named.
    """
    assert minutes_of(recipe) == 320
    lines = lines_of(recipe, minutes_of)
    named = [(line.split(":")[0].strip(), re.findall(r"[\d.]+ (?:min|hours)", line)) for line in lines[1:-1]]
    assert named == [
        ("--method critical", ["3.3 hours"]),
        ("--metrics perplexity", ["60.0 min"]),
        ("--set measure.windows=1", ["30.0 min"]),
    ]
    assert lines[-1] == "with all of these: about 30.0 min"
    assert "without passkey" in lines[2]


def test_what_is_named_makes_the_recipe_that_was_estimated(recipe: Recipe) -> None:
    """The assignments, typed as they are printed, leave the minutes of the last line."""
    lines = lines_of(
        replace(recipe, search=SearchRecipe(method="critical"), measure=MeasureRecipe(windows=4, baselines=("yarn",))),
        minutes_of,
    )
    settings = [text for line in lines for text in re.findall(r"--set (\S+):", line)]
    assert settings == ["measure.windows=1"]
    typed = changed(recipe, [*settings, "search.method=critical", "measure.metrics=perplexity"])
    assert lines[-1] == f"with all of these: about {minutes_of(typed):.1f} min"


def test_a_short_run_and_one_that_nothing_shortens_are_left_alone(recipe: Recipe) -> None:
    assert lines_of(recipe, lambda _: 39.0) == []
    assert lines_of(recipe, lambda _: 4000.0) == []


def test_a_training_is_shortened_by_fewer_steps_and_short_windows() -> None:
    """The price of a training: its steps, times its windows, times their tokens; the stages are planned again."""
    recipe = Recipe("m", 32768, ("books",), stages=plan_stages(8192, 32768))
    asked: list[Recipe] = []

    def minutes(of: Recipe) -> float:
        asked.append(of)
        tune = of.tuning(next(stage for stage in of.stages if stage.kind == "tune"))
        return tune.steps * tune.batch_windows * tune.window_tokens / 1024

    lines = lines_of(recipe, minutes)
    options = [line.split(":")[0].strip() for line in lines[1:-1]]
    assert options == [
        "--batch 1",
        "--steps 20",
        "--set tune.window_tokens=2k --set tune.skipped_positions=32k",
    ]
    assert lines[-1] == "with all of these: about 40.0 min"
    last = min(tuple(asked), key=minutes)
    assert last.stages == plan_stages(8192, 32768, 2048)
    assert last.tune == TuneRecipe(2048, steps=20, batch_windows=1, warmup_steps=1, skipped_positions=32768)


@pytest.mark.parametrize("change", [{"isolate_documents": True}, {"window_tokens": 4096}])
def test_windows_that_cannot_be_shortened_are_not_named(change: dict[str, Any]) -> None:
    """Where documents are isolated no positions are skipped; stages of one's own stay as they are."""
    recipe = Recipe("m", 32768, ("books",), stages=plan_stages(8192, 32768), tune=TuneRecipe(**change))
    lines = lines_of(recipe, lambda of: of.tune.window_tokens or 32768)
    assert not any("skipped_positions" in line for line in lines)


def test_a_training_is_planned_in_the_windows_that_are_asked_for() -> None:
    """Those that are longer than a search's window are cut to it."""
    planned = [str(stage) for stage in plan_stages(4096, 131072, 65536)]
    assert planned == ["search 32k", "tune 32k", "search 128k", "tune 64k", "recover 4k"]
