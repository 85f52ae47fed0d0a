"""A brute-force softmax in float64 that knows no kernel, no group and no block, with inputs and cases for it."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from longrope.engine import attention
from longrope.engine.kernels import Kernel

SCALE = 0.3
HEADS = {"grouped": (4, 2), "one key head": (4, 1), "as many key heads": (3, 3)}
LENGTHS = {
    "whole": (37, 37),
    "tail": (5, 37),
    "half": (18, 36),
    "all but one": (36, 37),
    "one": (1, 37),
    "first": (1, 1),
}
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
every_head = pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
every_length = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")


def assert_right(given: Tensor, expected: Tensor, tolerance: float = 0.0) -> None:
    """To the rounding of its number format, or to a given tolerance."""
    tolerance = tolerance or TOLERANCE[given.dtype]
    torch.testing.assert_close(given.double().cpu(), expected.cpu(), rtol=tolerance, atol=tolerance)


def make_inputs(
    heads: tuple[int, int],
    lengths: tuple[int, int],
    *,
    rows: int = 2,
    dim: int = 8,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values whose scores spread over a few nats."""
    generator = torch.Generator().manual_seed(sum(heads) * 1000 + sum(lengths))
    shapes = [(rows, heads[0], lengths[0], dim)] + [(rows, heads[1], lengths[1], dim)] * 2
    query, key, value = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    return query, key, value


def attend_by(kernel: Kernel, *given: Tensor, scale: float) -> Tensor:
    """Our attention by a kernel in the place of the fastest one."""
    with patch.object(attention, "choose_kernel", lambda *_, **__: (kernel, "")):
        return attention.attend(*given, scale=scale)


def attend_holding(scores: int, *given: Tensor, **settings: Any) -> Tensor:
    """Our attention in blocks that hold about so many scores at once."""
    with patch.object(attention, "SCORES_PER_BLOCK", scores):
        return attention.attend_in_blocks(*given, **settings)


def oracle(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float = SCALE,
    window: int | None = None,
    softcap: float | None = None,
    causal: bool = True,
    starts: tuple[int, ...] = (0,),
) -> tuple[Tensor, Tensor]:
    """Output [B, H, Sq, D] and log-sum-exp [B, H, Sq], from all scores in float64."""
    owner = [head // (query.shape[1] // key.shape[1]) for head in range(query.shape[1])]
    scores = torch.einsum("bhqd,bhkd->bhqk", query.double(), key[:, owner].double()) * scale
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    distance = torch.arange(key.shape[2] - query.shape[2], key.shape[2])[:, None] - torch.arange(key.shape[2])
    seen = (
        (distance >= 0) & (distance < (window or key.shape[2]))
        if causal
        else torch.ones_like(distance, dtype=torch.bool)
    )
    if len(starts) > 1:
        owners = torch.tensor([sum(start <= at for start in starts) for at in range(key.shape[2])])
        seen &= owners[key.shape[2] - query.shape[2] :, None] == owners
    scores = scores.where(seen.to(scores.device), -torch.inf)
    largest = scores.amax(-1, keepdim=True)
    shares = (scores - largest).exp()
    total = shares.sum(-1)
    output = torch.einsum("bhqk,bhkd->bhqd", shares, value[:, owner].double()) / total[..., None]
    return output, total.log() + largest[..., 0]
