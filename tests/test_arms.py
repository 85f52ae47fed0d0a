"""The trainings that recipes/arms.py sets beside each other: what an arm changes, and what it is compared with."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pico
import pytest
from handmade import score
from paired_runs import LENGTH, METRICS, document_numbers, make_finished
from recipe_scripts import RECIPES, load_script

from longrope.evaluation.pairing import pair_runs
from longrope.recipe import (
    MeasureRecipe,
    Recipe,
    SearchRecipe,
    Stage,
    TuneRecipe,
    changed,
    dump_recipe,
    load_recipe,
)
from longrope.rope import load_factors
from longrope.runs.run_dir import RunDir


@pytest.fixture(scope="module")
def arms() -> Any:
    """The script as a module."""
    return load_script("arms")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPES / "evidence-arms.toml")


def test_arms_differ_in_the_factors_of_their_training_and_in_nothing_else(arms: Any, recipe: Recipe) -> None:
    methods = {name: name for name in ("yarn", "critical", "ntk", "pi", "longrope2")}
    methods |= {"searched": "gradient", "scan": "ntk-scan"}
    for name, method in methods.items():
        made = changed(recipe, arms.ARMS[name])
        assert made.search == replace(recipe.search, method=method)
        assert replace(made, search=recipe.search) == recipe


def test_arms_that_extrapolate_are_those_of_the_schedule_that_does(arms: Any) -> None:
    at_target, extrapolating = (load_recipe(RECIPES / f"nano-16k-{name}.toml") for name in ("target-arms", "arms"))
    assert changed(at_target, arms.ARMS["searched-extrapolated"]) == extrapolating
    assert changed(at_target, arms.ARMS["yarn-extrapolated"]) == changed(extrapolating, arms.ARMS["yarn"])
    assert at_target != extrapolating
    assert not any(arm.endswith("-extrapolated") for arm in arms.USUAL)


def test_arms_of_searches_alone_have_other_searches(arms: Any) -> None:
    """The paper's own evolution is what its recipe says; with another start it has the same budget."""
    recipe = load_recipe(RECIPES / "nano-paper-evolution.toml")
    assert changed(recipe, arms.ARMS["evolution"]) == recipe
    more = changed(recipe, arms.ARMS["evolution-critical"]).search.evolution
    assert more == replace(recipe.search.evolution, starts=("pi", "ntk", "yarn", "critical"))
    assert changed(recipe, arms.ARMS["gradient"]).search == replace(recipe.search, method="gradient")
    assert not {"gradient", "evolution", "evolution-critical"} & {*arms.USUAL}


def test_the_controls_leave_out_needles_or_all_long_windows(arms: Any, recipe: Recipe) -> None:
    bare = changed(recipe, arms.ARMS["searched-bare"])
    assert replace(bare, tune=recipe.tune) == recipe
    assert asdict(bare.tune) | {"needle_weight": 0.5} == asdict(recipe.tune)
    own = changed(recipe, arms.ARMS["own"]).tune
    assert (own.short_share, own.needle_weight, own.steps) == (1, 0, recipe.tune.steps)


def test_an_arm_may_train_the_attention_alone(arms: Any, recipe: Recipe) -> None:
    found, whole = (changed(recipe, arms.ARMS[name]) for name in ("critical-attention", "critical"))
    assert (found.tune.parameters, whole.tune.parameters) == (("*.self_attn.*",), ())
    assert replace(found, tune=whole.tune) == whole
    assert asdict(found.tune) | {"parameters": ()} == asdict(whole.tune)
    assert "critical-attention" not in arms.USUAL


def test_an_arm_with_a_seed_is_the_same_arm_in_a_directory_of_its_own(arms: Any) -> None:
    words = arms.command(Path("r.toml"), Path("out"), "yarn@2")[3:]
    assert words == [
        *("extend", "--recipe", "r.toml", "--out", "out/yarn@2"),
        *("--set", "search.method=yarn", "--seed", "2"),
    ]
    assert "--seed" not in arms.command(Path("r.toml"), Path("out"), "yarn")


