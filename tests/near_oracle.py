"""Attention written out with an explicit matrix of relative positions: a softmax over all keys in float64.

Queries and keys are those of position 0, which no rotary embedding turns; each score is then turned by the relative
position of its own pair of tokens. No kernel, no part, no position of a single token.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

NAME = "explicit-positions"
Relative = Callable[[int, int], int]  # (query, key) -> relative position


def dca(chunk: int, local: int) -> Relative:
    """Dual chunk attention, case by case as its authors' code has it."""
    stride = chunk - local

    def relative(query: int, key: int) -> int:
        blocks = query // stride - key // stride
        if blocks == 0:
            return query % stride - key % stride
        return (min(query % stride + stride, chunk) if blocks == 1 else chunk) - key % stride

    return relative


def self_extend(window: int, group: int) -> Relative:
    """The distance within the window, by floors of both positions beyond it."""

    def relative(query: int, key: int) -> int:
        if query - key < window:
            return query - key
        return query // group + window - window // group - key // group

    return relative


def jet_long(near: int, group: int) -> Relative:
    """The distance up to the near one, it included, by floors of both positions beyond it."""
    return lambda query, key: query - key if query - key <= near else query // group - key // group


def matrix(relative: Relative, tokens: int) -> Tensor:
    """[N, N] relative positions of all pairs; those of later keys are 0."""
    rows = [[relative(q, k) if k <= q else 0 for k in range(tokens)] for q in range(tokens)]
    return torch.tensor(rows, dtype=torch.float64)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    rates: Tensor,
    *,
    scale: float,
    interleaved: bool = False,
    temperature: float = 1.0,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """[B, H, N, D] causal attention of queries and keys of position 0.

    Args:
        query: [B, H, N, D].
        key: [B, G, N, D].
        value: [B, G, N, D].
        positions: [N, N] relative ones.
        rates: [P] radians per token of the first 2 P entries.
        scale: of the scores.
        interleaved: whether the two entries of a pair are neighbours.
        temperature: multiplies what the rotated entries add to a score.
        window: how many keys a query sees.
        softcap: of the scores.
        sinks: [H] one logit more in each softmax.
    """
    owner = [head // (query.shape[1] // key.shape[1]) for head in range(query.shape[1])]
    query, key, value = query.double(), key[:, owner].double(), value[:, owner].double()
    width, positions = 2 * len(rates), positions.to(query.device)

    def numbers(x: Tensor) -> Tensor:
        x = x[..., :width]
        parts = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., : width // 2], x[..., width // 2 :])
        return torch.complex(*(part.contiguous() for part in parts))

    scores = query[..., width:] @ key[..., width:].mT
    for pair, rate in enumerate(rates.tolist()):
        product = numbers(query)[..., pair][..., :, None] * numbers(key)[..., pair].conj()[..., None, :]
        scores = scores + temperature * (product * torch.exp(1j * rate * positions)).real
    scores = scores * scale
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    places = torch.arange(scores.shape[-1], device=query.device)
    seen = places <= places[:, None]
    if window is not None:
        seen &= places > places[:, None] - window
    scores = scores.masked_fill(~seen, -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.double()[:, None, None].expand(*scores.shape[:3], 1)), dim=-1)
    return scores.softmax(-1)[..., : value.shape[2]] @ value


def log_probabilities(
    network: Any, tokens: Tensor, relative: Relative, *, interleaved: bool = False, temperature: float = 1.0
) -> Tensor:
    """[B, N, V] of a network with one rotary module, whose sliding layers keep distances.

    Args:
        network: of transformers.
        tokens: [B, N].
        relative: positions in the layers that see all tokens.
        interleaved: as in ``attend``.
        temperature: as in ``attend``, in these layers.
    """
    rates = network.base_model.rotary_emb.inv_freq.double()
    far, own = matrix(relative, tokens.shape[1]), matrix(lambda query, key: query - key, tokens.shape[1])

    def explicit(
        _: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        __: Any,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **___: Any,
    ) -> tuple[Tensor, None]:
        whole = sliding_window is None
        output = attend(
            *(query, key, value, far if whole else own, rates),
            scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
            interleaved=interleaved,
            temperature=temperature if whole else 1.0,
            window=sliding_window,
            softcap=softcap,
            sinks=s_aux,
        )
        return output.to(query.dtype).transpose(1, 2).contiguous(), None

    AttentionInterface.register(NAME, explicit)
    before, network.config._attn_implementation = network.config._attn_implementation, NAME
    try:
        zeros = torch.zeros_like(tokens)
        logits: Tensor = network(tokens, position_ids=zeros, use_cache=False).logits
        return logits.double().log_softmax(-1)
    finally:
        network.config._attn_implementation = before
