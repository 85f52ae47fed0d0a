"""The recipes of the paper's schedules hold its numbers, and name its data sets."""

from pathlib import Path

import pytest

from longrope.data import check_sources
from longrope.recipe import PRESETS, EvolutionRecipe, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
K = 1024
PAPER = {  # sections 3.3 and 4.1 of arXiv 2402.13753
    "llama2": (
        *("search 128k", "search 256k"),  # both on the pre-trained model
        *("tune 128k, 400 steps, factors of stage 1", "tune 256k, 600 steps, factors of stage 2"),
        *("search 2048k", "recover 4k", "recover 8k"),
    ),
    "mistral": (
        *("search 256k", "tune 16k, 400 steps"),
        *("search 2048k", "recover 4k", "recover 8k"),
    ),
}


@pytest.mark.parametrize(
    ("name", "batch", "rate", "schedule"), [("llama2", 32, 2e-5, "linear"), ("mistral", 64, 1e-6, "constant")]
)
def test_the_papers_recipes_hold_its_schedule(name: str, batch: int, rate: float, schedule: str) -> None:
    recipe = load_recipe(RECIPES / f"paper-{name}.toml")
    assert tuple(str(stage) for stage in recipe.stages) == PAPER[name]
    trained = [recipe.tuning(stage) for stage in recipe.stages if stage.kind == "tune"]
    assert {(t.batch_windows, t.learning_rate, t.schedule) for t in trained} == {(batch, rate, schedule)}
    assert (recipe.search.method, recipe.target_tokens) == ("evolution", 2048 * K)
    assert recipe.search.evolution == EvolutionRecipe(), "the paper's numbers are the defaults"
    preset = PRESETS[name]
    assert (preset.batch_windows, preset.learning_rate, preset.schedule) == (batch, rate, schedule)
    assert preset.window_tokens == (16 * K if name == "mistral" else 0), "0 is the window of the factors"


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_name_data_sets(name: str) -> None:
    """Books, of which it has searched and measured; measured on another part of them."""
    recipe = load_recipe(RECIPES / f"paper-{name}.toml")
    check_sources((*recipe.data, *recipe.measure_data))
    assert [source.split(":")[1:] for source in (*recipe.data, *recipe.measure_data)] == [
        ["emozilla/pg19", "train[", "2000]"],
        ["emozilla/pg19", "test"],
    ]
