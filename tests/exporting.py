"""Factors, logits and configs of exported checkpoints, and networks whose rotary modules are set by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longrope.exports import hf
from longrope.models import LanguageModel
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors

# by the number of pairs
LAMBDAS = {4: (1.0, 1.5, 3.0, 4.0), 8: (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0), 2: (1.5, 4.0)}


TOKENS = torch.randint(1, 320, (1, 150), generator=torch.Generator().manual_seed(5))


TWO = ExportRecipe(factor_sets="two")


def save_by(patch: pytest.MonkeyPatch, save: Callable[[LanguageModel, Path], None]) -> None:
    """Let a function write the checkpoints of exports."""
    patch.setattr(hf, "save_model", save)


def make_factors(model: LanguageModel, **fields: Any) -> RescaleFactors:
    settings = {"target_window": 256, "attention_factor": 1.2, **fields}
    return RescaleFactors(LAMBDAS[model.spec.num_pairs], spec_fingerprint=model.spec.fingerprint, **settings)


def get_logits(network: Any, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(tokens, use_cache=False).logits  # type: ignore[no-any-return]


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]
