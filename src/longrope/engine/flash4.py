"""FlashAttention 4 (flash-attn-4, the extra ``fa4``): forward and backward, with windows, soft caps and sinks.

Its own autograd function is not seen by torch's dispatcher, so that recomputation could not keep what it gives. Here
forward and backward are called apart; ``engine.backward`` makes one operation of torch of them. For the backward pass
the package has no public function.

Shape legend: B = batch, H = query heads, G = key/value heads, Sq = queries, Sk = keys, D = head dimension.
Source: https://github.com/Dao-AILab/flash-attention (flash_attn/cute).
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

INTERFACE = "flash_attn.cute.interface"


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention in bfloat16 or float16 with heads of 8 to 256 on GPUs of compute capability 9.0 or later.

    Args:
        query: [B, H, Sq, D]; if causal, at the last positions of the keys.
        key: [B, G, Sk, D], G a divisor of H.
        value: [B, G, Sk, D].
        causal: query i sees the keys up to Sk - Sq + i; otherwise all.
        scale: of the scores.
        window: how many positions a causal query sees, its own included; None for all before it.
        softcap: scores become softcap * tanh(score / softcap).
        sinks: [H] logits of the sinks.

    Returns:
        Output [B, H, Sq, D] and log-sum-exp [B, H, Sq] in nats, float32, with the sinks in it.

    Raises:
        RuntimeError: it takes no such shape or numbers, or does not compile here.
    """
    with torch.no_grad():
        output, lse = _call(
            "flash_attn_func",
            *_tokens_first(query, key, value),
            softmax_scale=scale,
            causal=causal,
            window_size=_window_sizes(window),
            softcap=softcap or 0.0,
            learnable_sink=sinks,
            return_lse=True,
        )
    return output.transpose(1, 2), lse


def backward(
    gradient: Tensor,
    *given: Tensor,
    causal: bool,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of queries, keys and values, and of the sinks if there are any, from that of the output.

    Args:
        gradient: [B, H, Sq, D] of the output.
        given: query, key and value, output and log-sum-exp; the latter two of all keys, of which these may be a part.
        causal: as ``attend`` was given it, and so what follows.
        scale: as above.
        window: as above.
        softcap: as above.
        sinks: as above.

    Raises:
        RuntimeError: as ``attend``.
    """
    *vectors, lse = given
    left, right = _window_sizes(window)
    found = _call(
        "_flash_attn_bwd",
        *_tokens_first(*vectors, gradient),
        lse,
        softmax_scale=scale,
        causal=causal,
        softcap=softcap or 0.0,
        window_size_left=left,
        window_size_right=right,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        learnable_sink=sinks,
    )
    return (*_tokens_first(*found[:3]), *found[3:])


def _tokens_first(*vectors: Tensor) -> list[Tensor]:
    """[B, S, H, D] from [B, H, S, D], and the other way round."""
    return [x.transpose(1, 2) for x in vectors]


def _window_sizes(window: int | None) -> tuple[int | None, int | None]:
    """How many positions before and after its own a query sees; None for no limit but causality."""
    return (None, None) if window is None else (window - 1, 0)


def _call(name: str, *given: Tensor, **settings: Any) -> Any:
    """Call a function of the package by its name.

    Raises:
        RuntimeError: it fails, in whichever way; or the package does not have it.
    """
    try:
        function: Callable[..., Any] = getattr(import_module(INTERFACE), name)
        with torch.cuda.device_of(given[0]):
            return function(*given, **settings)
    except RuntimeError:
        raise
    except Exception as error:  # assertions, its compiler's own: another kernel can be taken
        raise RuntimeError(f"{name} fails: {type(error).__name__}: {error}") from error
