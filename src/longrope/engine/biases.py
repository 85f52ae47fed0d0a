"""Layers whose scores have a term of each key, by which queries keep the best keys (Doge).

transformers makes a mask of these terms for each pair of tokens. Here they are handed to attention as one more column
of the values, so that they are cut, kept and shared with them, and masks are made for a block of queries at a time.
Equal tokens have equal terms in the first layer; which of them a query keeps where it cannot keep all is torch's
choice, there as here.

Shape legend: B = batch, H = query heads, G = key/value heads, n = tokens at hand, Sq = queries, Sk = keys, D = head
dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from longrope.engine.attention import SCORES_PER_BLOCK, takes_gradients
from longrope.engine.masks import Sight


@dataclass
class KeyBias:
    """What a layer adds to the scores of its keys.

    Attributes:
        terms: [B, G, n] of the tokens at hand.
        keep: how many keys a query keeps, of those with the largest terms.
        sight: how far a query sees.
    """

    terms: Tensor
    keep: int
    sight: Sight


def adapt_biases(network: Any, hand_over: Callable[[KeyBias], None]) -> dict[Any, Callable[..., Any]]:
    """Other forwards of the layers' attention that hand over what they would make a mask of; none for most families."""
    if network.config.model_type != "doge":
        return {}
    modules = [module for module in network.modules() if type(module).__name__ == "DogeAttention"]
    return {module: partial(_run, module, module.forward, hand_over) for module in modules}


def _run(
    module: Any, forward: Callable[..., Any], hand_over: Callable[[KeyBias], None], *args: Any, **given: Any
) -> Any:
    def make_no_mask(*, dt_states: Tensor, keep_window_size: int, attention_mask: Sight | None, **_: Any) -> Tensor:
        hand_over(KeyBias(dt_states, keep_window_size, attention_mask or Sight()))
        return dt_states.new_zeros(*dt_states.shape[:2], 1, 1)

    module.__dict__["prepare_dynamic_mask"] = make_no_mask
    try:
        return forward(*args, **given)
    finally:
        del module.__dict__["prepare_dynamic_mask"]


def attend_biased(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, keep: int, window: int | None = None
) -> Tensor:
    """Causal attention with a term of each key, block by block of queries; blocks are recomputed for gradients.

    Args:
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D + 1] with the term of its key in the last column.
        scale: of the scores, to which terms are added.
        keep: how many keys a query keeps of those that it sees: those with the largest terms.
        window: how many positions a query sees, its own included; None for all before it.

    Returns:
        [B, H, Sq, D].
    """
    heads, tokens, before = query.shape[1], query.shape[2], key.shape[2] - query.shape[2]
    rows = max(1, SCORES_PER_BLOCK // (query.shape[0] * heads * key.shape[2]))
    graph = takes_gradients(query, key, value)

    def work(asked: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = _block_bias(value[..., -1], asked.shape[2], keep, window).to(asked.dtype)
        groups = heads // key.shape[1]
        key, value, bias = (x.repeat_interleave(groups, dim=1) for x in (key, value[..., :-1], bias))
        return functional.scaled_dot_product_attention(asked, key, value, attn_mask=bias, scale=scale)

    outputs = []
    for first in range(0, tokens, rows):
        cut = slice(first, min(first + rows, tokens))
        block = (query[:, :, cut], *(x[:, :, : before + cut.stop] for x in (key, value)))
        outputs.append(checkpoint(work, *block, use_reentrant=False) if graph else work(*block))
    return torch.cat(outputs, dim=2)


def _block_bias(terms: Tensor, queries: int, keep: int, window: int | None) -> Tensor:
    """[B, G, q, Sk] what is added to the scores of the last queries: the terms [B, G, Sk], or -inf."""
    places = torch.arange(terms.shape[-1], device=terms.device)
    own = places[-queries:, None]
    seen = places <= own if window is None else (places <= own) & (places > own - window)
    bias = terms[:, :, None].masked_fill(~seen, -torch.inf)
    if terms.shape[-1] <= keep:
        return bias
    kept = torch.zeros_like(bias, dtype=torch.bool).scatter_(3, bias.topk(keep, dim=-1).indices, value=True)
    return bias.masked_fill(~kept, -torch.inf)
