"""Short trainings of pico models, and their weights before and after."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pico
import torch
from torch import Tensor

from longrope.data import TokenText
from longrope.models import LanguageModel
from longrope.recipe import TuneRecipe
from longrope.rope import RescaleFactors, baseline_factors
from longrope.runs.records import TrainStep
from longrope.tuning import fine_tune

TOKENIZER = pico.make_tokenizer()


TEXT = TokenText(np.asarray(TOKENIZER(pico.make_text(1500))["input_ids"], np.int32), "tune")


QUICK = TuneRecipe(
    window_tokens=48,
    steps=8,
    batch_windows=4,
    windows_at_once=4,
    learning_rate=1e-3,
    warmup_steps=2,
    checkpoint_every=3,
)


class CrashError(Exception):
    """What these tests let happen between two steps."""


def make_factors(model: LanguageModel, window: int = 256) -> RescaleFactors:
    return replace(baseline_factors(model.spec, "yarn", window).factor_sets[0], attention_factor=1.2)


def weights_of(model: LanguageModel) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.network.named_parameters()}


def assert_same(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same names, formats and bits."""
    assert given.keys() == expected.keys()
    for name, weight in expected.items():
        assert given[name].dtype == weight.dtype, name
        assert torch.equal(given[name], weight), name


def train(model: LanguageModel | None = None, settings: TuneRecipe = QUICK, **rest: Any) -> list[TrainStep]:
    """The steps of one training of a model, by default of a fresh pico Llama."""
    steps: list[TrainStep] = []
    fine_tune(model or pico.make_model(), None, TEXT, settings=settings, on_step=steps.append, **rest)
    return steps


def stop_after(step: int, error: type[BaseException]) -> Callable[[TrainStep], None]:
    def stop(record: TrainStep) -> None:
        if record.step == step:
            raise error

    return stop
