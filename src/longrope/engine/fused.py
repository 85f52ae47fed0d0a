"""Norms and rotary embeddings on a GPU by one reading of their inputs, forwards and backwards (Triton).

transformers works them out by half a dozen operations each, in float32, every one of which reads and writes tensors of
the size of the hidden states. As there, sums and products are float32's; what is between them is rounded less often.

Shape legend: T = tokens of all rows, H = hidden size, B = rows, P = heads, N = tokens, D = head dimension.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl

ROWS = 32  # of a block of the norm's backward pass, whose gradients of the weight are added up there


@triton.jit
def _norm_forward(x, weight, out, scales, width, eps, size: tl.constexpr):
    """One row: x / sqrt(mean(x^2) + eps), rounded to its own format, times the weight; and the first factor."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, size)
    inside = at < width
    values = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / width + eps)
    normed = (values * scale).to(x.dtype.element_ty).to(tl.float32)
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (normed * factor).to(out.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale)


@triton.jit
def _norm_backward(given, x, weight, scales, by_x, by_weight, rows, width, size: tl.constexpr, block: tl.constexpr):
    """The gradients of some rows, and the sum of theirs of the weight."""
    first = tl.program_id(0).to(tl.int64) * block
    at = tl.arange(0, size)
    inside = at < width
    factor = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((size,), dtype=tl.float32)
    for i in range(block):
        row = first + i
        mask = inside & (row < rows)
        toward = tl.load(given + row * width + at, mask=mask, other=0.0).to(tl.float32)
        values = tl.load(x + row * width + at, mask=mask, other=0.0).to(tl.float32)
        scale = tl.load(scales + row, mask=row < rows, other=0.0)
        normed = values * scale
        total += toward * normed
        toward = toward * factor
        shared = tl.sum(toward * normed, 0) / width
        tl.store(by_x + row * width + at, (scale * (toward - normed * shared)).to(by_x.dtype.element_ty), mask=mask)
    tl.store(by_weight + tl.program_id(0) * width + at, total, mask=inside)


def fused_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last dimension.

    Args:
        x: [..., H], whose quotient is rounded to its format before the product.
        weight: [H].
        eps: added to the mean.

    Returns:
        [..., H] in the format to which torch promotes both.
    """
    found: Tensor = _Norm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return found


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        width, given = x.shape[-1], x.contiguous()
        rows = given.numel() // width
        out = torch.empty(given.shape, dtype=torch.promote_types(x.dtype, weight.dtype), device=x.device)
        scales = torch.empty(rows, device=x.device)
        size = triton.next_power_of_2(width)
        _norm_forward[(rows,)](given, weight, out, scales, width, eps, size=size, num_warps=_warps(size))
        ctx.save_for_backward(given, weight, scales)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scales = ctx.saved_tensors
        width, rows, toward = x.shape[-1], len(scales), gradients[0].contiguous()
        blocks, size = triton.cdiv(rows, ROWS), triton.next_power_of_2(width)
        by_x, by_weight = torch.empty_like(x), torch.empty((blocks, width), device=x.device)
        given = toward, x, weight, scales, by_x, by_weight, rows, width
        _norm_backward[(blocks,)](*given, size=size, block=ROWS, num_warps=_warps(size))
        return by_x, by_weight.sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None, None


def _warps(size: int) -> int:
    return min(16, max(1, size // 256))


@triton.jit
def _rotate(x, cos, sin, out, tokens, heads, cos_rows, x_row, x_head, x_token, half: tl.constexpr,
            size: tl.constexpr, count: tl.constexpr, back: tl.constexpr):  # fmt: skip
    """All heads of one token: (x1 cos1 - x2 sin1, x2 cos2 + x1 sin2); backwards the transposed of that."""
    place = tl.program_id(0).to(tl.int64)
    row, token = place // tokens, place % tokens
    head, at = tl.arange(0, count)[:, None], tl.arange(0, size)[None]
    mask = (head < heads) & (at < half)
    begin = x + row * x_row + token * x_token + head * x_head + at
    one = tl.load(begin, mask=mask, other=0.0).to(tl.float32)
    two = tl.load(begin + half, mask=mask, other=0.0).to(tl.float32)
    turn = ((row % cos_rows) * tokens + token) * (2 * half) + tl.arange(0, size)
    inside = tl.arange(0, size) < half
    cos1 = tl.load(cos + turn, mask=inside, other=0.0).to(tl.float32)[None]
    cos2 = tl.load(cos + turn + half, mask=inside, other=0.0).to(tl.float32)[None]
    sin1 = tl.load(sin + turn, mask=inside, other=0.0).to(tl.float32)[None]
    sin2 = tl.load(sin + turn + half, mask=inside, other=0.0).to(tl.float32)[None]
    if back:
        first, second = one * cos1 + two * sin2, two * cos2 - one * sin1
    else:
        first, second = one * cos1 - two * sin1, two * cos2 + one * sin2
    goal = out + (place * heads + head) * (2 * half) + at
    tl.store(goal, first.to(out.dtype.element_ty), mask=mask)
    tl.store(goal + half, second.to(out.dtype.element_ty), mask=mask)


def fused_rotation(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """x cos + rotated_half(x) sin, whose gradients go to x alone.

    Args:
        x: [B, P, N, D].
        cos: [B or 1, N, D].
        sin: as cos.
        dtype: of the output.

    Returns:
        [B, P, N, D], in memory [B, N, P, D].
    """
    found: Tensor = _Rotation.apply(x, cos, sin, dtype)  # type: ignore[no-untyped-call]
    return found


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        cos, sin = cos.contiguous(), sin.contiguous()
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotated(x, cos, sin, dtype, back=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradients[0], cos, sin, ctx.dtype, back=True), None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype, *, back: bool) -> Tensor:
    rows, heads, tokens, dim = x.shape
    x = x if x.stride(3) == 1 else x.contiguous()
    out = torch.empty((rows, tokens, heads, dim), dtype=dtype, device=x.device)
    sizes = tokens, heads, len(cos), x.stride(0), x.stride(1), x.stride(2)
    blocks = {"half": dim // 2, "size": triton.next_power_of_2(dim // 2), "count": triton.next_power_of_2(heads)}
    _rotate[(rows * tokens,)](x, cos, sin, out, *sizes, **blocks, back=back, num_warps=2)
    return out.transpose(1, 2)
