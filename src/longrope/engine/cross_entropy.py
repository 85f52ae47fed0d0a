"""The losses of logits on a GPU, and their gradients, by one reading of them each: float32 is in registers alone.

torch's cross entropy takes bfloat16 logits into float32 first and writes their logarithms: twelve bytes more of traffic
for each number of two, which costs as much as the layers where a vocabulary is large. Triton comes with torch for GPUs.

Shape legend: B = batch, n = tokens, V = vocabulary.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl

BLOCK = 8192  # logits of a row that are read at once


@triton.jit
def _row_losses(logits, targets, losses, sums, vocabulary, stride, size: tl.constexpr):
    """The loss of one row, the logarithm of the running sum of exponentials less the target's logit; and the former."""
    row = tl.program_id(0).to(tl.int64)
    begin = logits + row * stride
    highest, total = -3.0e38, 0.0  # finite: a block of -inf leaves the sum at zero
    for first in range(0, vocabulary, size):
        at = first + tl.arange(0, size)
        values = tl.load(begin + at, mask=at < vocabulary, other=float("-inf")).to(tl.float32)
        above = tl.maximum(highest, tl.max(values, 0))
        total = total * tl.exp(highest - above) + tl.sum(tl.exp(values - above), 0)
        highest = above
    target = tl.load(begin + tl.load(targets + row)).to(tl.float32)
    tl.store(sums + row, tl.log(total) + highest)
    tl.store(losses + row, tl.log(total) + highest - target)


@triton.jit
def _row_gradients(logits, targets, sums, given, gradients, vocabulary, stride, size: tl.constexpr):
    """The gradient by one block of a row's logits: the shares of their exponentials, less one at the target."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * size + tl.arange(0, size)
    inside = at < vocabulary
    values = tl.load(logits + row * stride + at, mask=inside, other=float("-inf")).to(tl.float32)
    shares = tl.exp(values - tl.load(sums + row)) - tl.where(at == tl.load(targets + row), 1.0, 0.0)
    by_logits = (shares * tl.load(given + row)).to(gradients.dtype.element_ty)
    tl.store(gradients + row * vocabulary + at, by_logits, mask=inside)


def fused_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """[B, n] float32 nats of targets [B, n], given logits [B, n, V] of any float format."""
    found: Tensor = _Losses.apply(logits, targets)  # type: ignore[no-untyped-call]
    return found


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        rows, wanted = logits.flatten(0, -2), targets.flatten().contiguous()
        if rows.stride(1) != 1:
            rows = rows.contiguous()
        losses, sums = (torch.empty(rows.shape[0], device=logits.device) for _ in range(2))
        _row_losses[(rows.shape[0],)](
            rows, wanted, losses, sums, rows.shape[1], rows.stride(0), size=BLOCK, num_warps=8
        )
        ctx.save_for_backward(rows, wanted, sums)
        ctx.shape = logits.shape
        return losses.view(targets.shape)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None]:
        rows, targets, sums = ctx.saved_tensors
        gradients = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
        grid = rows.shape[0], triton.cdiv(rows.shape[1], BLOCK)
        of_losses = given[0].flatten().contiguous()
        _row_gradients[grid](
            rows, targets, sums, of_losses, gradients, rows.shape[1], rows.stride(0), size=BLOCK, num_warps=8
        )
        return gradients.view(ctx.shape), None
