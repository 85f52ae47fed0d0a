"""Causal attention for gradients, by the kernel with the fastest ones or by torch's public attention.

Shape legend: B = batch, H = query heads, G = key/value heads, Sq = queries, Sk = keys, D = head dimension.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from longrope.engine.backward import KeptOutputs, attend_with_backward
from longrope.engine.kernels import EFFICIENT, FLASH, Heads, Kernel
from longrope.engine.trials import choose_for_gradients

FEWEST_TOKENS = 256  # of whole sequences on a GPU: torch's public attention knows which kernels take shorter ones


def attend_with_sink_key(
    attention: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, scale: float, sinks: Tensor
) -> Tensor:
    """Attention with sinks as the scores of a first key, of value zero, which each query sees.

    Vectors grow by as many entries as kernels align them to. In the first of these a query has sink / scale, the first
    key 1 and all others 0.
    """
    added, dim, queries = 8, query.shape[3], query.shape[2]
    logits = (sinks / scale).to(query.dtype)[:, None, None].expand(*query.shape[:3], 1)
    query = functional.pad(torch.cat((query, logits), dim=3), (0, added - 1))
    key, value = (functional.pad(x, (0, added, 1, 0)) for x in (key, value))
    first = functional.one_hot(torch.tensor(dim, device=key.device), dim + added).to(key.dtype)
    key = torch.cat((first.expand_as(key[:, :, :1]), key[:, :, 1:]), dim=2)
    if queries == key.shape[2] - 1:  # one more query keeps the square, which all kernels take
        query = functional.pad(query, (0, 0, 1, 0))
    return attention(query, key, value, scale)[:, :, -queries:, :dim]


def attend_with_graph(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, scale: float, kept: KeptOutputs | None = None
) -> Tensor:
    """Causal attention [B, H, Sq, D] for gradients: by the fastest kernels both ways, or by torch's own attention.

    Args:
        kernel: names which of torch's is taken first where none has a backward pass here.
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D].
        scale: of the scores.
        kept: as in ``attend_with_backward``; torch's own attention keeps nothing there.
    """
    whole, heads = query.shape[2] == key.shape[2], Heads(query.shape[1], key.shape[1], query.shape[3])
    fastest, _ = choose_for_gradients(query.device, query.dtype, heads, whole=whole)
    if fastest is not None and not (whole and query.is_cuda and query.shape[2] < FEWEST_TOKENS):
        return attend_with_backward(fastest, query, key, value, scale=scale, kept=kept)
    if not kernel.groups:
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
    attention = partial(
        functional.scaled_dot_product_attention,
        query,
        key,
        value,
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    order = [kernel.backend, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]  # none holds all scores
    if whole:
        with sdpa_kernel(order, set_priority=True) if query.is_cuda else nullcontext():
            return attention(is_causal=True)
    if query.is_cuda:
        aligned = EFFICIENT if kernel is EFFICIENT else FLASH  # these align, and have gradients
        return aligned.run(query, key, value, causal=True, scale=scale)[0]
    seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    return attention(attn_mask=seen.tril(key.shape[2] - query.shape[2]))
