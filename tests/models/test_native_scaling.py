"""Models that carry a scaling: read as what it is, left alone by all-ones, multiplied by factors."""

import math
from typing import Any

import numpy as np
import pico
import pytest
import torch
from rotary_oracles import (
    GEOMETRIES,
    ROUNDING,
    both_dtypes,
    gap,
    get_inv_freq,
    get_logits,
    get_rotary,
    make_by_hand,
)

from longrope.models import (
    LanguageModel,
    rescaled,
)
from longrope.rope import RescaleFactors

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LISTS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 5.0, 8.0]}
LONGROPE = {"rope_type": "longrope", **LISTS, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = {**LLAMA3, "original_max_position_embeddings": 64}
CARRIED: dict[
    str, tuple[str, dict[str, Any], dict[str, Any], float, int]
] = {  # family, rope, changes, attention, window
    "linear": ("llama", {"rope_type": "linear", "factor": 4.0}, {"max_position_embeddings": 256}, 1.0, 256),
    "yarn": ("llama", YARN, {}, 0.1 * math.log(4) + 1, 256),
    "yarn-stretched-config": ("llama", YARN, {"max_position_embeddings": 256}, 0.1 * math.log(4) + 1, 256),
    "yarn-betas": ("qwen3", {**YARN, "beta_fast": 2.0, "beta_slow": 0.1}, {}, 0.1 * math.log(4) + 1, 256),
    "yarn-untruncated": ("qwen3", {**YARN, "truncate": False}, {}, 0.1 * math.log(4) + 1, 256),
    "yarn-attention": ("llama", {**YARN, "attention_factor": 1.3}, {}, 1.3, 256),
    "yarn-mscales": (
        "llama",
        {**YARN, "mscale": 2.0, "mscale_all_dim": 0.5},
        {},
        (0.2 * math.log(4) + 1) / (0.05 * math.log(4) + 1),
        256,
    ),
    "yarn-partial": ("stablelm", YARN, {}, 0.1 * math.log(4) + 1, 256),
    "yarn-interleaved": ("cohere", YARN, {}, 0.1 * math.log(4) + 1, 256),
    "llama3": ("qwen3", LLAMA3, {"max_position_embeddings": 256}, 1.0, 256),
    "longrope": (
        "llama",
        LONGROPE,
        {"max_position_embeddings": 256},
        math.sqrt(1 + math.log(4) / math.log(64)),
        256,
    ),
    "longrope-attention": (
        "llama",
        {**LONGROPE, "attention_factor": 1.25},
        {"max_position_embeddings": 256},
        1.25,
        256,
    ),
    "longrope-phi3": (
        "phi3",
        LONGROPE,
        {"max_position_embeddings": 256, "original_max_position_embeddings": 64},
        math.sqrt(1 + math.log(4) / math.log(64)),
        256,
    ),
}
every_native = pytest.mark.parametrize("name", CARRIED)


def make_scaled(name: str) -> LanguageModel:
    family, rope, changes, _, _ = CARRIED[name]
    return pico.make_model(family, rope=rope, **changes)


@every_native
def test_carried_scaling_is_read_as_what_it_is(name: str) -> None:
    """Frequencies and attention factor are those of the live module, the window is what the model serves."""
    model = make_scaled(name)
    spec, (family, rope, _, attention, window) = model.spec, CARRIED[name]
    assert spec.native is not None
    assert spec.native.rope_type == rope["rope_type"]
    assert (spec.head_dim, spec.rotary_dim, spec.theta) == GEOMETRIES[family][:3]
    assert spec.trained_window == window
    np.testing.assert_allclose(spec.frequencies, get_inv_freq(model), rtol=1e-6)
    assert spec.attention_factor == pytest.approx(attention, rel=1e-12)
    assert get_rotary(model.network).attention_scaling == pytest.approx(attention, rel=1e-12)


@every_native
@both_dtypes
def test_identity_leaves_a_carried_scaling_bit_identical(name: str, dtype: torch.dtype) -> None:
    """All-ones is the model as it is; where the model has two lists, as it is beyond its switch."""
    family, rope, changes, _, window = CARRIED[name]
    model = pico.make_model(family, dtype=dtype, rope=rope, **changes)
    ones = RescaleFactors((1.0,) * model.spec.num_pairs, window, model.spec.fingerprint)
    far = torch.arange(100, 148).expand(2, -1)
    for inputs in ({"position_ids": far},) if "longrope" in name else ({}, {"position_ids": far}, {}):
        before = get_logits(model.network, **inputs)
        with rescaled(model, ones):
            ours = get_logits(model.network, **inputs)
        if "longrope" in name:  # by our own angles
            assert gap(ours, before) < (ROUNDING if dtype is torch.float32 else 0.1)
        else:
            assert torch.equal(ours, before)


@every_native
def test_factors_multiply_a_carried_scaling(name: str) -> None:
    """Lambda 2 on a model that carries a scaling is the module whose frequencies are halved once more."""
    family, _, _, attention, window = CARRIED[name]
    model = make_scaled(name)
    by_hand = make_by_hand(family, get_inv_freq(model) / 2, 1.1 * attention)
    twos = RescaleFactors((2.0,) * model.spec.num_pairs, window, model.spec.fingerprint, attention_factor=1.1)
    before = get_logits(model.network)
    with rescaled(model, twos):
        ours = get_logits(model.network)
    assert gap(ours, get_logits(by_hand)) < ROUNDING
    assert gap(ours, before) > 0.1
