"""Passes, gradients and prompts in less memory of a GPU than they first ask for; run with ``-k cuda`` there.

The limit is torch's own, for this process, so that what is beyond it fails as on a GPU that is full.
"""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pico
import pytest
import torch
from attention_oracle import needs_gpu

from longrope.engine.decoding import read_prompt
from longrope.engine.gradients import factor_gradient
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses
from longrope.models import LanguageModel
from longrope.rope import baseline_factors

WIDE = 2**14  # of the MLP: a token takes 64 KiB for each of its activations
TOKENS = 1024
MIB = 2**20

pytestmark = needs_gpu


@pytest.fixture
def model() -> LanguageModel:
    """A model whose MLP takes most of the memory."""
    made = pico.make_model(intermediate_size=WIDE, num_hidden_layers=1, hidden_size=64)
    made.network.to("cuda")
    return made


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(320, size=(1, TOKENS))


@contextmanager
def gpu_memory(more_bytes: int) -> Iterator[None]:
    """In this block the process can take so many bytes of the GPU more than it has."""
    gc.collect()  # what other tests left would be freed in this block, and be room
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more_bytes) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_cuda_a_pass_shrinks_its_tiles_says_so_once_and_gives_the_same_losses(
    model: LanguageModel, tokens: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    whole = token_losses(model, tokens)
    with caplog.at_level(logging.WARNING, "longrope"), gpu_memory(120 * MIB):
        losses = token_losses(model, tokens)
        assert torch.equal(token_losses(model, tokens), losses)
    assert model.limits.tile_tokens == TOKENS // 4
    assert [record.getMessage()[:65] for record in caplog.records] == [
        "memory does not suffice: from here on tiles of at most 256 tokens"
    ]
    torch.testing.assert_close(losses, whole, rtol=1e-4, atol=1e-4)


def test_cuda_gradients_of_factors_shrink_and_stay_the_same(model: LanguageModel, tokens: np.ndarray) -> None:
    factors = baseline_factors(model.spec, "yarn", TOKENS).factor_sets[0]
    windows = tokens.reshape(2, -1)
    given = factors, windows, np.full((2, windows.shape[1] - 1), 1 / windows.size)
    loss, slopes, slope = factor_gradient(model, *given)
    assert model.limits.tile_tokens == 0
    with gpu_memory(220 * MIB):
        shrunk = factor_gradient(model, *given)
    assert model.limits.tile_tokens
    assert shrunk[0] == pytest.approx(loss, rel=1e-5)
    assert (*shrunk[1], shrunk[2]) == pytest.approx((*slopes, slope), rel=1e-2, abs=1e-6)


def test_cuda_a_prompt_is_read_again_from_where_it_began(model: LanguageModel, tokens: np.ndarray) -> None:
    expected = read_prompt(model, tokens[0], KeyValueCache(model, TOKENS))
    cache = KeyValueCache(model, TOKENS)
    read_prompt(model, tokens[0, :100], cache)
    with gpu_memory(120 * MIB):
        logits = read_prompt(model, tokens[0, 100:], cache)
    assert model.limits.tile_tokens
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
