"""Oracles of rotary embeddings that share no code with the package.

These are geometries written by hand, transformers' own rotary modules, angles formed with numpy, and differences.
"""

from typing import Any

import numpy as np
import pico
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from longrope.models import (
    LanguageModel,
)
from longrope.rope import RescaleFactors, RopeSpec

GEOMETRIES = {  # head_dim, rotary_dim, theta, trained_window, pairing: by hand from pico.BASE and pico.FAMILIES
    "llama": (8, 8, 1e4, 64, "half"),
    "mistral": (8, 8, 1e5, 64, "half"),
    "qwen2": (8, 8, 1e6, 64, "half"),
    "qwen3": (16, 16, 1e4, 64, "half"),  # head_dim is not hidden / heads
    "phi3": (8, 8, 1e4, 64, "half"),
    "gemma2": (16, 16, 1e4, 64, "half"),
    "olmo2": (8, 8, 5e5, 64, "half"),
    "stablelm": (16, 8, 1e4, 64, "half"),  # half of the head is rotated
    "gpt_neox": (16, 4, 1e4, 64, "half"),  # a quarter
    "cohere": (8, 8, 5e5, 64, "interleaved"),
}


TOKENS = torch.randint(1, 320, (2, 48), generator=torch.Generator().manual_seed(7))


ROUNDING = 2e-5  # float32, as a share of the logits' standard deviation


every_family = pytest.mark.parametrize("family", GEOMETRIES)


both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def make_factors(spec: RopeSpec, first: float = 1.5, last: float = 4.0, **fields: Any) -> RescaleFactors:
    """Factors that rise linearly over the pairs."""
    lambdas = tuple(np.linspace(first, last, spec.num_pairs).tolist())
    return RescaleFactors(lambdas, 4 * spec.trained_window, spec.fingerprint, **fields)


def get_logits(network: Any, tokens: Tensor = TOKENS, **inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(tokens, use_cache=False, **inputs).logits.clone()  # type: ignore[no-any-return]


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of the standard deviation."""
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().std()).item()


def get_rotary(network: Any) -> Any:
    """The rotary module where transformers keeps it."""
    return network.base_model.rotary_emb


def make_by_hand(family: str, inv_freq: NDArray[np.float64], attention_scaling: float = 1.0, **changes: Any) -> Any:
    """The network of a family whose own rotary module is set to these frequencies and this scaling."""
    network = pico.make_network(family, **changes)
    rotary = get_rotary(network)
    assert rotary.inv_freq.shape == inv_freq.shape
    rotary.inv_freq.copy_(torch.from_numpy(inv_freq))
    rotary.attention_scaling = attention_scaling
    return network


def form_angles(
    geometry: tuple[int, int, float, int, str], positions: NDArray[np.int64], lambdas: tuple[float, ...], start: int = 0
) -> NDArray[np.longdouble]:
    """[N, rotary_dim] angles of rescaled RoPE in extended precision, entry by entry from the definition."""
    _, width, theta, _, pairing = geometry
    angles = np.zeros((len(positions), width), dtype=np.longdouble)
    for row, n in enumerate(positions.tolist()):
        for i, stretch in enumerate(lambdas):
            angle = np.longdouble(n) / np.longdouble(theta) ** (np.longdouble(2 * i) / width)
            if n >= start:
                angle /= np.longdouble(stretch)
            for entry in (i, i + width // 2) if pairing == "half" else (2 * i, 2 * i + 1):
                angles[row, entry] = angle
    return angles


def get_inv_freq(model: LanguageModel) -> NDArray[np.float64]:
    """[P] what the network's own module turns by, beyond its switch if it has one."""
    rotary = get_rotary(model.network)
    if model.network.config.rope_parameters["rope_type"] == "longrope":
        rotary(torch.zeros(1), torch.tensor([[model.network.config.max_position_embeddings - 1]]))
    return rotary.inv_freq.double().numpy().copy()  # type: ignore[no-any-return]
