"""A model's own scaling in passes, tiles and caches, and where layers that turn by themselves are computed again."""

import numpy as np
import pico
import pytest
import torch
from long_passes import set_tile
from own_scalings import (
    EXCESSES,
    KINDS,
    LENGTHS,
    factors_near_ones,
    last_logits_by_hand,
    make_ids,
    make_model,
    pass_by_hand,
)
from rotary_oracles import ROUNDING, gap, make_factors
from torch import Tensor

from longrope.engine.decoding import prefill, read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.models import LanguageModel, rescaled

every_kind = pytest.mark.parametrize("kind", KINDS)
ORDER = (48, 64, 48, 65, 48, 160, 64, 65, 64, 160, 65, 160, 48)  # each length once after every other
IN_LAYERS = ("longrope in layers", "dynamic in layers")


@every_kind
@pytest.mark.parametrize("tile", [23, 1000])
def test_factors_of_one_and_their_neighbours_are_the_original(
    kind: str, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tiles, in every order of lengths: what was read before changes nothing."""
    set_tile(monkeypatch, tile, rows=1)
    model = make_model(kind)
    expected = {tokens: pass_by_hand(kind, tokens)[0] for tokens in LENGTHS}
    for tokens in ORDER:
        for excess in EXCESSES:
            factors = None if excess is None else factors_near_ones(model, tokens, excess)
            with rescaled(model, factors):
                found = token_losses(model, make_ids(tokens))[0]
            torch.testing.assert_close(found, expected[tokens], atol=2e-4, rtol=1e-4)


@every_kind
@pytest.mark.parametrize("tile", [23, 1000])
def test_a_cache_that_is_filled_in_pieces_is_one_pass(kind: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set is that of the planned length, in tiles and token by token, whichever length was read before."""
    set_tile(monkeypatch, tile, rows=1)
    model = make_model(kind)
    for planned in (*reversed(LENGTHS), *LENGTHS):
        text, whole = make_ids(planned)[0].numpy(), last_logits_by_hand(kind, planned)
        for excess in EXCESSES:
            factors = None if excess is None else factors_near_ones(model, planned, excess)
            cache = KeyValueCache(model, planned)
            with rescaled(model, factors):
                read_prompt(model, text[: planned - 3], cache)
                for at in range(planned - 3, planned):
                    logits = prefill(model, text[None, at : at + 1], cache)[0]
            assert gap(logits, whole) < 5 * ROUNDING, (planned, excess)


def gradient_of(model: LanguageModel, tokens: int, *, recompute: bool, inside: bool, excess: float | None) -> Tensor:
    """Of the mean loss by the embeddings; its backward pass runs within ``rescaled`` or after it has ended."""
    embedding = model.network.get_input_embeddings().weight.requires_grad_(True)
    embedding.grad = None
    factors = None if excess is None else factors_near_ones(model, tokens, excess)
    weights = np.full((1, tokens - 1), 1 / tokens)
    with rescaled(model, factors):
        loss = weighted_loss_with_graph(model, make_ids(tokens), weights, recompute=recompute)
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert embedding.grad is not None
    return embedding.grad  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["longrope", "dynamic", *IN_LAYERS])
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "after"])
def test_layers_are_recomputed_with_the_set_of_their_pass(kind: str, inside: bool) -> None:
    """Also those that call their rotary module themselves, when the pass is over and a longer text was read before."""
    model = make_model(kind)
    for tokens in (160, 65, 64, 100, 48):
        expected = pass_by_hand(kind, tokens)[1]
        for excess in EXCESSES:
            for recompute in (False, True):
                model.network(make_ids(200), use_cache=False)  # dynamic NTK remembers the longest sequence
                found = gradient_of(model, tokens, recompute=recompute, inside=inside, excess=excess)
                assert gap(found, expected) < 1e-3, (tokens, excess, recompute)


def test_layers_are_recomputed_with_the_factors_of_their_pass() -> None:
    """A backward pass after ``rescaled`` has ended gives the gradient of the rescaled model."""
    model = pico.make_model("moshi", ffn_dim=64)
    factors = make_factors(model.spec)
    embedding = model.network.get_input_embeddings().weight.requires_grad_(True)
    gradients = []
    for recompute in (False, True):
        embedding.grad = None
        with rescaled(model, factors):
            weights = np.full((1, 99), 0.01)
            loss = weighted_loss_with_graph(model, make_ids(100), weights, recompute=recompute)
        loss.backward()
        gradients.append(embedding.grad)
    assert gap(gradients[1], gradients[0]) < 1e-5
    assert not any("Rescaled" in type(module).__name__ for module in model.network.modules())