def test_the_original_is_measured_at_all_lengths_in_the_first_arm_alone(arms: Any, tmp_path: Path) -> None:
    """Its scores are the same in all of them."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    script.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms.sys, "executable", f"{script}")
        assert arms.run_arms(Path("r.toml"), tmp_path, ["yarn", "searched@1"], [""]) == []
    first, second = (tmp_path / "calls").read_text().splitlines()
    assert "original_tokens" not in first
    assert "--set measure.original_tokens=1 --seed 1" in second


def test_every_arm_is_compared_with_the_reference_of_its_own_seed(arms: Any, tmp_path: Path) -> None:
    def pair(run: RunDir, beside: RunDir) -> list[tuple[str, str]]:
        return [(run.path.name, beside.path.name)]

    asked = ["searched", "yarn", "yarn@1", "searched@1", "critical@2", "searched-bare", "yarn-bare"]
    pairs = [("searched", "yarn"), ("searched@1", "yarn@1"), ("searched-bare", "yarn-bare")]
    assert arms.compare_arms(tmp_path, asked, "yarn", pair) == pairs


def test_the_two_recipes_of_the_evidence_read_the_same_texts_and_search_alike(recipe: Recipe) -> None:
    compared = load_recipe(RECIPES / "evidence-64k.toml")
    same = ("model", "target_tokens", "data", "measure_data", "seed", "dtype")
    assert [getattr(compared, key) for key in same] == [getattr(recipe, key) for key in same]
    assert set(compared.measure.metrics) - set(recipe.measure.metrics) == {"far-context", "far-shuffled"}
    assert replace(compared.measure, metrics=recipe.measure.metrics) == recipe.measure
    assert compared.search.gradient == recipe.search.gradient
    assert compared.search.tail_tokens == recipe.search.tail_tokens


def test_the_comparison_in_nine_minutes_is_the_same_with_less() -> None:
    """The same model, texts, methods and metrics but for the shuffled far context."""
    whole, less = (load_recipe(RECIPES / f"{name}-64k.toml") for name in ("evidence", "compare"))
    assert replace(less, search=whole.search, measure=whole.measure) == whole
    assert set(whole.measure.metrics) - set(less.measure.metrics) == {"far-shuffled"}
    fewer: dict[str, Any] = {"passkeys": 10, "needles_per_text": 20, "metrics": less.measure.metrics}
    assert replace(whole.measure, **fewer) == less.measure
    assert replace(less.search, validation_windows=6, gradient=whole.search.gradient) == whole.search
    assert 3 * less.search.gradient.steps == 2 * whole.search.gradient.steps


def test_more_measures_of_the_same_trainings_go_on_in_their_directories(recipe: Recipe, tmp_path: Path) -> None:
    """With the same stages and the same tail, which a run takes; its evaluator reads with factors that are there."""
    more = load_recipe(RECIPES / "evidence-measures.toml")
    assert replace(more, measure=recipe.measure) == recipe
    run = RunDir(tmp_path)
    run.bind(recipe)
    run.bind(more)
    table = load_factors(RECIPES.parent / more.measure.evaluator_factors)
    assert table.choose(recipe.target_tokens).target_window >= recipe.target_tokens
    assert more.measure.evaluator == recipe.model


def test_arms_that_are_there_are_compared_and_nothing_runs(
    arms: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arms, "run_arms", lambda *_: pytest.fail("nothing is to be run"))
    documents, out = document_numbers(9), tmp_path / "out"
    yarn, critical = make_finished(out / "yarn", 2, documents), make_finished(out / "critical@1", 1, documents)
    yarn.append(score("none", LENGTH, "perplexity", 77.25, 70.5, 80.5))
    shutil.copytree(yarn.path, out / "yarn@1")
    (out / "stray").mkdir()
    with pytest.raises(SystemExit):
        arms.main(["r.toml", f"{out}", "critical@1", "scan@1", "yarn@1", "--compare"])
    assert "has no scores of scan@1" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        arms.main(["r.toml", f"{out}", "critical@1", "yarn", "--compare"])
    assert "none of these arms has yarn of its seed beside it: critical@1, yarn" in capfd.readouterr().err
    assert not (out / "arms.jsonl").exists()
    arms.main(["r.toml", f"{out}", "--compare"])
    lines = [json.loads(line) for line in (out / "arms.jsonl").read_text().splitlines()]
    assert lines == [asdict(one) for one in pair_runs(critical, RunDir(out / "yarn@1"))]
    assert [(line["run"], line["reference"], line["metric"]) for line in lines] == [
        ("critical@1", "yarn@1", metric) for metric in METRICS
    ]
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["critical@1", "stray", "yarn", "yarn@1"]
    printed = capfd.readouterr().out
    assert f"{lines[0]['value']:.4g} ({lines[0]['low']:.4g}-{lines[0]['high']:.4g})" in printed
    assert "77.25 (70.5-80.5)" in printed, "the original model, which was not measured in the first arm"
    arms.main(["r.toml", f"{out}", "critical@1", "yarn@1", "--compare", "--reference", "critical,yarn"])
    both = [json.loads(line) for line in (out / "arms.jsonl").read_text().splitlines()]
    assert both[len(lines) :] == lines
    assert {(line["run"], line["reference"]) for line in both[: len(lines)]} == {("yarn@1", "critical@1")}
    assert "beside critical" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        arms.main(["r.toml", f"{out}", "yarn@1", "--compare", "--reference", "yarn,other"])
    assert "unknown arms: other" in capfd.readouterr().err


@pytest.mark.slow
def test_arms_are_run_compared_and_shown_by_one_command(
    arms: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a pico model, with two arms at the same time."""
    model, texts = pico.save_pico(tmp_path / "pico", num_hidden_layers=1), pico.save_texts(tmp_path / "texts")
    small = Recipe(
        f"{model}",
        128,
        (f"{texts[0]}",),
        (f"{texts[1]}",),
        device="cpu",
        stages=(Stage(search=128), Stage(tune=128), Stage(short=64, method="none")),
        search=SearchRecipe(validation_windows=1),
        tune=TuneRecipe(steps=2, batch_windows=1, warmup_steps=1),
        measure=MeasureRecipe(lengths=(64, 128), metrics=("perplexity",), windows=2, tail_tokens=32),
    )
    path, out = tmp_path / "small.toml", tmp_path / "out"
    path.write_text(dump_recipe(small))
    arms.main([f"{path}", f"{out}", "critical", "yarn", "--gpus", ","])
    lines = [json.loads(line) for line in (out / "arms.jsonl").read_text().splitlines()]
    found = {(line["run"], line["reference"], line["metric"], line["context_tokens"]) for line in lines}
    metrics = ("perplexity", "perplexity-last-32")
    assert found == {("critical", "yarn", metric, length) for metric in metrics for length in (64, 128)}
    printed = capfd.readouterr().out
    (line,) = (line for line in lines if (line["metric"], line["context_tokens"]) == ("perplexity", 128))
    assert f"{line['value']:.4g} ({line['low']:.4g}-{line['high']:.4g})" in printed
    assert "original model" in printed
    assert (out / "arms.html").read_text().startswith("<!doctype html>")
    first = (out / "arms.jsonl").read_bytes()
    for arm in ("critical", "yarn"):
        shutil.rmtree(out / arm / "samples")
    arms.main([f"{path}", f"{out}", "critical", "yarn", "--compare"])
    assert (out / "arms.jsonl").read_bytes() == first
