"""Factors from elsewhere in a comparison: measured as one more method, read before anything takes time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from outcomes import TARGET

from longrope.cli import options
from longrope.errors import FactorsError
from longrope.models import load_model
from longrope.pipeline import Callbacks, compare
from longrope.recipe import MeasureRecipe, Recipe, dump_recipe
from longrope.rope import baseline_factors
from longrope.runs.run_dir import RunDir


@pytest.fixture
def lists(recipe: Recipe, tmp_path: Path) -> Path:
    """YaRN's factors for the pico model, as somebody else's file."""
    yarn = baseline_factors(load_model(recipe.model, device="cpu").spec, "yarn", TARGET).factor_sets[0]
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({"long": yarn.lambdas, "attention_factor": yarn.attention_factor}))
    return path


def test_they_are_one_more_method_and_may_come_later(recipe: Recipe, lists: Path, tmp_path: Path) -> None:
    """Lists that are YaRN's measure as YaRN does; a finished comparison takes another file without a new search."""
    measured = MeasureRecipe(lengths=(TARGET,), metrics=("perplexity",), windows=2, tail_tokens=0)
    full, run = replace(recipe, measure=measured, factors=(str(lists),)), RunDir(tmp_path / "run")
    messages: list[str] = []
    scores = compare(full, run, Callbacks(on_step=messages.append))
    values = {score.method: score.value for score in scores if score.metric == "perplexity"}
    assert values["theirs.json"] == values["yarn"]
    paired = [score.method for score in scores if score.metric.startswith("ratio-to-")]
    assert "theirs.json" in paired
    assert any(line.startswith(f"theirs.json: factors for windows of {TARGET} tokens") for line in messages)
    trials, ones = run.trials.read_bytes(), [1.0] * len(json.loads(lists.read_text())["long"])
    (tmp_path / "ones.json").write_text(json.dumps({"long": ones, "attention_factor": 1}))
    again = compare(replace(full, factors=(str(lists), str(tmp_path / "ones.json"))), run)
    values = {score.method: score.value for score in again if score.metric == "perplexity"}
    assert values["ones.json"] == values["none"]
    assert run.trials.read_bytes() == trials


def test_a_file_for_another_model_ends_the_comparison_before_its_searches(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "short.json").write_text("[1, 2, 3]")
    run = RunDir(tmp_path / "run")
    with pytest.raises(FactorsError, match=r"short\.json holds 3 factors"):
        compare(replace(recipe, factors=(str(tmp_path / "short.json"),)), run)
    assert not run.trials.exists()


def test_the_option_names_files_with_commas_between_them(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(dump_recipe(replace(recipe, factors=("old.json",))))
    given: dict[str, Any] = {"recipe": tmp_path / "recipe.toml", "out": None, "model": None, "to": None, "data": None}
    assert options.prepare(**given)[0].factors == ("old.json",)
    assert options.prepare(**given, factors="a.json,b/config.json")[0].factors == ("a.json", "b/config.json")
