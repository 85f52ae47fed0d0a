"""The rotary tables that configs state, read and checked, or refused by name and reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from rotary_oracles import GEOMETRIES, get_rotary
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longrope.errors import ModelError
from longrope.models import (
    LanguageModel,
    load_config,
    read_spec,
)


def test_geometry_of_every_family_is_read(loaded: tuple[str, LanguageModel]) -> None:
    """What load_model reads from the disk is what was written by hand, and what the network's own module turns by."""
    family, model = loaded
    spec = model.spec
    assert (spec.head_dim, spec.rotary_dim, spec.theta, spec.trained_window, spec.pairing) == GEOMETRIES[family]
    assert spec.native is None
    (table,) = model.tables
    assert model.network.get_submodule(table.path) is get_rotary(model.network)
    assert (table.layers, table.geometry) == ((0, 1), spec)
    assert spec.attention_factor == get_rotary(model.network).attention_scaling == 1
    np.testing.assert_allclose(spec.frequencies, get_rotary(model.network).inv_freq.numpy(), rtol=1e-6)


def test_phi3_with_partial_rotary_is_read() -> None:
    """Phi-4-mini rotates three quarters of a head."""
    spec = read_spec(pico.make_config("phi3", hidden_size=64, rope={"partial_rotary_factor": 0.75}))
    assert (spec.head_dim, spec.rotary_dim, spec.num_pairs) == (16, 12, 6)


LEGACY = {
    "llama-linear": (
        {"model_type": "llama", "rope_theta": 5e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
        (8, 8, 5e4, 64, "linear", [2.0] * 4),
    ),
    "pythia": (
        {"model_type": "gpt_neox", "hidden_size": 64, "rotary_pct": 0.5, "rotary_emb_base": 20000},
        (16, 8, 2e4, 64, None, None),
    ),
    "phi3-longrope": (
        {
            "model_type": "phi3",
            "max_position_embeddings": 256,
            "original_max_position_embeddings": 64,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]},
        },
        (8, 8, 1e4, 256, "longrope", [1.0, 2.0, 3.0, 4.0]),
    ),
    "qwen2-yarn": (
        {
            "model_type": "qwen2",
            "rope_theta": 1e6,
            "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        },
        # 64 tokens hold 64 f / 2 pi turns of the pairs f = 1e6 ** (-i / 4): 10.2, 0.32, 0.010, 0.0003. The ramp's ends
        # are the pairs that turn 32 times (before the first) and once (0.67, rounded up to 1).
        (8, 8, 1e6, 256, "yarn", [1.0, 4.0, 4.0, 4.0]),
    ),
}


@pytest.mark.parametrize("name", LEGACY)
def test_legacy_config_is_read(name: str, tmp_path: Path) -> None:
    """config.json of the years before rope_parameters: rope_theta and rope_scaling at the top, rotary_pct."""
    content, (head_dim, rotary_dim, theta, window, kind, lambdas) = LEGACY[name]
    spec = read_spec(load_config(pico.write_config(tmp_path / name, **{**pico.BASE, **content})))
    assert (spec.head_dim, spec.rotary_dim, spec.theta, spec.trained_window) == (head_dim, rotary_dim, theta, window)
    assert (spec.native.rope_type if spec.native else None) == kind
    assert (list(spec.native.lambdas) if spec.native else None) == lambdas


REFUSED = {
    "gpt2": "no rotary position embedding",
    "bloom": "no rotary position embedding",
}


@pytest.mark.parametrize("family", REFUSED)
def test_other_architectures_are_refused_by_name_and_reason(family: str) -> None:
    """No RoPE, several of them, or one of another kind: each is named, never taken as Llama."""
    with pytest.raises(ModelError) as caught:
        read_spec(pico.make_config(family))
    assert repr(family) in caught.value.found
    assert REFUSED[family] in caught.value.found
    assert "Llama, Mistral" in caught.value.remedy


def test_unknown_scaling_is_refused() -> None:
    """A scaling that we do not know is named, not dropped."""
    config = pico.make_config("llama")
    config.rope_parameters["rope_type"] = "spiral"
    with pytest.raises(ModelError, match="'spiral'"):
        read_spec(config)


@pytest.mark.parametrize(("name", "length"), [("long_factor", 3), ("short_factor", 5)])
def test_longrope_lists_of_the_wrong_length_are_refused(name: str, length: int) -> None:
    """transformers only warns, and fails at the first forward pass."""
    config = pico.make_config("llama")
    lists = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, name: [2.0] * length}
    config.rope_parameters.update(rope_type="longrope", original_max_position_embeddings=64, **lists)
    with pytest.raises(ModelError, match="4 entries"):
        read_spec(config)


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("pair", [0, 15, 31])
def test_module_with_other_frequencies_than_its_config_is_refused(
    theta: float, pair: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotary module whose fast, middle or slow pair differs from the config is not taken for the config's.

    The slowest pair matters most for extension, and moves least over few positions.
    """
    native = LlamaRotaryEmbedding.compute_default_rope_parameters

    def detuned(*arguments: Any, **settings: Any) -> tuple[Tensor, float]:
        inv_freq, scaling = native(*arguments, **settings)
        inv_freq[pair] /= 2
        return inv_freq, scaling

    config = pico.make_config("llama", head_dim=64, rope={"rope_theta": theta})
    assert read_spec(config).num_pairs == 32
    monkeypatch.setattr(LlamaRotaryEmbedding, "compute_default_rope_parameters", staticmethod(detuned))
    with pytest.raises(ModelError, match="other angles"):
        read_spec(config)
