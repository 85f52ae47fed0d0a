"""Gradients of factors against differences, and parity with the longrope of transformers."""

import math
from typing import Any

import numpy as np
import pico
import pytest
import torch
from rotary_oracles import ROUNDING, TOKENS, gap, get_logits, make_factors
from torch import Tensor
from torch.nn import functional

from longrope.models import (
    LanguageModel,
    rescaled,
)
from longrope.rope import RescaleFactors


def compute_loss(model: LanguageModel) -> Tensor:
    logits = model.network(TOKENS, use_cache=False).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten())


@pytest.mark.parametrize("family", ["llama", "stablelm", "cohere"])
@pytest.mark.parametrize("start", [0, 12])
def test_gradients_are_those_of_central_differences(family: str, start: int) -> None:
    """d loss / d lambda and d loss / d attention factor equal five-point differences of the loss.

    The networks run in float64, but Llama and Cohere take their norms in float32, hence the tolerance. The small theta
    makes every pair turn within 48 tokens.
    """
    model = pico.make_model(family, dtype=torch.float64, rope={"rope_theta": 50.0})
    factors = make_factors(model.spec, 4, 8, start_tokens=start, attention_factor=1.1)
    with rescaled(model, factors, learnable=True) as module:
        assert module is not None
        compute_loss(model).backward()
        parameters = [module.lambdas, module.attention_factor]
        given = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).numpy()
        measured = [differentiate(model, p.data.view(-1)[i : i + 1]) for p in parameters for i in range(p.numel())]
    assert len(given) == model.spec.num_pairs + 1
    assert np.abs(measured).min() > 5e-5, "each factor must matter, or the comparison is empty"
    np.testing.assert_allclose(given, measured, rtol=1e-3, atol=2e-6)
    assert not any(p.grad is not None for p in model.network.parameters())


def differentiate(model: LanguageModel, entry: Tensor, step: float = 0.01) -> float:
    """d loss / d entry by the five-point rule; the entry has its value again afterwards."""
    value, losses = entry.clone(), {}
    for k in (-2, -1, 1, 2):
        entry.copy_(value + k * step)
        with torch.no_grad():
            losses[k] = compute_loss(model).item()
    entry.copy_(value)
    return (losses[-2] - 8 * losses[-1] + 8 * losses[1] - losses[2]) / (12 * step)


def test_factors_get_no_gradient_unless_learnable(llama: LanguageModel) -> None:
    """Without ``learnable`` a pass in grad mode builds no graph."""
    with rescaled(llama, make_factors(llama.spec)):
        assert not compute_loss(llama).requires_grad
    with rescaled(llama, make_factors(llama.spec), learnable=True) as module:
        assert module is not None
        assert module.lambdas.dtype == torch.float64
        assert compute_loss(llama).requires_grad


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "stablelm", "cohere"])
@pytest.mark.parametrize("attention", [None, 1.3], ids=["default-attention", "given-attention"])
def test_native_longrope_is_the_same_on_both_sides_of_its_switch(family: str, attention: float | None) -> None:
    """The same weights under a native longrope config give our logits: short list up to 64 tokens, long list beyond."""
    model = pico.make_model(family)
    pairs = model.spec.num_pairs
    lists = {"short_factor": np.linspace(1, 1.5, pairs).tolist(), "long_factor": np.linspace(1, 6, pairs).tolist()}
    changes: dict[str, Any] = {"max_position_embeddings": 256}
    if family == "phi3":
        changes["original_max_position_embeddings"] = 64
    rope = {"rope_type": "longrope", **lists, "original_max_position_embeddings": 64, "factor": 4.0}
    native = pico.make_network(
        family, rope={**rope, **({"attention_factor": attention} if attention else {})}, **changes
    )
    native.load_state_dict(model.network.state_dict())
    ours_attention = attention or math.sqrt(1 + math.log(4) / math.log(64))
    sides = {"short_factor": (16, 64), "long_factor": (65, 160)}
    logits: dict[str, Tensor] = {}
    for name, lengths in sides.items():
        factor_set = RescaleFactors(tuple(lists[name]), 256, model.spec.fingerprint, attention_factor=ours_attention)
        for length in lengths:
            tokens = torch.arange(7, 7 + length)[None]
            with rescaled(model, factor_set):
                ours = get_logits(model.network, tokens)
            assert gap(ours, get_logits(native, tokens)) < ROUNDING, (name, length)
            logits[name] = ours[:, :16]
    assert gap(logits["short_factor"], logits["long_factor"]) > 0.05, "the switch must matter"
