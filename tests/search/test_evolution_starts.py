"""The starts of the evolution are a setting, and settings that earlier versions did not have rename no old stage."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from valleys import QUICK

from longrope.data import TokenText
from longrope.errors import RecipeError
from longrope.models import LanguageModel
from longrope.pipeline.stages import YOUNGER, _named
from longrope.recipe import EvolutionRecipe, GradientRecipe, SearchRecipe, load_recipe
from longrope.rope import baseline_factors
from longrope.runs.records import Trial
from longrope.search import find_factors

RECIPES = Path(__file__).parents[2] / "recipes"


def test_the_population_begins_with_the_starts_that_are_named(model: LanguageModel, text: TokenText) -> None:
    seen: list[Trial] = []
    quick = replace(QUICK.evolution, population=3, generations=1, starts=("critical", "pi"))
    find_factors(model, text, 128, settings=replace(QUICK, method="evolution", evolution=quick), on_trial=seen.append)
    held_out = [trial for trial in seen if trial.kind == "validation"][:2]
    assert [trial.origin for trial in held_out] == ["critical", "pi"]
    assert held_out[0].lambdas == baseline_factors(model.spec, "critical", 128).factor_sets[0].lambdas
    population = [trial.origin for trial in seen if trial.kind == "search"][:3]
    assert population == ["critical", "pi", "mutation"]


def test_an_evolution_needs_a_start() -> None:
    assert EvolutionRecipe().starts == ("pi", "ntk", "yarn")
    with pytest.raises(RecipeError, match=r"search\.evolution\.starts is empty"):
        EvolutionRecipe(starts=())
    with pytest.raises(RecipeError, match=r"search\.evolution\.starts\[0\] = 'scan'"):
        EvolutionRecipe(starts=("scan",))


def test_the_recipe_has_the_papers_whole_budget() -> None:
    recipe = load_recipe(RECIPES / "nano-paper-evolution.toml")
    paper = recipe.search.evolution.filled(recipe.target_tokens)
    candidates = paper.population + paper.generations * (paper.mutations + paper.crossovers)
    assert (recipe.search.method, candidates, paper.windows) == ("evolution", 1344, 5)
    assert paper.starts == ("pi", "ntk", "yarn")


def test_younger_settings_name_a_stage_only_where_they_are_not_the_default() -> None:
    """The names of stages are hashes of these; those of earlier versions had none of the younger keys."""
    default = asdict(SearchRecipe())
    named = json.dumps(_named(default, default))
    assert not any(f'"{key}"' in named for key in YOUNGER)
    joint, evolution = GradientRecipe(start_tokens="joint"), EvolutionRecipe(starts=("pi",))
    search = SearchRecipe("yarn", attention_factor=1.5, choose_by="loss", gradient=joint, evolution=evolution)
    changed = asdict(search)
    assert _named(changed, default) == changed
