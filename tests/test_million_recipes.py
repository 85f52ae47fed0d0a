"""The recipes of 2,048k tokens: their arrays, what measuring costs, and the schedule on a pico model to the end."""

import re
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from measuring import make_context
from recipe_scripts import RECIPES, load_script

from longrope import extend
from longrope.data import TokenText
from longrope.evaluation import find_metric
from longrope.evaluation.metric import Reading
from longrope.models import load_model
from longrope.recipe import Recipe, Stage, changed, load_recipe
from longrope.runs.records import TrainStep, read_records
from longrope.runs.run_dir import RunDir
from longrope.schedule import check_stages

NAMES = {
    "gemma3-2048k": 2**21,
    "gemma3-2048k-untrained": 2**19,
    "gemma3-needles": 2**21,
    "smollm2-2048k": 2**21,
    "smollm2-2048k-all": 2**21,
}
# That they measure, where it is not the target:
LONGEST = {"smollm2-2048k": 2**20, "smollm2-2048k-all": 2**20, "gemma3-needles": 2**17}
WINDOW, MILLION = 192, 2**20  # of the pico model; Gemma's 32,768 tokens stand for them
LAYERS: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32, "head_dim": 16}


@pytest.fixture(scope="module")
def script() -> Any:
    """The script that makes the arrays, as a module."""
    return load_script("million_texts")


def tokenize(text: str) -> list[int]:
    """A token a character."""
    return [ord(character) for character in text]


def test_documents_are_joined_until_an_array_is_full(script: Any) -> None:
    tokens, taken = script.joined([("a", "abcd"), ("b", "efgh"), ("c", "ijkl")], tokenize, 6)
    assert "".join(map(chr, tokens)) == "abcdef"
    assert taken == {"a": 4, "b": 2}
    with pytest.raises(AssertionError, match="13 tokens are needed"):
        script.joined([("a", "abcd"), ("b", "efgh")], tokenize, 13)


def test_a_document_is_in_one_array_alone_and_comes_in_their_order(script: Any) -> None:
    begins = [begin for own in script.ARRAYS.values() for begin in own]
    assert not any(a.startswith(b) for a in begins for b in begins if a is not b)
    documents = [("train", "x"), ("prose-foldoc", "short"), ("prose-foldoc", "f" * 9), ("prose-henry", "h" * 9)]
    assert script.gathered(documents, 8) == {"train/prose-1": [("prose-henry", "h" * 9), ("prose-foldoc", "f" * 9)]}
    assert [array.partition("/")[0] for array in script.ARRAYS] == [*["measure"] * 3, *["search"] * 3, *["train"] * 6]


