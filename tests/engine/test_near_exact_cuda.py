"""DCA, Self-Extend and Jet-Long by the kernels of a GPU against explicit positions; run with ``-k cuda`` there."""

import logging
import time

import near_oracle
import pico
import pytest
import torch
from attention_oracle import needs_gpu
from torch import Tensor

from longrope.engine.near_exact import dca, jet_long, self_extend
from longrope.engine.parted import NearExact, Turning, attend_in_parts
from longrope.engine.passes import token_losses
from longrope.models import LanguageModel
from longrope.rope.near_exact import Parts, dca_parts, jet_long_parts, self_extend_parts

DEVICE = "cuda"
TOKENS, WINDOW, DIM = 2048, 256, 64
CLOSE = {torch.bfloat16: 3e-2, torch.float16: 4e-3, torch.float32: 1e-4}
CASES: dict[str, tuple[Parts | None, near_oracle.Relative]] = {
    "dca": (dca_parts(WINDOW, TOKENS), near_oracle.dca(192, 32)),
    "self-extend": (
        self_extend_parts(WINDOW, TOKENS, window=64, group=32),
        near_oracle.self_extend(64, 32),
    ),
    "jet-long": (jet_long_parts(WINDOW, TOKENS), near_oracle.jet_long(16, 8)),
}
RATES = tuple((10000.0 ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)).tolist())
every_case = pytest.mark.parametrize("case", CASES)


def rotated(x: Tensor, first: int = 0) -> Tensor:
    """Vectors [B, H, S, D] at positions from ``first`` on, rotated by complex numbers."""
    half = DIM // 2
    angles = torch.arange(first, first + x.shape[2])[:, None] * torch.tensor(RATES, dtype=torch.float64)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.exp(1j * angles)
    return torch.cat((turned.real, turned.imag), dim=-1)


@needs_gpu
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("heads", [(9, 3), (4, 4), (4, 1)], ids=str)
@every_case
def test_cuda_attention_in_parts(case: str, heads: tuple[int, int], dtype: torch.dtype) -> None:
    """All queries at once, tiles that begin within a part, and the last query alone."""
    parts, relative = CASES[case]
    generator = torch.Generator().manual_seed(1)
    shapes = [(1, heads[0], TOKENS, DIM)] + [(1, heads[1], TOKENS, DIM)] * 2
    query, key, value = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    positions = near_oracle.matrix(relative, TOKENS)
    temperature = dca_parts(WINDOW, TOKENS).own.temperature if case == "dca" else 1.0
    given = (*(x.to(DEVICE) for x in (query, key, value)), positions, torch.tensor(RATES, dtype=torch.float64))
    expected = near_oracle.attend(*given, scale=0.1, temperature=temperature).cpu()
    near = NearExact(parts, Turning(RATES, interleaved=False), frozenset({0}))
    q, k, v = (x.to(DEVICE, dtype) for x in (rotated(query), rotated(key), value))
    for first, last in ((0, TOKENS), (0, 300), (300, 1999), (TOKENS - 1, TOKENS)):
        with torch.no_grad():
            found = attend_in_parts(q[:, :, first:last], k[:, :, :last], v[:, :, :last], near=near, scale=0.1)
        off = (found.double().cpu() - expected[:, :, first:last]).abs().max()
        assert off < CLOSE[dtype], (first, last, off)


@needs_gpu
@pytest.mark.parametrize("family", ["llama", "stablelm", "cohere", "gemma2"])
@pytest.mark.parametrize("change", [dca, self_extend, jet_long])
def test_cuda_losses_are_those_of_the_cpu(change: object, family: str) -> None:
    """Of pico models in float32: there the CPU's numbers are those of explicit positions."""
    assert callable(change)
    ids = torch.randint(1, 320, (1, TOKENS), generator=torch.Generator().manual_seed(5))
    losses = []
    for device in ("cpu", DEVICE):
        model = pico.make_model(family)
        model.network.to(device)
        with change(model, TOKENS):
            losses.append(token_losses(model, ids))
    assert (losses[0] - losses[1]).abs().max() < 2e-3


@needs_gpu
@pytest.mark.parametrize("change", [None, dca, self_extend, jet_long])
def test_cuda_a_long_window_takes_little(change: object) -> None:
    """65,536 tokens of a model of SmolLM2-135M's shape; the numbers are shown with ``-o log_cli=true``."""
    model, ids = smollm_like(), torch.randint(1, 320, (1, 65536), generator=torch.Generator().manual_seed(5))

    def run() -> None:
        if change is None:
            token_losses(model, ids)
            return
        assert callable(change)
        with change(model, 65536):
            token_losses(model, ids)

    run()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    seconds, gib = time.perf_counter() - began, torch.cuda.max_memory_allocated() / 2**30
    logging.getLogger(__name__).warning("%s: %.2f s, %.2f GiB", change, seconds, gib)
    assert seconds < 8
    assert gib < 8


def smollm_like() -> LanguageModel:
    """Random weights: 30 layers, 9 query heads of 64, 3 key heads, a trained window of 8,192."""
    model = pico.make_model(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        initializer_range=0.05,  # at which positions move losses by more than rounding does
        rope_theta=1e5,
        dtype=torch.bfloat16,
    )
    model.network.to(DEVICE)
    return model
