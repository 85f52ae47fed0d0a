"""Attention over all keys from that over parts of them, and with sinks from that without, by log-sum-exps.

Shape legend: B = batch, H = query heads, Sq = queries, D = head dimension.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def beside_sinks(output: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """Attention [B, H, Sq, D] with sinks [H] from that without them and its log-sum-exp [B, H, Sq].

    exp(score) / (exp(lse) + exp(sink)) is exp(score - lse) times the logistic function of lse - sink.
    """
    return (output * torch.sigmoid(lse - sinks[:, None].to(lse))[..., None]).to(output.dtype)


def merge(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over two disjoint sets of keys from the outputs and log-sum-exps over each."""
    return merge_parts((one, other))[0].to(one[0].dtype)


def merge_parts(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Attention over all keys from that over disjoint parts of them, in float32 at least.

    Args:
        found: the output [B, H, Sq, D] and the log-sum-exp [B, H, Sq] of each part. That of a part without keys is
            -inf; the first part has keys.
    """
    output, lse = found[0]
    wide = torch.promote_types(output.dtype, torch.float32)
    for other, other_lse in found[1:]:
        share = torch.sigmoid(other_lse - lse)[..., None].to(wide)  # a lone key among many has a tiny share
        output, lse = torch.lerp(output.to(wide), other.to(wide), share), torch.logaddexp(lse, other_lse)
    return output, lse
