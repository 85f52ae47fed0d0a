"""Commands that train."""

import re
from dataclasses import replace
from pathlib import Path

import pico
import pytest
import torch
from commands import Command, assert_shown, note_recipes
from transformers import AutoModelForCausalLM

from longrope.data import load_texts
from longrope.models import load_model, read_spec
from longrope.recipe import Stage, TuneRecipe, dump_recipe, load_recipe
from longrope.rope import RescaleFactors, baseline_factors, dump_factors, load_factors
from longrope.runs.records import Score, TrainStep, read_records
from longrope.runs.run_dir import RunDir
from longrope.tuning import fine_tune

QUICKLY = ("--steps", 3, "--batch", 2, "--rate", "1e-3", "--device", "cpu")


def train_by_hand(folder: Path, texts: Path, factors: RescaleFactors, settings: TuneRecipe) -> dict[str, torch.Tensor]:
    """The weights that a command should leave, by the package's own function."""
    model = load_model(str(folder), device="cpu")
    fine_tune(model, factors, load_texts([texts], model.tokenizer).tune, settings=settings)
    return dict(model.network.named_parameters())


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("rank", [0, 2])
def test_tune_trains_at_the_window_of_its_factors(
    rank: int, command: Command, pico_folder: Path, text_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """And exports the checkpoint, whose weights and factors are those of the functions behind it; again is at once."""
    factors = baseline_factors(read_spec(pico.make_network().config), "ntk", 256).factor_sets[0]
    (tmp_path / "factors.json").write_text(dump_factors(factors))
    given = ["tune", pico_folder, "--to", "256", "--data", text_folders[0]]
    given += ["--factors", tmp_path if rank else tmp_path / "factors.json"]  # a run directory, or its file
    given += [*QUICKLY, *(("--lora", rank) if rank else ()), "--out", "run"]
    result = command(*given)
    assert result.code == 0, result.err
    assert result.out == "training: run/train.jsonl\ncheckpoint: run/hf\nreport: run/report.html\n"
    assert re.search(r"^tune: about [\d.]+ (s|min), [\d.]+ GiB at the peak", result.err, re.MULTILINE)
    steps = read_records(RunDir("run").train, TrainStep)
    assert [step.num_tokens for step in steps] == [2 * 255] * 3
    assert [step.learning_rate for step in steps] == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])
    settings = TuneRecipe(256, steps=3, batch_windows=2, learning_rate=1e-3, warmup_steps=0, lora_rank=rank)
    expected = train_by_hand(pico_folder, text_folders[0], factors, settings)
    exported = AutoModelForCausalLM.from_pretrained("run/hf")
    for name, weight in exported.named_parameters():
        assert torch.equal(weight, expected[name]), name
    assert exported.config.rope_parameters["long_factor"] == pytest.approx(factors.lambdas)
    assert Path("run/adapter").exists() == bool(rank)
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.suffix in (".jsonl", ".safetensors")}
    assert command(*given).out == result.out
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("given", [(), ("--lora", 2)], ids=["whole", "adapters"])
def test_extend_with_training_schedules_and_resumes(
    given: tuple[object, ...], command: Command, recipe_file: Path
) -> None:
    """Search, tune, search short factors; the tuned model is measured and exported with its factors."""
    result = command("extend", "--recipe", recipe_file, "--tune", *QUICKLY, *given, "--out", "run")
    assert result.code == 0, result.err
    assert [stage.kind for stage in load_recipe("run/recipe.toml").stages] == ["search", "tune", "short"]
    scores = read_records(RunDir("run").scores, Score)
    assert {score.method for score in scores} == {"none", "longrope-tuned"}
    for score in scores:
        assert_shown(result.out, score)
    (place,) = Path("run/stages").glob("2-tune-*")
    steps = read_records(place / "train.jsonl", TrainStep)
    assert [step.num_tokens for step in steps] == [2 * 255] * 3
    assert (place / "adapter").exists() == bool(given)
    assert [factor_set.target_window for factor_set in load_factors("run/factors.json").factor_sets] == [64, 256]
    again = command("extend", "--out", "run")
    assert (again.code, again.out) == (0, result.out)
    assert again.err.count("(done before)") == 3
    assert read_records(place / "train.jsonl", TrainStep) == steps


def test_options_of_a_training_reach_the_recipe(
    command: Command, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warm-up keeps its share of the steps, and stages that have steps of their own take those that are given."""
    begun = note_recipes(monkeypatch)
    stages = (Stage(search=256), Stage(tune=256, steps=50))
    own = replace(load_recipe(recipe_file), stages=stages, tune=TuneRecipe(steps=400, warmup_steps=20, short_share=0.2))
    recipe_file.write_text(dump_recipe(own))
    given = ("--steps", 100, "--batch", 3, "--rate", "2e-4", "--lora", 8)
    assert command("extend", "--recipe", recipe_file, *given, "--out", "run").code == 0
    tune = replace(own.tune, steps=100, warmup_steps=5, batch_windows=3, learning_rate=2e-4, lora_rank=8)
    assert begun == [replace(own, tune=tune, stages=(Stage(search=256), Stage(tune=256)))]
    assert command("extend", "--recipe", recipe_file, "--out", "other").code == 0
    assert begun[1] == own


@pytest.mark.parametrize(
    ("preset", "steps", "batch", "rate", "schedule"),
    [("llama2", 400, 32, 2e-5, "linear"), ("mistral", 400, 64, 1e-6, "constant")],
)
def test_presets_are_the_papers(
    preset: str,
    steps: int,
    batch: int,
    rate: float,
    schedule: str,
    command: Command,
    recipe_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Section 4.1 of arXiv 2402.13753; further options override them."""
    begun = note_recipes(monkeypatch)
    given = ("extend", "--recipe", recipe_file, "--tune", "--preset", preset, "--out", "run")
    assert command(*given).code == 0
    tune = begun[0].tune
    assert (tune.steps, tune.batch_windows, tune.learning_rate, tune.schedule) == (steps, batch, rate, schedule)
    assert command(*given, "--batch", 4).code == 0
    assert begun[1].tune == replace(tune, batch_windows=4)
    assert command(*given, "--set", "tune.isolate_documents=true", "--lora", 8).code == 0
    assert begun[2].tune == replace(tune, isolate_documents=True, lora_rank=8)
    Path("own.toml").write_text(dump_recipe(begun[2]))
    assert command("extend", "--recipe", "own.toml", "--preset", preset, "--out", "other").code == 0
    assert begun[3].tune == begun[2].tune, "what the paper says nothing of stays"


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("window", [["512"], ["64", "--set", "tune.skipped_positions=1k"]])
def test_tune_refuses_positions_beyond_the_window_of_its_factors(
    window: list[str], command: Command, pico_folder: Path, text_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    factors = baseline_factors(read_spec(pico.make_network().config), "ntk", 256).factor_sets[0]
    (tmp_path / "factors.json").write_text(dump_factors(factors))
    given = ["tune", pico_folder, "--to", "256", "--data", text_folders[0], "--factors", tmp_path / "factors.json"]
    window_tokens, *others = window
    result = command(*given, *QUICKLY, "--set", f"tune.window_tokens={window_tokens}", *others, "--out", "run")
    assert result.code == 2
    assert "factors are for 256 tokens. It needs factors for its window or a longer one." in result.err
