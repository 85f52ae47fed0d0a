"""A library that does not call the rotary module that a model holds is noticed."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from rotary_oracles import get_rotary
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from longrope.errors import ModelError
from longrope.models import (
    check_moves_logits,
    load_model,
)


def bypass(attention: Any, rotary: Any) -> Callable[..., Any]:
    """An attention whose position embeddings come from somewhere else than the module that the model holds."""
    native = attention.forward

    def forward(hidden_states: Tensor, *_: Any, **inputs: Any) -> Any:
        inputs["position_embeddings"] = rotary(hidden_states, torch.arange(hidden_states.shape[1])[None])
        return native(hidden_states, **inputs)

    return forward


def test_dead_hook_is_noticed() -> None:
    """A library that stopped calling the module we exchange (bug 1 of PEERS.md) is refused, not searched on."""
    model = pico.make_model("llama")
    check_moves_logits(model)
    elsewhere = copy.deepcopy(get_rotary(model.network))
    for layer in model.network.model.layers:
        layer.self_attn.forward = bypass(layer.self_attn, elsewhere)
    with pytest.raises(ModelError, match="does not reach the logits"):
        check_moves_logits(model)


def test_loading_notices_a_dead_hook(pico_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """load_model itself refuses such a model."""
    native = LlamaAttention.forward

    def forward(self: Any, hidden_states: Tensor, *_: Any, **inputs: Any) -> Any:
        rotary = LlamaRotaryEmbedding(self.config)
        inputs["position_embeddings"] = rotary(hidden_states, torch.arange(hidden_states.shape[1])[None])
        return native(self, hidden_states, **inputs)

    load_model(pico_folder, device="cpu")
    monkeypatch.setattr(LlamaAttention, "forward", forward)
    with pytest.raises(ModelError, match="does not reach the logits"):
        load_model(pico_folder, device="cpu")
