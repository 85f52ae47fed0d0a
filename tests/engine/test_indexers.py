"""Layers that see the tokens alone that an indexer chooses: the choice, and attention to it.

The oracle is transformers' own pass with its own masks; tests/engine/test_attending.py takes these families through
tiles, caches, gradients and processes that share windows.
"""

from itertools import pairwise

import families
import pytest
import torch
from attending import TOKENS, as_model, eager_losses, make_network
from long_passes import set_scores
from torch import Tensor
from transformers import CONFIG_MAPPING

from longrope.engine.attention import attend_chosen
from longrope.engine.indexers import INDEXERS, BlockIndexer, PooledIndexer, TokenIndexer
from longrope.engine.masks import Sight
from longrope.engine.passes import token_losses

INDEXED = [family for family in INDEXERS if family in CONFIG_MAPPING]  # older versions do not know all of them
WIDE = {  # as many tokens as the windows have
    **{family: {"index_topk": 48} for family in INDEXED},
    "minimax_m3_vl_text": {"index_topk_blocks": 12},
    "qwen4_exp_text": {"indexer_budget": 48},
}


@pytest.mark.parametrize("scores", [2**26, 4000])
@pytest.mark.parametrize("family", INDEXED)
def test_the_choice_is_the_indexers_own(family: str, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all queries at once, and for blocks of a few of them."""
    set_scores(monkeypatch, scores)
    model = families.make_model(family, eager=True)
    losses = token_losses(model, TOKENS).double()
    torch.testing.assert_close(losses, eager_losses(model.network), rtol=1e-5, atol=5e-5)
    plain = eager_losses(families.make_model(family, eager=True, **WIDE[family]).network)
    assert (plain - losses).abs().max() > 0.01  # so that a pass without a choice would be seen above


@pytest.mark.parametrize("family", INDEXED)
def test_nothing_is_scored_where_all_tokens_are_chosen(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, name in ((TokenIndexer, "choose"), (BlockIndexer, "choose"), (PooledIndexer, "_choose")):
        monkeypatch.setattr(kind, name, None)
    model = families.make_model(family, eager=True, **WIDE[family])
    losses = token_losses(model, TOKENS).double()
    torch.testing.assert_close(losses, eager_losses(model.network), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("family", ["deepseek_v32", "glm_moe_dsa", "minimax_m3_vl_text"])
def test_documents_choose_among_their_own_tokens(family: str) -> None:
    """Each document of a window has the losses that it has alone."""
    model, starts = as_model(make_network(family)), (0, 5, 30)
    ends = (*starts[1:], 48)
    positions = torch.cat([torch.arange(end - start) for start, end in zip(starts, ends, strict=True)])
    losses = token_losses(model, TOKENS[:1], documents=(starts,), positions=positions[None])[0]
    for begin, end in pairwise((*starts, 48)):
        alone = eager_losses(model.network, TOKENS[:1, begin:end])[0]
        torch.testing.assert_close(losses[begin : end - 1].double(), alone, rtol=1e-5, atol=5e-5)


def test_pooled_blocks_are_those_of_a_query_by_query_choice() -> None:
    """Qwen4's own forward goes through the queries one by one; so do queries that follow others."""
    network = families.build_network("qwen4_exp_text")
    module = next(module for module in network.modules() if type(module).__name__.endswith("Indexer"))
    hidden = torch.randn(2, 48, 64, generator=torch.Generator().manual_seed(1))
    places = torch.arange(48)
    turns = network.model.rotary_emb(hidden, places.expand(3, 2, -1))
    seen = (places <= places[:, None]).expand(2, 1, -1, -1)
    wanted = module(hidden, turns, seen, None)[:, 0]
    found = PooledIndexer(module, None).run(hidden, turns, Sight(), None).chosen  # type: ignore[arg-type]
    assert torch.equal(torch.zeros(2, 48, 48, dtype=torch.bool).scatter_(2, found.long(), value=True), wanted)


@pytest.mark.parametrize("shape", [(2, 30, 5), (2, 2, 30, 5)])
def test_attention_to_chosen_keys_is_that_of_a_mask(shape: tuple[int, ...]) -> None:
    """With its gradients, sinks and all, in one block and in many."""
    rng = torch.Generator().manual_seed(2)
    made = [
        torch.randn(2, heads, tokens, 8, generator=rng, dtype=torch.float64) for heads, tokens in ((4, 30), (2, 40))
    ]
    query, key, value = (x.requires_grad_() for x in (*made, made[1].flip(2).clone()))
    sinks = torch.randn(4, generator=rng, dtype=torch.float64, requires_grad=True)
    ends = torch.arange(11, 41)[:, None]
    chosen = (torch.rand(shape, generator=rng) * ends).int()
    slope = torch.randn(2, 4, 30, 8, generator=rng, dtype=torch.float64)
    expected = _by_a_mask(
        query, key, value, chosen if len(shape) == 4 else chosen[:, None].expand(-1, 2, -1, -1), sinks
    )
    slopes = torch.autograd.grad(expected, (query, key, value, sinks), slope)
    for most in (2**26, 2000):
        found = attend_chosen(query, key, value, chosen=chosen, scale=0.5, sinks=sinks, most_scores=most)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, (query, key, value, sinks), slope), slopes)


def _by_a_mask(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, sinks: Tensor) -> Tensor:
    """One query head and one query after the other."""
    rows = []
    for batch in range(2):
        for head in range(4):
            for at in range(30):
                seen = sorted(set(chosen[batch, head // 2, at].tolist()))
                scores = key[batch, head // 2, seen] @ query[batch, head, at] * 0.5
                shares = torch.cat((scores, sinks[head][None])).softmax(0)[:-1]
                rows.append(shares @ value[batch, head // 2, seen])
    return torch.stack(rows).view(2, 4, 30, 8)
