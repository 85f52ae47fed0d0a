"""Attention with gradients by kernels whose forward and backward passes torch's public attention does not join.

The gradients of attention to some of the keys follow from the output and the log-sum-exp over all of them: the share of
a key is exp(score - log-sum-exp), and the gradient of its score is share * (its part of the output's gradient - what
the whole output meets of it). So where a kernel cannot align the causal triangle, the prefix that all queries see and
the triangle have a backward pass each, with the merged output and log-sum-exp, as in ring attention
(https://arxiv.org/abs/2310.01889).

Shape legend: B = batch, H = query heads, G = key/value heads, Sq = queries, Sk = keys, D = head dimension.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from longrope.engine.kernels import (
    CPU,
    CUDNN,
    FLASH,
    FLASH_4,
    FLASH_WINDOWS,
    Kernel,
    aten,
    partial_attention,
)
from longrope.engine.merging import merge


def _cudnn(gradient: Tensor, *given: Tensor, causal: bool, scale: float) -> tuple[Tensor, ...]:
    query, key, value, output, lse = given
    unused = torch.zeros((), dtype=torch.int64, device=query.device)  # seeds of dropout
    ends = None, None, None, query.shape[2], key.shape[2]  # no bias, no documents
    found: tuple[Tensor, ...] = aten._scaled_dot_product_cudnn_attention_backward(  # noqa: SLF001
        gradient, query, key, value, output, lse[..., None], unused, unused, *ends, 0.0, causal, scale=scale
    )
    return found


def _flash(
    gradient: Tensor, *given: Tensor, causal: bool, scale: float, window: int | None = None
) -> tuple[Tensor, ...]:
    query, key, value, output, lse = given
    unused = torch.zeros(2, dtype=torch.int64, device=query.device)  # seeds of dropout
    sizes = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    tokens_first = [x.transpose(1, 2) for x in (gradient, query, key, value, output)]
    ends = None, None, query.shape[2], key.shape[2]  # no documents
    found = aten._flash_attention_backward(  # noqa: SLF001
        *tokens_first, lse, *ends, 0.0, causal, unused, unused, scale=scale, **sizes
    )
    return tuple(x.transpose(1, 2) for x in found)


def _flash_4(*given: Tensor, **settings: Any) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = import_module("longrope.engine.flash4").backward(*given, **settings)
    return found


def _cpu(gradient: Tensor, *given: Tensor, causal: bool, scale: float) -> tuple[Tensor, ...]:
    query, key, value, output, lse = given
    groups = query.shape[1] // key.shape[1]
    wide = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    found = aten._scaled_dot_product_flash_attention_for_cpu_backward(  # noqa: SLF001
        gradient, query, *wide, output, lse, 0.0, causal, scale=scale
    )
    return (found[0], *(x.unflatten(1, (-1, groups)).sum(2) for x in found[1:3]))


# By the kernel's name: (gradient of the output, query, key, value, output, lse, *, causal, scale) -> their gradients
BACKWARDS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    CUDNN.name: _cudnn,
    FLASH.name: _flash,
    FLASH_WINDOWS.name: _flash,
    FLASH_4.name: _flash_4,
    CPU.name: _cpu,
}
KERNELS = {kernel.name: kernel for kernel in (CUDNN, FLASH, FLASH_WINDOWS, FLASH_4, CPU)}


def attend_aligned(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, scale: float, **masks: Any
) -> tuple[Tensor, Tensor]:
    """Causal attention without gradients, queries at the last positions of the keys, and its log-sum-exp.

    ``masks`` are a window, a soft cap and sinks for a kernel that takes them.
    """
    prefix = key.shape[2] - query.shape[2]
    if masks:
        return kernel.run(query, key, value, causal=True, scale=scale, **masks)
    if not prefix or kernel.aligns:
        return partial_attention(kernel, query, key, value, causal=True, scale=scale)
    before = partial_attention(kernel, query, key[:, :, :prefix], value[:, :, :prefix], causal=False, scale=scale)
    own = partial_attention(kernel, query, key[:, :, prefix:], value[:, :, prefix:], causal=True, scale=scale)
    return merge(before, own), torch.logaddexp(before[1], own[1])


def backward_aligned(
    kernel: Kernel,
    gradient: Tensor,
    given: Sequence[Tensor],
    output: Tensor,
    lse: Tensor,
    scale: float,
    **masks: Any,
) -> tuple[Tensor, ...]:
    """Gradients for ``attend_aligned`` of queries, keys, values and, if they are given, sinks."""
    query, key, value = given
    prefix, back = key.shape[2] - query.shape[2], partial(BACKWARDS[kernel.name], scale=scale, **masks)
    if not prefix or kernel.aligns:
        return back(gradient, query, key, value, output, lse, causal=True)
    cuts = (slice(None, prefix), False), (slice(prefix, None), True)
    found = [
        back(gradient, query, key[:, :, cut], value[:, :, cut], output, lse, causal=causal) for cut, causal in cuts
    ]
    keys, values = (torch.cat([part[at] for part in found], dim=2) for at in (1, 2))
    return found[0][0] + found[1][0], keys, values


# Attention as one operation of torch, whose output recomputation can keep.


@custom_op(
    "longrope::attention",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value, Tensor? sinks, str kernel, float scale, int? window, "
    "float? softcap) -> (Tensor, Tensor)",
)
def attention_operation(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    kernel: str,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """``attend_aligned`` by a kernel's name: output [B, H, Sq, D] and log-sum-exp [B, H, Sq]."""
    return attend_aligned(KERNELS[kernel], query, key, value, scale, **given_masks(window, softcap, sinks))


def given_masks(window: int | None, softcap: float | None, sinks: Tensor | None) -> dict[str, Any]:
    """Those that there are, by the names by which a kernel takes them."""
    masks = {"window": window, "softcap": softcap, "sinks": sinks}
    return {name: x for name, x in masks.items() if x is not None}


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, sinks, *ctx.settings = inputs
    ctx.save_for_backward(query, key, value, sinks, *output)
    ctx.mark_non_differentiable(output[1])


def _give_back(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Any, ...]:
    *given, sinks, output, lse = ctx.saved_tensors
    kernel, scale, window, softcap = ctx.settings
    masks = given_masks(window, softcap, sinks)
    found = backward_aligned(KERNELS[kernel], gradient, given, output, lse, scale, **masks)
    of_sinks = found[3].to(sinks.dtype) if sinks is not None else None
    return *found[:3], of_sinks, None, None, None, None


attention_operation.register_autograd(_give_back, setup_context=_keep)
OPERATION = torch.ops.longrope.attention.default


def attend_with_backward(
    kernel: Kernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention [B, H, Sq, D] by a kernel that has a backward pass here, with or without a graph.

    Args:
        kernel: one of ``KERNELS``.
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D].
        scale: of the scores.
        window: how many positions a query sees, its own included. This and the rest for kernels with ``masks`` alone.
        softcap: scores become softcap * tanh(score / softcap).
        sinks: [H] logits of the sinks.
    """
    output: Tensor = attention_operation(query, key, value, sinks, kernel.name, scale, window, softcap)[0]
    return output
