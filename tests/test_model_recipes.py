"""Recipes of well-known models: their memory is what the estimate says, and a tiny model of each shape runs them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from outcomes import leave_unopened
from transformers import AutoConfig, AutoModelForCausalLM

from longrope.engine.kernels import CUDNN
from longrope.engine.memory import estimate_memory, estimate_training_memory
from longrope.models import LanguageModel, read_tables
from longrope.pipeline import extend
from longrope.recipe import EvolutionRecipe, MeasureRecipe, Recipe, Stage, load_recipe
from longrope.runs.run_dir import RunDir

RECIPES = Path(__file__).parents[1] / "recipes"
GIB, K = 2**30, 1024
CARDS = {24: 23, 80: 78, 141: 138}  # GB by name, and GiB that a process can take
HEADS: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 8}
LLAMA_3: dict[str, Any] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
QWEN_3 = {**HEADS, "vocab_size": 151_936, "num_hidden_layers": 36, "head_dim": 128, "max_position_embeddings": 40_960}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {  # as the models' configs on the hub have them
    "mistral-7b": (
        "mistral",
        {
            **HEADS,
            "vocab_size": 32_768,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "head_dim": 128,
            "max_position_embeddings": 32 * K,
            "sliding_window": None,
            "rope_theta": 1e6,
        },
    ),
    "llama-3.1-8b": (
        "llama",
        {
            **HEADS,
            "vocab_size": 128_256,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "max_position_embeddings": 128 * K,
            "rope_theta": 5e5,
            "rope_scaling": {**LLAMA_3, "original_max_position_embeddings": 8 * K},
        },
    ),
    "qwen3-8b": ("qwen3", {**QWEN_3, "hidden_size": 4096, "intermediate_size": 12_288, "rope_theta": 1e6}),
    "qwen3-4b": (
        "qwen3",
        {**QWEN_3, "hidden_size": 2560, "intermediate_size": 9728, "rope_theta": 1e6, "tie_word_embeddings": True},
    ),
}
TINY: dict[str, dict[str, Any]] = {  # the same with 64 tokens of window, grouped heads alike
    "mistral-7b": {"sliding_window": None, "rope_theta": 1e6, "num_key_value_heads": 1},
    "llama-3.1-8b": {
        "num_key_value_heads": 1,
        "rope_parameters": {**LLAMA_3, "rope_theta": 5e5, "original_max_position_embeddings": 8},
    },
    "qwen3-8b": {"head_dim": 16, "num_key_value_heads": 1, "max_position_embeddings": 80},
    "qwen3-4b": {"head_dim": 16, "num_key_value_heads": 1, "max_position_embeddings": 80, "tie_word_embeddings": True},
}
WINDOW, TARGET = 64, 256


def on_no_device(name: str) -> LanguageModel:
    """The model in its full size, without memory."""
    family, sizes = SHAPES[name]
    config = AutoConfig.for_model(family, **sizes)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return LanguageModel(network, None, read_tables(config), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_the_memory_of_a_recipe_is_the_estimate(name: str) -> None:
    recipe, text = load_recipe(RECIPES / f"{name}.toml"), (RECIPES / f"{name}.toml").read_text()
    model, target = on_no_device(name), recipe.target_tokens
    needed = [
        estimate_memory(model, target, kernel=CUDNN, tile=8192),
        estimate_training_memory(model, target, adapters=True),
        estimate_training_memory(model, 16 * K, adapters=True),
    ]
    stated = re.search(r"memory: (\d+) GiB to search .* measure, (\d+) to .* gradient, (\d+) to train", text)
    assert stated
    assert [int(number) for number in stated.groups()] == [round(number / GIB) for number in needed]
    fitting = {
        card: [
            what for what, number in zip(("evolution", "gradient", "LoRA"), needed, strict=True) if number < room * GIB
        ]
        for card, room in CARDS.items()
    }
    said = "; ".join(f"{card} GB: {', '.join(some) or 'none'}" for card, some in fitting.items())
    assert f"# What fits on one GPU of {said}.\n" in text


def test_each_recipe_goes_to_several_times_the_window() -> None:
    for name, (_, sizes) in SHAPES.items():
        recipe = load_recipe(RECIPES / f"{name}.toml")
        window = recipe.trained_window or sizes["max_position_embeddings"]
        assert recipe.target_tokens == 4 * window
        assert recipe.tune.skipped_positions == recipe.target_tokens
        assert recipe.measure.baselines


def shrunk(recipe: Recipe, folder: Path, texts: tuple[Path, Path], *, tuned: bool) -> Recipe:
    """A recipe of the hub's model for a tiny one: its numbers small, its kinds of steps kept."""
    evolution = EvolutionRecipe(population=3, parents=2, mutations=1, crossovers=1, generations=1, windows=1)
    tune = replace(
        recipe.tune, skipped_positions=TARGET, steps=2, warmup_steps=1, batch_windows=1, window_tokens=WINDOW // 2
    )
    return replace(
        recipe,
        model=str(folder),
        target_tokens=TARGET,
        data=(str(texts[0]),),
        measure_data=(str(texts[1]),),
        trained_window=WINDOW if recipe.trained_window else 0,
        device="cpu",
        search=replace(recipe.search, evolution=evolution, validation_windows=1),
        tune=tune,
        stages=(Stage(search=TARGET), Stage(tune=WINDOW // 2)) if tuned else (),
        measure=MeasureRecipe(
            (WINDOW, TARGET), ("perplexity", "retention"), windows=1, baselines=recipe.measure.baselines
        ),
        export=replace(recipe.export, drop_start_tokens=True),
    )


@pytest.mark.slow
@pytest.mark.parametrize("tuned", [False, True], ids=["untrained", "LoRA"])
@pytest.mark.parametrize("name", TINY)
def test_a_tiny_model_of_the_shape_runs_the_recipe(
    name: str, tuned: bool, tmp_path: Path, text_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_unopened(monkeypatch)
    folder = pico.save_pico(tmp_path / "model", SHAPES[name][0], **TINY[name])
    recipe = shrunk(load_recipe(RECIPES / f"{name}.toml"), folder, text_folders, tuned=tuned)
    run = RunDir(tmp_path / "run")
    scores = extend(recipe, run)
    assert {"none", "yarn", "ntk-critical"} < {score.source.known_as for score in scores}
    assert (run.checkpoint / "config.json").is_file()
    assert (run.path / "report.html").is_file()
