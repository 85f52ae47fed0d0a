"""The losses of logits on a GPU by one reading of them: float32 exists in registers alone.

torch's cross entropy takes bfloat16 logits into float32 first and writes their logarithms: twelve bytes more of traffic
for each number of two, which costs as much as the layers where a vocabulary is large. Triton comes with torch for GPUs.

Shape legend: B = batch, n = tokens, V = vocabulary.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl

BLOCK = 8192  # logits of a row that are read at once


@triton.jit
def _row_losses(logits, targets, losses, vocabulary, stride, size: tl.constexpr):
    """The loss of one row: the logarithm of the running sum of exponentials, less the target's logit."""
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
    tl.store(losses + row, tl.log(total) + highest - target)


def fused_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """[B, n] float32 nats of targets [B, n], given logits [B, n, V] of any float format, without a graph."""
    rows = logits.flatten(0, -2)
    if rows.stride(1) != 1:
        rows = rows.contiguous()
    losses = torch.empty(rows.shape[0], device=logits.device)
    _row_losses[(rows.shape[0],)](
        rows, targets.flatten().contiguous(), losses, rows.shape[1], rows.stride(0), size=BLOCK, num_warps=8
    )
    return losses.view(targets.shape)
