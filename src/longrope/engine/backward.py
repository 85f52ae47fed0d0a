"""Attention with gradients by kernels whose forward and backward passes torch's public attention does not join.

The gradients of attention to some of the keys follow from the output and the log-sum-exp over all of them: the share of
a key is exp(score - log-sum-exp), and the gradient of its score is share * (its part of the output's gradient - what
the whole output meets of it). So where a kernel cannot align the causal triangle, the prefix that all queries see and
the triangle have a backward pass each, with the merged output and log-sum-exp, as in ring attention
(https://arxiv.org/abs/2310.01889).

Shape legend: B = batch, H = query heads, G = key/value heads, Sq = queries, Sk = keys, D = head dimension.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

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
    gradient, output = (laid_out_as(query, x) for x in (gradient, output))
    unused = torch.zeros((), dtype=torch.int64, device=query.device)  # seeds of dropout
    ends = None, None, None, query.shape[2], key.shape[2]  # no bias, no documents
    found: tuple[Tensor, ...] = aten._scaled_dot_product_cudnn_attention_backward(  # noqa: SLF001
        gradient, query, key, value, output, lse[..., None], unused, unused, *ends, 0.0, causal, scale=scale
    )
    return found


def laid_out_as(query: Tensor, x: Tensor) -> Tensor:
    """The numbers of x [B, H, Sq, D] with the strides that torch gives to tensors made like the query.

    torch keeps what it builds for cuDNN by the strides of query, key and value alone: those of the output and of its
    gradient must follow from them, or a later call reads these wrongly.
    """
    return x if x.stride() == torch.empty_like(query, device="meta").stride() else torch.empty_like(query).copy_(x)


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
    found: tuple[Tensor, ...] = aten._scaled_dot_product_flash_attention_for_cpu_backward(  # noqa: SLF001
        gradient, *given, 0.0, causal, scale=scale
    )
    return found


# By the kernel's name: (gradient of the output, query, key, value, output, lse, *, causal, scale) -> their gradients
BACKWARDS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    CUDNN.name: _cudnn,
    FLASH.name: _flash,
    FLASH_WINDOWS.name: _flash,
    FLASH_4.name: _flash_4,
    CPU.name: _cpu,
}


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
    if query.shape[2] == 1:  # it sees all keys; cuDNN takes no triangle of one query and one key
        return partial_attention(kernel, query, key, value, causal=False, scale=scale)
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
    if query.shape[2] == 1:
        return back(gradient, query, key, value, output, lse, causal=False)
    cuts = (slice(None, prefix), False), (slice(prefix, None), True)
    found = [
        back(gradient, query, key[:, :, cut], value[:, :, cut], output, lse, causal=causal) for cut, causal in cuts
    ]
    keys, values = (torch.cat([part[at] for part in found], dim=2) for at in (1, 2))
    return found[0][0] + found[1][0], keys, values


@dataclass(frozen=True)
class KernelPair:
    """What works attention out forwards, and what backwards: any kernel's output and log-sum-exp serve any other."""

    forward: Kernel
    backward: Kernel


class KeptOutputs:
    """What attention gives in a layer that runs again for gradients: outputs and log-sum-exps, in their order.

    The last run takes them instead of working them out, and then they are kept no longer.
    """

    def __init__(self, *, keep: bool) -> None:
        """Keep nothing yet; from the first run on, or only from one that is made between the first and the last."""
        self._keep, self._takes = keep, False
        self._found, self._left = deque[tuple[Tensor, Tensor]](), list[tuple[Tensor, Tensor]]()

    def begin(self, *, last: bool, first: bool = False) -> None:
        """Begin a run of the layer."""
        self._keep, self._takes = self._keep or not first, last
        self._left = [] if last else list(reversed(self._found))

    def of(self, work: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """What attention gives, worked out unless it is known."""
        if self._takes and self._found:
            return self._found.popleft()
        if self._left:
            return self._left.pop()
        output, lse = work()
        if self._keep and not self._takes:
            self._found.append((output.detach(), lse))  # another tensor of the same numbers: this one gets a graph
        return output, lse


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        kernels: KernelPair,
        scale: float,
        masks: dict[str, Any],
        kept: KeptOutputs | None,
    ) -> Tensor:
        given = masks if sinks is None else {**masks, "sinks": sinks}
        work = partial(attend_aligned, kernels.forward, query, key, value, scale, **given)
        output, lse = kept.of(work) if kept else work()
        ctx.save_for_backward(query, key, value, sinks, output, lse)
        ctx.settings = kernels.backward, scale, masks
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        query, key, value, sinks, output, lse = ctx.saved_tensors
        kernel, scale, masks = ctx.settings
        masks = masks if sinks is None else {**masks, "sinks": sinks}
        found = backward_aligned(kernel, gradients[0], (query, key, value), output, lse, scale, **masks)
        of_sinks = found[3].to(sinks.dtype) if sinks is not None else None
        return *found[:3], of_sinks, None, None, None, None


def given_masks(window: int | None, softcap: float | None, sinks: Tensor | None) -> dict[str, Any]:
    """Those that there are, by the names by which a kernel takes them."""
    masks = {"window": window, "softcap": softcap, "sinks": sinks}
    return {name: x for name, x in masks.items() if x is not None}


def attend_with_backward(
    kernels: KernelPair,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    kept: KeptOutputs | None = None,
) -> Tensor:
    """Causal attention [B, H, Sq, D] by a kernel and a backward pass of this module, with or without a graph.

    Args:
        kernels: the second one of ``BACKWARDS``.
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D].
        scale: of the scores.
        window: how many positions a query sees, its own included. This and the rest for kernels with ``masks`` alone.
        softcap: scores become softcap * tanh(score / softcap).
        sinks: [H] logits of the sinks.
        kept: what was given in the layer's first run, or is to be kept for its second.
    """
    masks = given_masks(window, softcap, None)
    output: Tensor = _Attention.apply(query, key, value, sinks, kernels, scale, masks, kept)  # type: ignore[no-untyped-call]
    return output
