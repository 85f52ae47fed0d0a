"""The trainings that recipes/arms.py sets beside each other: what an arm changes, and what it is compared with."""

import importlib.util
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from longrope.recipe import Recipe, changed, load_recipe
from longrope.registry import factor_methods
from longrope.runs.run_dir import RunDir

RECIPES = Path(__file__).parent.parent / "recipes"


@pytest.fixture(scope="module")
def arms() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("arms", RECIPES / "arms.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPES / "evidence-arms.toml")


def test_arms_differ_in_the_factors_of_their_training_and_in_nothing_else(arms: Any, recipe: Recipe) -> None:
    methods = {}
    for name in ("searched", "yarn", "critical", "ntk", "pi", "scan"):
        made = changed(recipe, arms.ARMS[name])
        methods[name] = made.search.method
        assert replace(made, search=recipe.search) == recipe
    assert sorted(methods.values()) == sorted(set(factor_methods()) - {"evolution"})


def test_the_controls_leave_out_needles_or_all_long_windows(arms: Any, recipe: Recipe) -> None:
    bare = changed(recipe, arms.ARMS["searched-bare"])
    assert replace(bare, tune=recipe.tune) == recipe
    assert asdict(bare.tune) | {"needle_weight": 0.5} == asdict(recipe.tune)
    own = changed(recipe, arms.ARMS["own"]).tune
    assert (own.short_share, own.needle_weight, own.steps) == (1, 0, recipe.tune.steps)


def test_an_arm_with_a_seed_is_the_same_arm_in_a_directory_of_its_own(arms: Any) -> None:
    words = arms.command(Path("r.toml"), Path("out"), "yarn@2")[3:]
    assert words == [
        *("extend", "--recipe", "r.toml", "--out", "out/yarn@2"),
        *("--set", "search.method=yarn", "--seed", "2"),
    ]
    assert "--seed" not in arms.command(Path("r.toml"), Path("out"), "yarn")


def test_every_arm_is_compared_with_the_reference_of_its_own_seed(arms: Any, tmp_path: Path) -> None:
    def pair(run: RunDir, beside: RunDir) -> list[tuple[str, str]]:
        return [(run.path.name, beside.path.name)]

    asked = ["searched", "yarn", "yarn@1", "searched@1", "critical@2"]
    assert arms.compare_arms(tmp_path, asked, "yarn", pair) == [("searched", "yarn"), ("searched@1", "yarn@1")]


def test_the_two_recipes_of_the_evidence_read_the_same_texts_and_search_alike(recipe: Recipe) -> None:
    compared = load_recipe(RECIPES / "evidence-64k.toml")
    same = ("model", "target_tokens", "data", "measure_data", "seed", "dtype", "measure")
    assert [getattr(compared, key) for key in same] == [getattr(recipe, key) for key in same]
    assert compared.search.gradient == recipe.search.gradient
    assert compared.search.tail_tokens == recipe.search.tail_tokens
