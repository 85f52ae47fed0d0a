"""Stages that name what gives their factors."""

import tomllib

import pytest

from longrope.errors import RecipeError
from longrope.recipe import Recipe, SearchRecipe, Stage, dump_recipe
from longrope.settings import build


def recipe(*stages: Stage) -> Recipe:
    return Recipe("m", 1024, ("d",), stages=stages, search=SearchRecipe(method="evolution"))


def test_a_stage_has_the_method_that_it_names_and_else_that_of_the_search() -> None:
    stages = (Stage(search=1024, method="yarn"), Stage(tune=1024), Stage(search=1024), Stage(short=64, method="none"))
    full = recipe(stages[0], stages[1], stages[3])
    methods = [full.searching(stage).method for stage in stages]
    assert methods[:3] == ["yarn", "evolution", "evolution"]
    assert methods[3] in ("pi", "ntk", "yarn", "critical"), "a formula, which leaves a short window alone"
    assert str(stages[0]) == "search 1k, by yarn"
    assert str(stages[2]) == "search 1k"


def test_a_recipe_with_methods_of_stages_is_read_as_it_was_written() -> None:
    full = recipe(Stage(search=1024, method="ntk-scan"), Stage(tune=1024), Stage(short=64, method="none"))
    assert build(Recipe, tomllib.loads(dump_recipe(full))) == full


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"search": 64, "method": "none"}, "A search stage has method = 'none'"),
        ({"tune": 64, "method": "yarn"}, "A tune stage has method = 'yarn'"),
        ({"extrapolate": 64, "method": "yarn"}, "A extrapolate stage has method = 'yarn'"),
        ({"search": 64, "method": "dynamic-ntk"}, "stages.method = 'dynamic-ntk'"),
    ],
)
def test_a_method_that_a_stage_cannot_have_is_refused(stage: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(Stage, stage)