@pytest.mark.parametrize(("name", "formula"), [("gemma3-2048k", "ntk-critical"), ("smollm2-2048k-all", "critical")])
def test_scripts_train_by_another_formula_and_change_nothing_else(name: str, formula: str) -> None:
    """What FACTORS=yarn sets is the recipe's own schedule with another method in its first stage."""
    asked = f'source "$1/fetch.sh"; stages_by "$1/{name}.toml" {formula} yarn'
    words = ["bash", "-euc", asked, "bash", f"{RECIPES}"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"{name}.toml {formula} " in (RECIPES / f"{name}.sh").read_text()
    (key, stages), recipe = *tomllib.loads(said).items(), load_recipe(RECIPES / f"{name}.toml")
    assert key == "stages"
    own = tomllib.loads((RECIPES / f"{name}.toml").read_text())["stages"]
    assert recipe.stages[0].method == formula
    assert stages == [own[0] | {"method": "yarn"}, *own[1:]]


@pytest.mark.parametrize(("name", "formula"), [("gemma3-2048k", "ntk-critical"), ("smollm2-2048k-all", "critical")])
def test_scripts_train_with_another_attention_factor_and_change_nothing_else(name: str, formula: str) -> None:
    """What ATTENTION sets is that of the formula of the first stage, which has to be named to the search, too."""
    method, factor = f"search.method=${{FACTORS:-{formula}}}", "search.attention_factor=$ATTENTION"
    assert f"alike+=(--set {method} --set {factor})\n" in (RECIPES / f"{name}.sh").read_text()
    recipe = load_recipe(RECIPES / f"{name}.toml")
    found = changed(recipe, [f"search.method={formula}", "search.attention_factor=1.25"])
    assert (found.search.method, found.search.attention_factor) == (recipe.stages[0].method, 1.25)
    kept = replace(found.search, method=recipe.search.method, attention_factor=recipe.search.attention_factor)
    assert replace(found, search=kept) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_schedules_reach_their_target(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.toml")
    assert recipe.target_tokens == NAMES[name]
    if recipe.stages:
        check_stages(recipe.standings(), recipe.target_tokens, lambda stage: recipe.tuning(stage).reach_tokens)


@pytest.mark.parametrize("name", NAMES)
def test_measuring_a_method_takes_few_passes_at_the_longest_length(name: str) -> None:
    settings = load_recipe(RECIPES / f"{name}.toml").measure
    model, windows = (
        pico.make_model(num_hidden_layers=1, max_position_embeddings=32768),
        np.zeros((settings.windows, 2 * MILLION), np.int32),
    )
    text, found = TokenText(windows[0], "measure"), set[Reading]()
    for length in settings.lengths:
        context = replace(make_context(model, None, windows, length, text=text), settings=settings)
        found |= {reading for metric in settings.metrics for reading in find_metric(metric).readings(context)}
    longest = LONGEST.get(name, NAMES[name])
    passes = sum(reading.passes for reading in found if reading.tokens == longest)
    assert 0 < passes <= (40 if name == "gemma3-needles" else 14)
    fewest = 20 if name in ("gemma3-2048k-untrained", "gemma3-needles") else 40
    assert min(settings.needles, settings.passkeys) >= fewest


def test_the_attention_is_trained_as_all_weights_are() -> None:
    """By the option of the script, which changes nothing else."""
    (setting,) = re.findall(r'alike=\(--set "([^"]+)"\)', (RECIPES / "smollm2-2048k-all.sh").read_text())
    recipe = load_recipe(RECIPES / "smollm2-2048k-all.toml")
    found = changed(recipe, [setting])
    assert found.tune.parameters == load_recipe(RECIPES / "smollm2-2048k.toml").tune.parameters != ()
    assert replace(found, tune=recipe.tune) == recipe
    assert replace(found.tune, parameters=()) == recipe.tune


def shrunk(recipe: Recipe, folder: Path) -> Recipe:
    """The same recipe with all lengths 192 / 32,768 of theirs, and a pico model of Gemma-3's kind."""

    def less(tokens: int) -> int:
        return tokens * WINDOW // 32768

    def less_of(stage: Stage) -> Stage:
        windows: dict[str, Any] = {kind: less(getattr(stage, kind)) for kind in ("search", "short")}
        windows["tune"] = stage.tune and max(1536, less(stage.tune))  # that hold the needles
        return replace(stage, steps=min(stage.steps, 3), **windows)

    few: dict[str, Any] = dict.fromkeys(("needles", "passkeys"), 4)
    few |= dict.fromkeys(("needles_per_text", "passkeys_per_text"), 2)
    measure = replace(
        recipe.measure,
        lengths=tuple(less(length) for length in recipe.measure.lengths if less(length) >= 6144),
        tail_tokens=less(recipe.measure.tail_tokens),
        tails=tuple(map(less, recipe.measure.tails)),
        original_tokens=less(recipe.measure.original_tokens),
        metrics=tuple(name for name in recipe.measure.metrics if name != "retention"),  # no length is short enough
        **few,
    )
    data = tuple(str(folder / Path(source).name) for source in recipe.data)
    return replace(
        recipe,
        model=str(folder / "model"),
        target_tokens=less(recipe.target_tokens),
        data=data,
        measure_data=(str(folder / "measure"),),
        stages=tuple(map(less_of, recipe.stages)),
        device="cpu",
        measure=measure,
        tune=replace(recipe.tune, warmup_steps=1, needle_kinds="codes"),  # a short window holds no fact
    )


@pytest.mark.slow
def test_the_schedule_runs_on_a_pico_model_and_is_resumed(tmp_path: Path, unopened: None) -> None:
    """What is kept between runs is small and opens as the trained model; a second run of it trains nothing."""
    pico.make_network("gemma3_text", max_position_embeddings=WINDOW, **LAYERS).save_pretrained(tmp_path / "model")
    pico.make_tokenizer().save_pretrained(tmp_path / "model")
    recipe = shrunk(load_recipe(RECIPES / "gemma3-2048k.toml"), tmp_path)
    for seed, (name, tokens) in enumerate({"search": 3 * 12288, "train": 3 * 12288, "measure": 12288}.items()):
        (tmp_path / name).mkdir()
        ids = pico.make_tokenizer()(pico.make_text(tokens, seed))["input_ids"]
        np.save(tmp_path / name / "joined.npy", np.asarray(ids[:tokens], np.uint32))
    run = RunDir(tmp_path / "run")
    scores = extend(recipe, run)
    assert {score.context_tokens for score in scores} >= {6144, 12288}
    at_end = {score.metric for score in scores if (score.method, score.context_tokens) == ("longrope-tuned", 12288)}
    wanted = {
        "prefix-perplexity",
        "position-perplexity",
        "far-context-original",
        "prose-needle",
        "many-passkeys",
    }
    assert wanted <= at_end
    folders = sorted(run.stages.glob("*tune*"))
    assert [len(read_records(folder / "train.jsonl", TrainStep)) for folder in folders] == [3, 3, 3]
    tuned = load_model(folders[-1] / "adapter", device="cpu")
    exported = load_model(run.checkpoint, device="cpu")
    for name, weight in tuned.network.named_parameters():
        assert weight.equal(exported.network.get_parameter(name)), name
    assert (run.checkpoint / "NOTICE").is_file()
    before = (folders[-1] / "tuning.safetensors").stat()
    assert extend(recipe, RunDir(run.path)) == scores
    assert (folders[-1] / "tuning.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    assert before.st_size < 40_000, "eight tensors of two attentions at most"
