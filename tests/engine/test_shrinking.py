"""Passes and gradients in less memory than they first ask for: smaller tiles, said once, and the same numbers.

The limit is one of the process's address space, so that torch's own allocations fail.
"""

import gc
import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pico
import pytest
import torch
from spying import before
from trainings import QUICK, train, weights_of

from longrope import distributed
from longrope.engine.decoding import read_prompt
from longrope.engine.gradients import factor_gradient
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.memory import choose_tile, fitting_tile
from longrope.engine.passes import last_log_probabilities, token_losses
from longrope.engine.shrinking import retry_in_less_memory
from longrope.errors import LongRopeError, from_system
from longrope.models import LanguageModel
from longrope.rope import baseline_factors
from longrope.tuning.batches import Batches

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit of the address space is Linux's")
WIDE = 2**15  # of MLPs: a token takes 128 KiB for each activation, a window more than C's library has in reserve
TOKENS = 1024
MIB = 2**20


@pytest.fixture
def model() -> LanguageModel:
    """A model whose MLPs take most of the memory."""
    return pico.make_model(intermediate_size=WIDE, num_hidden_layers=1, hidden_size=16)


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(320, size=(1, TOKENS))


@contextmanager
def address_space(more_bytes: int) -> Iterator[None]:
    """In this block the process can take so many bytes more than it has.

    What earlier tests left is collected before, for it would make room if that happened in the block.
    """
    gc.collect()
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_a_pass_shrinks_its_tiles_says_so_once_and_gives_the_same_losses(
    model: LanguageModel, tokens: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    whole = token_losses(model, tokens)
    with caplog.at_level(logging.WARNING, "longrope"), address_space(200 * MIB):
        losses = token_losses(model, tokens)
        assert torch.equal(token_losses(model, tokens), losses)
    assert model.limits.tile_tokens == TOKENS // 4
    assert choose_tile(model) == (256, "tiles of 256 tokens (memory did not suffice for larger ones)")
    assert [record.getMessage()[:65] for record in caplog.records] == [
        "memory does not suffice: from here on tiles of at most 256 tokens"
    ]
    torch.testing.assert_close(losses, whole, rtol=1e-5, atol=1e-5)


def test_gradients_of_factors_shrink_and_stay_the_same(model: LanguageModel, tokens: np.ndarray) -> None:
    factors = baseline_factors(model.spec, "yarn", TOKENS).factor_sets[0]
    windows = tokens.reshape(2, -1)
    given = factors, windows, np.full((2, windows.shape[1] - 1), 1 / windows.size)
    loss, slopes, slope = factor_gradient(model, *given)
    with address_space(540 * MIB):
        shrunk = factor_gradient(model, *given)
    assert model.limits.tile_tokens
    assert shrunk[0] == pytest.approx(loss, rel=1e-6)
    assert (*shrunk[1], shrunk[2]) == pytest.approx((*slopes, slope), rel=1e-3, abs=1e-7)


def test_a_step_of_a_training_begins_again_from_no_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """When memory ends in the second of two groups of windows, what the first has added is not counted twice."""
    settings = replace(QUICK, steps=2, warmup_steps=1, batch_windows=8, windows_at_once=4, window_tokens=80)
    whole, other = pico.make_model(), pico.make_model()
    expected = train(whole, settings)
    asked: list[int] = []

    def end_memory(_: Batches, row: int) -> None:
        asked.append(row)
        if len(asked) == 6:
            raise MemoryError

    before(monkeypatch, Batches, "window", end_memory)
    steps = train(other, settings)
    assert asked[:8] == [0, 1, 2, 3, 4, 5, 0, 1]
    assert other.limits.tile_tokens == 256
    assert [step.loss_nats for step in steps] == pytest.approx([step.loss_nats for step in expected], rel=1e-5)
    assert [step.gradient_norm for step in steps] == pytest.approx([step.gradient_norm for step in expected], rel=1e-4)
    for name, weight in weights_of(whole).items():
        torch.testing.assert_close(weights_of(other)[name], weight, rtol=1e-3, atol=1e-4)


def test_a_prompt_is_read_again_from_where_it_began(model: LanguageModel, tokens: np.ndarray) -> None:
    expected = read_prompt(model, tokens[0], KeyValueCache(model, TOKENS))
    cache = KeyValueCache(model, TOKENS)
    read_prompt(model, tokens[0, :100], cache)
    with address_space(200 * MIB):
        logits = read_prompt(model, tokens[0, 100:], cache)
    assert model.limits.tile_tokens
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_tiles_fit_into_an_eighth_of_the_memory(model: LanguageModel) -> None:
    """Of a processor, too, where the system might end the process instead of refusing memory."""
    per_token = 4 * (12 * 16 + 4 * WIDE)  # bytes
    for exponent in range(8, 17):
        assert fitting_tile(model, 8 * per_token * 2**exponent) == 2**exponent
        assert fitting_tile(model, 8 * per_token * 2**exponent - 1) == max(256, 2 ** (exponent - 1))
    assert fitting_tile(model, 0) == 256
    assert fitting_tile(model, 2**60) == 65536
    tile, reason = choose_tile(model)
    assert reason.startswith(f"tiles of {tile:,} tokens (")
    assert tile == fitting_tile(model, 8 * per_token * tile)


def test_what_does_not_fit_in_the_smallest_tiles_is_an_error_of_ours() -> None:
    model, tried = pico.make_model(), []

    def work() -> None:
        tried.append(choose_tile(model)[0])
        raise MemoryError

    with pytest.raises(MemoryError) as caught:
        retry_in_less_memory(model, 10_000, work)
    assert tried == [65536, 2500, 625, 256]
    ours = from_system(caught.value)
    assert isinstance(ours, LongRopeError)
    assert "the same command goes on from here" in ours.remedy


@pytest.mark.parametrize("sharing", [False, True])
def test_other_errors_and_processes_that_share_a_window_are_not_tried_again(
    model: LanguageModel, sharing: bool
) -> None:
    error = MemoryError() if sharing else RuntimeError("shapes do not fit")
    tried = []

    def work() -> None:
        tried.append(1)
        raise error

    state = distributed.DistributedState(ranks=2, context_ranks=2) if sharing else None
    with distributed.entered(state or distributed.DistributedState()), pytest.raises((MemoryError, RuntimeError)):
        retry_in_less_memory(model, TOKENS, work)
    assert tried == [1]


def test_last_tokens_are_found_in_little_memory(model: LanguageModel, tokens: np.ndarray) -> None:
    expected = last_log_probabilities(model, tokens, 3)
    with address_space(200 * MIB):
        torch.testing.assert_close(last_log_probabilities(model, tokens, 3), expected, rtol=1e-4, atol=1e-4)
    assert model.limits.tile_tokens
