"""Context parallelism: several processes hold parts of the same sequence.

Shape legend: B = batch, G = key/value heads, N = padded tokens of a window, n = those of one process, D = head
dimension.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from longrope.distributed.failures import detecting_lost_processes
from longrope.distributed.state import current


@dataclass(frozen=True)
class Shard:
    """This process's part of each sequence: a chunk near its head and one near its tail, so that causal work is equal.

    A sequence is padded and cut into 2 * ranks chunks; process r holds chunk r and chunk 2 * ranks - 1 - r.

    Attributes:
        rank: of this process among those that share the sequence.
        ranks: how many share it.
        group: torch's process group of them.
    """

    rank: int
    ranks: int
    group: Any

    def padded(self, tokens: int) -> int:
        """The next length that divides into equal chunks."""
        return -(-tokens // (2 * self.ranks)) * 2 * self.ranks

    def positions(self, padded_tokens: int) -> Tensor:
        """[n] int64, on the CPU: where this process's tokens stand in a sequence of ``padded_tokens``."""
        return torch.arange(padded_tokens).view(2 * self.ranks, -1)[[self.rank, 2 * self.ranks - 1 - self.rank]].ravel()

    def gather(self, x: Tensor) -> Tensor:
        """[B, G, N, D] keys or values of all processes, in the order of the sequence, from this one's [B, G, n, D].

        The backward pass sums the gradients of all processes and gives each its part.
        """
        return _Gather.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]

    def join(self, x: Tensor) -> Tensor:
        """[B, N, ...] results of all processes, in the order of the sequence, from [B, n, ...]; without gradients."""
        return self._ordered(x, dim=1)

    def total(self, x: Tensor) -> Tensor:
        """The sum of a tensor over the processes, the same bits in each of them; without gradients."""
        x = x.detach().clone(memory_format=torch.contiguous_format)
        with detecting_lost_processes():
            dist.all_reduce(x, group=self.group)
        return x

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give each parameter the sum of its gradients over the processes; one that has none counts as 0."""
        for parameter in parameters:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.total(own)

    def _ordered(self, x: Tensor, dim: int) -> Tensor:
        parts = x.new_empty((self.ranks * x.shape[0], *x.shape[1:]))
        all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # torch 2.13 renamed it
        with detecting_lost_processes():
            all_gather(parts, x.contiguous(), group=self.group)
        heads, tails = parts.view(self.ranks, *x.shape).chunk(2, dim=dim + 1)
        return torch.cat([*heads, *reversed(tails.unbind())], dim=dim)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        return shard._ordered(x, dim=2)  # noqa: SLF001  # its other half

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = ctx.shard.total(gradient)
        return whole[:, :, ctx.shard.positions(whole.shape[2]).to(whole.device)], None


def shard() -> Shard | None:
    """This process's part of each sequence; None where it has sequences whole."""
    state = current()
    if state.context_ranks == 1 or state.scope == "one":
        return None
    return Shard(state.rank % state.context_ranks, state.context_ranks, state.context_group)
