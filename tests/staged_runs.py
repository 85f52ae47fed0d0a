"""The schedule of the tests in tests/stages, and what a finished run of it holds."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from longrope.data import Texts, load_texts
from longrope.models import LanguageModel, load_model
from longrope.recipe import (
    Recipe,
    Stage,
)
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir

SHORT, TUNED_AT, SEARCHED, TARGET, STEPS = 64, 128, 256, 512, 4


STAGES = (
    Stage(search=TUNED_AT),
    Stage(tune=TUNED_AT),
    Stage(search=SEARCHED),
    Stage(extrapolate=TARGET),
    Stage(short=SHORT),
)


def open_texts(recipe: Recipe) -> tuple[LanguageModel, Texts]:
    """The model and the texts of a recipe, fresh."""
    model = load_model(recipe.model, device="cpu")
    return model, load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data)


def folders_of(run: RunDir) -> list[Path]:
    """The stages of a run in order."""
    return sorted(run.stages.iterdir())


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scores_of(run: RunDir) -> list[Score]:
    """The scores without their wall clock."""
    return [replace(score, seconds=0.0) for score in read_records(run.scores, Score)]


def never(*_: object, **__: object) -> None:
    """Stand in for what must not be called."""
    raise AssertionError("done again")


def assert_tuned(run: RunDir) -> None:
    """The weights of the checkpoint are those of the tuning, and not those of the model before it."""
    network = AutoModelForCausalLM.from_pretrained(run.checkpoint)
    saved = load_file(folders_of(run)[1] / "tuning.safetensors")
    before = load_model(run.recipe().model, device="cpu").network.state_dict()
    for name, weight in network.named_parameters():
        assert torch.equal(saved[f"weight/{name}"], weight), name
        assert not torch.equal(before[name], weight), name
