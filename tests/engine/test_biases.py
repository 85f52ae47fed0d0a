"""Doge: a term of each key is added to its scores, and queries keep the keys with the largest terms.

The oracle is transformers' own pass with its own masks. No token stands twice in a window: equal ones have equal terms,
and which of them is kept is no one's promise.
"""

from itertools import pairwise
from typing import Any

import families
import numpy as np
import pytest
import torch
from attending import eager_losses
from long_passes import set_scores, set_tile
from torch import Tensor

from longrope.engine.biases import attend_biased
from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.models import LanguageModel

RNG = torch.Generator().manual_seed(3)
TOKENS = torch.stack([1 + torch.randperm(319, generator=RNG)[:48] for _ in range(2)])
PIECES = (0, 5, 19, 20, 33, 34, 48)


def make_model(**changes: Any) -> LanguageModel:
    return families.make_model("doge", eager=True, **{"keep_window_size": 12, **changes})


@pytest.mark.parametrize("scores", [2**26, 1000])
@pytest.mark.parametrize("tile", [48, 7])
@pytest.mark.parametrize("changes", [{}, {"sliding_window": 9}, {"keep_window_size": 2048}])
def test_losses_are_transformers_own(
    changes: dict[str, Any], tile: int, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_scores(monkeypatch, scores)
    set_tile(monkeypatch, tile, rows=2)
    model = make_model(**changes)
    losses = token_losses(model, TOKENS).double()
    torch.testing.assert_close(losses, eager_losses(model.network, TOKENS), rtol=1e-5, atol=5e-5)


def test_terms_and_keeping_show_in_the_losses() -> None:
    """So that their absence is noticed by the tests of this file."""
    losses = eager_losses(make_model().network, TOKENS)
    assert (losses - eager_losses(make_model(keep_window_size=48).network, TOKENS)).abs().max() > 0.01
    flat = make_model()
    for name, weight in flat.network.named_parameters():
        if name.endswith(".A"):
            weight.data.zero_()
    assert (losses - eager_losses(flat.network, TOKENS)).abs().max() > 0.01


@pytest.mark.parametrize("recompute", [True, False])
def test_gradients_are_transformers_own(recompute: bool) -> None:
    """Of the embedding, and of what terms are made by."""
    model = make_model()
    wanted = [w for name, w in model.network.named_parameters() if name.endswith((".A", "embed_tokens.weight"))]
    for weight in wanted:
        weight.requires_grad_()
    ours = weighted_loss_with_graph(model, TOKENS, np.full((2, 47), 1 / 94), recompute=recompute)
    theirs = eager_losses(model.network, TOKENS).mean()
    for found, expected in zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(theirs, wanted), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_pieces_have_the_logits_of_the_whole() -> None:
    model = make_model()
    with torch.inference_mode():
        whole = model.network(TOKENS[:1], use_cache=False).logits[0, [end - 1 for end in PIECES[1:]]]
    cache = KeyValueCache(model, 48)
    found = [prefill(model, TOKENS[:1, begin:end], cache)[0] for begin, end in pairwise(PIECES)]
    torch.testing.assert_close(torch.stack(found), whole, rtol=1e-4, atol=1e-4)


def test_documents_keep_keys_of_their_own() -> None:
    """Each document of a window has the losses that it has alone."""
    model, starts = make_model(), (0, 5, 30)
    positions = torch.cat([torch.arange(b - a) for a, b in pairwise((*starts, 48))])
    losses = token_losses(model, TOKENS[:1], documents=(starts,), positions=positions[None])[0]
    for begin, end in pairwise((*starts, 48)):
        alone = eager_losses(model.network, TOKENS[:1, begin:end])[0]
        torch.testing.assert_close(losses[begin : end - 1].double(), alone, rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("window", [None, 9])
def test_attention_with_terms_is_that_of_one_query_after_the_other(window: int | None) -> None:
    made = [torch.randn(1, heads, n, 8, generator=RNG, dtype=torch.float64) for heads, n in ((4, 30), (2, 40), (2, 40))]
    query, key, value = made
    terms = torch.randn(1, 2, 40, generator=RNG, dtype=torch.float64)
    rows: list[Tensor] = []
    for head in range(4):
        for at in range(10, 40):
            seen = torch.arange(0 if window is None else max(0, at - window + 1), at + 1)
            own = terms[0, head // 2, seen]
            kept = seen[own.argsort(descending=True)[:7]]
            scores = key[0, head // 2, kept] @ query[0, head, at - 10] * 0.5 + terms[0, head // 2, kept]
            rows.append(scores.softmax(0) @ value[0, head // 2, kept])
    found = attend_biased(query, key, torch.cat((value, terms[..., None]), dim=3), scale=0.5, keep=7, window=window)
    torch.testing.assert_close(found, torch.stack(rows).view(1, 4, 30, 8))
