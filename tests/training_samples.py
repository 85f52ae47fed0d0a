"""Trainings on windows with documents, skipped positions, short windows and needles, and their losses by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pico
import torch
from torch import Tensor
from torch.nn import functional

from longrope.data import TokenText
from longrope.models import LanguageModel
from longrope.recipe import TuneRecipe
from longrope.rope import RescaleFactors, baseline_factors

TOKENIZER = pico.make_tokenizer()


STREAM = np.asarray(TOKENIZER(pico.make_text(1500))["input_ids"], np.int32)


STARTS = np.asarray([0, 30, 31, 70, 500, *range(600, 2600, 37)], np.int64)


TEXT = TokenText(STREAM, "tune", documents=STARTS)


LENGTH = 96  # more than the trained window of a pico model


QUICK = TuneRecipe(window_tokens=LENGTH, steps=4, batch_windows=4, learning_rate=1e-3, warmup_steps=0)


def make_factors(model: LanguageModel) -> RescaleFactors:
    yarn = baseline_factors(model.spec, "yarn", 256).factor_sets[0]
    return replace(yarn, attention_factor=1.2, start_tokens=3)


def losses_of(network: Any, tokens: np.ndarray, positions: np.ndarray | None = None) -> Tensor:
    """[n - 1] next-token losses of one sequence in nats by plain transformers, without a document beside it."""
    ids = torch.from_numpy(tokens)[None].long()
    where: dict[str, Tensor] = {}
    if positions is not None:  # with a mask, or transformers would take a skip as the beginning of another sequence
        where["attention_mask"] = torch.ones(len(tokens), len(tokens)).tril().bool()[None, None]
        where["position_ids"] = torch.from_numpy(positions)[None]
    logits = network(ids, use_cache=False, **where).logits[0, :-1]
    return functional.cross_entropy(logits, ids[0, 1:], reduction="none")
