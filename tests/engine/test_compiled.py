"""Passes through torch.compile: the same losses and answers, compiled once."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pico
import pytest
import torch
import torch._dynamo
from long_passes import set_tile
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from longrope import distributed
from longrope.engine import memory
from longrope.engine.compiling import MOST_VARIANTS, many_variants
from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import describe_pass, greedy_answers, token_losses, weighted_loss_with_graph
from longrope.errors import LongRopeError
from longrope.models import LanguageModel, load_model, rescaled
from longrope.rope import RescaleFactors

TOKENS = torch.randint(1, pico.BASE["vocab_size"], (2, 48), generator=torch.Generator().manual_seed(5))
FAMILIES = ("llama", "gemma2", "gpt_neox")
needs_compiler = pytest.mark.skipif(not shutil.which(str(inductor.cpp.cxx[1])), reason="no C++ compiler is here")


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """A process compiles for one model, tests for many."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def make(family: str = "llama", dtype: torch.dtype = torch.float32) -> tuple[LanguageModel, LanguageModel]:
    """A pico model on the GPU where there is one, as it is and compiled."""
    model = pico.make_model(family, dtype=dtype)
    model.network.to("cuda" if torch.cuda.is_available() else "cpu")
    return model, replace(model, compiled=True)


def graphs() -> int:
    """How many graphs were compiled so far."""
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_plain_pass(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole and in tiles, rescaled too; and what was compiled once serves all passes of those lengths."""
    gpu = torch.cuda.is_available()  # where float32 is no number format of a fast kernel
    model, compiled = make(family, torch.bfloat16 if gpu else torch.float32)
    close = partial(torch.testing.assert_close, rtol=2e-2 if gpu else 1e-5, atol=5e-2 if gpu else 2e-5)
    lambdas = tuple(2.0 + i for i in range(model.spec.num_pairs))
    factors = RescaleFactors(lambdas, 256, model.spec.fingerprint, start_tokens=5, attention_factor=1.1)
    seen = []
    for tile in (memory.MOST_TILE_TOKENS, 14, memory.MOST_TILE_TOKENS, 14):
        set_tile(monkeypatch, tile, rows=1)
        close(token_losses(compiled, TOKENS), token_losses(model, TOKENS))
        with rescaled(compiled, factors):
            scaled = token_losses(compiled, TOKENS)
        with rescaled(model, factors):
            close(scaled, token_losses(model, TOKENS))
        seen.append(graphs())
    assert 0 < seen[0] <= seen[1] == seen[2] == seen[3]
    assert (scaled - token_losses(model, TOKENS)).abs().max() > 0.1


@pytest.mark.slow
@needs_compiler
def test_any_length_is_served_by_what_two_lengths_compiled() -> None:
    """A measurement at many lengths compiles no more than twice, whole windows of one batch size."""
    model, compiled = make()
    for length in (48, 40):
        token_losses(compiled, TOKENS[:, :length])
    before = graphs()
    for length in (33, 20, 11):
        losses = token_losses(compiled, TOKENS[:, :length])
        torch.testing.assert_close(losses, token_losses(model, TOKENS[:, :length]), rtol=1e-3, atol=1e-3)
    assert graphs() == before


@pytest.mark.slow
@needs_compiler
def test_answers_and_a_cache_are_those_of_the_plain_pass() -> None:
    """Decoding goes through the same layers."""
    model, compiled = make()
    assert torch.equal(greedy_answers(compiled, TOKENS, 2), greedy_answers(model, TOKENS, 2))
    logits = []
    for each in (model, compiled):
        cache = KeyValueCache(each, 48)
        prefill(each, TOKENS[:1, :40], cache)
        logits.append([prefill(each, TOKENS[:1, at : at + 1], cache).cpu() for at in range(40, 48)])
    torch.testing.assert_close(torch.stack(logits[1]), torch.stack(logits[0]), rtol=1e-3, atol=1e-3)
    prefill(compiled, TOKENS[:1, :40], KeyValueCache(compiled, 48))
    before = graphs()
    token_losses(compiled, TOKENS[:1, :40])
    assert graphs() <= before + 1  # a layer that is compiled again is several


@pytest.mark.slow
@needs_compiler
def test_torchs_limit_is_raised_for_our_passes_alone() -> None:
    """A function of the process's own is compiled for as many shapes afterwards as before."""
    _, compiled = make()
    before, seen = dynamo.recompile_limit, list[int]()
    hook = compiled.network.model.norm.register_forward_pre_hook(lambda *_: seen.append(dynamo.recompile_limit))
    try:
        token_losses(compiled, TOKENS)
        assert dynamo.recompile_limit == before
        prefill(compiled, TOKENS[:1], KeyValueCache(compiled, 48))
        assert dynamo.recompile_limit == before
        compiled.network.model.norm.register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            token_losses(compiled, TOKENS)
    finally:
        hook.remove()
    assert dynamo.recompile_limit == before < MOST_VARIANTS
    assert seen == [MOST_VARIANTS] * 3


def fail(*_: object) -> None:
    raise ZeroDivisionError


def test_the_limit_is_not_touched_where_nothing_is_compiled() -> None:
    with many_variants(compiled=False):
        assert dynamo.recompile_limit < MOST_VARIANTS
    with dynamo.patch(recompile_limit=2 * MOST_VARIANTS), many_variants(compiled=True):
        assert dynamo.recompile_limit == 2 * MOST_VARIANTS


def test_gradients_are_taken_without_a_compiler() -> None:
    """Bitwise those of the same model as it is."""
    found, before = [], graphs()
    for model in make():
        model.network.requires_grad_(True)
        loss = weighted_loss_with_graph(model, TOKENS, np.full((2, 47), 1 / 94))
        loss.backward()
        found.append([weight.grad.clone() for weight in model.network.parameters()])
        model.network.zero_grad(set_to_none=True)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    assert graphs() == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's compiler is Triton")
def test_a_missing_compiler_is_named() -> None:
    """With what is needed, and what to leave out."""
    without = inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    with without, pytest.raises(LongRopeError) as caught:
        token_losses(make("qwen3")[1], TOKENS)
    assert "g++" in str(caught.value)
    assert "--compile" in str(caught.value)


def test_what_is_compiled_is_reported() -> None:
    """Nothing where processes share windows or where layers remember otherwise, and nothing of another model."""
    assert load_model("nano", device="cpu", compiled=True).compiled
    model, compiled = make()
    messages = describe_pass(model)
    assert "compiled" not in messages
    assert describe_pass(compiled) == f"layers compiled (as asked); {messages}"
    assert (
        describe_pass(compiled, decoding=True) == f"layers compiled (as asked); {describe_pass(model, decoding=True)}"
    )
    with distributed.entered(distributed.DistributedState(ranks=2, context_ranks=2)):
        assert describe_pass(compiled) == f"layers not compiled, for each works on whole windows; {messages}"
