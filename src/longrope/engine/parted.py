"""Attention whose near keys keep their positions and whose far keys have coarser ones (see ``rope.near_exact``).

Queries and keys come rotated to their own positions, and go into caches so. Where a part of the keys has other
positions, queries and keys are turned on by the difference. Each part goes through a kernel; the outputs over disjoint
parts are merged by their log-sum-exps in float32. So nothing grows with queries times keys, and no gradients are taken.

Shape legend: B = batch, H = query heads, G = key/value heads, Sq = queries, Sk = keys, S = either, D = head dimension,
P = pairs of entries that are rotated together.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longrope.engine.attention import SCORES_PER_BLOCK, takes_gradients
from longrope.engine.backward import attend_aligned
from longrope.engine.kernels import (
    Heads,
    attend_one,
    choose_kernel,
    partial_attention,
    takes_windows,
    window_attention,
)
from longrope.engine.merging import beside_sinks, merge_parts
from longrope.errors import ModelError
from longrope.rope.near_exact import Met, Part, Parts, Place

NEAR_EXACT = "longrope_near_exact"  # the attribute of a network that is read so
MOST_KEPT = 2**25  # cosines of tables that are kept; a table of 65,536 tokens and 32 pairs has 2**21
LEAST_BLOCK = 128  # queries of a window that are taken at once where no kernel knows windows


@dataclass(frozen=True)
class Turning:
    """How the rotated entries of a model's queries and keys turn.

    Attributes:
        frequencies: [P] radians per token, 0 where a pair never turns.
        interleaved: whether the two entries of a pair are neighbours; otherwise they are P entries apart.
    """

    frequencies: tuple[float, ...]
    interleaved: bool

    def tables(self, own: Tensor, place: Place | None, temperature: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cos and sin [S, P] of what turns vectors from their own positions [S] to others.

        Args:
            own: positions.
            place: their positions -> others; None leaves them.
            temperature: multiplies the rotated entries.
            dtype: of the tables.
        """
        rates = torch.tensor(self.frequencies, dtype=torch.float64, device=own.device)
        moved = torch.zeros_like(own) if place is None else place(own) - own
        angles = moved.double()[:, None] * rates
        return (angles.cos() * temperature).to(dtype), (angles.sin() * temperature).to(dtype)

    def by_tables(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Vectors [B, H or G, S, D] turned by tables [S, P]."""
        pairs = len(self.frequencies)
        rotated = x[..., : 2 * pairs].to(cos.dtype)
        one, other = rotated.unflatten(-1, (pairs, 2)).unbind(-1) if self.interleaved else rotated.chunk(2, dim=-1)
        turned = (one * cos - other * sin, other * cos + one * sin)
        joined = torch.stack(turned, dim=-1).flatten(-2) if self.interleaved else torch.cat(turned, dim=-1)
        joined = joined.to(x.dtype)
        return torch.cat((joined, x[..., 2 * pairs :]), dim=-1) if x.shape[-1] > 2 * pairs else joined


class _SharedTables:
    """Tables of cos and sin of the queries and keys that the layers have at hand, as many as take little memory."""

    def __init__(self) -> None:
        self._at = (0, 0)
        self._made: dict[Hashable, tuple[Tensor, Tensor]] = {}
        self._kept = 0

    def begin(self, first: int, end: int) -> None:
        """Forget the tables of other tokens than the queries from ``first`` on and the keys before ``end``."""
        if (first, end) != self._at:
            self._at, self._kept = (first, end), 0
            self._made.clear()

    def get(self, key: Hashable, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The tables that ``make`` makes."""
        found = self._made.get(key) or make()
        if key not in self._made and self._kept + found[0].numel() <= MOST_KEPT:
            self._made[key] = found
            self._kept += found[0].numel()
        return found


@dataclass(frozen=True)
class NearExact:
    """What a network is read with: the parts of the keys, and how to turn vectors to their positions.

    Attributes:
        parts: of the keys of each query; None in a trial of the turning, in which all tokens stand at ``moved``.
        turning: of queries and keys.
        layers: numbers of the layers that turn so; outside of a trial those of them that see the whole window change.
        moved: where all tokens stand in a trial.
        whole: numbers of the layers that have seen the whole window.
        shared: tables of cos and sin, which the layers of a pass share.
    """

    parts: Parts | None
    turning: Turning
    layers: frozenset[int]
    moved: Place | None = None
    whole: set[int] = field(default_factory=set)
    shared: _SharedTables = field(default_factory=_SharedTables)

    def turned(self, x: Tensor, first: int, place: Place | None, temperature: float = 1.0) -> Tensor:
        """Vectors [B, H or G, S, D] of tokens from ``first`` on, turned from their own positions to others.

        Args:
            x: rotated to their own positions.
            first: the position of the first one.
            place: their positions -> others; None leaves them.
            temperature: multiplies the rotated entries.
        """
        if place is None and temperature == 1:
            return x
        wide = torch.promote_types(x.dtype, torch.float32)

        def make() -> tuple[Tensor, Tensor]:
            own = torch.arange(first, first + x.shape[2], device=x.device)
            return self.turning.tables(own, place, temperature, wide)

        return self.turning.by_tables(
            x, *self.shared.get((first, x.shape[2], place, temperature, x.device, wide), make)
        )

    def concerns(self, module: Any, *, whole: bool) -> bool:
        """Whether the attention of a module changes; ``whole``: it sees the whole window.

        Raises:
            ModelError: the module does not say the number of its layer.
        """
        number = getattr(module, "layer_idx", None)
        if number is None:
            raise ModelError(
                f"{type(module).__name__} does not say which layer it belongs to.",
                "Far keys have other positions in some layers alone.",
                "Use a method of factors; this model type is not supported.",
            )
        if number not in self.layers:
            return False
        self.whole.update({number} if whole else ())
        return whole or self.parts is None

    def moved_on(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, H, Sq, D] and keys [B, G, Sk, D] at the positions of the trial."""
        begin = key.shape[2] - query.shape[2]
        return self.turned(query, begin, self.moved), self.turned(key, 0, self.moved)

    def check(self, module: Any, *, apart: bool, other: bool, widths: tuple[int, int]) -> None:
        """Raise ModelError for documents that are kept apart, and for attention to other keys than those of all tokens.

        Args:
            module: whose attention it is.
            apart: whether documents are kept apart.
            other: whether it attends to chosen or compressed keys.
            widths: entries of a key and of a value.
        """
        if widths[0] != widths[1]:
            raise ModelError(
                f"The model's values have {widths[1]} entries a head, and its keys {widths[0]}.",
                "Where entries of queries and keys are rotated is known where both are equal.",
                "Use a method of factors.",
            )
        if apart or other:
            found = (
                "Documents are to be kept apart" if apart else f"{type(module).__name__} does not attend to all keys"
            )
            raise ModelError(
                f"{found} while far keys have coarser positions.",
                "Positions follow from the place in the whole window, and from keys that stand there one by one.",
                "Use a method of factors.",
            )


def near_exact_of(network: Any) -> NearExact | None:
    """What a network is read with at this moment, if it is read so."""
    found: NearExact | None = getattr(network, NEAR_EXACT, None)
    return found


def check_own_positions(network: Any) -> None:
    """Raise ModelError where positions of tokens are given to a network that is read so."""
    if near_exact_of(network):
        raise ModelError(
            "A window with positions of its own is given while far keys have coarser positions.",
            "Those follow from the place of a token in the window.",
            "Leave the positions out.",
        )


def attend_in_parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    near: NearExact,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention over keys whose positions depend on their distance.

    Args:
        query: [B, H, Sq, D], at the last positions of the keys, rotated to their own positions.
        key: [B, G, Sk, D], of all tokens from the first one on, rotated to their own positions.
        value: [B, G, Sk, D].
        near: the positions.
        scale: of the scores.
        softcap: scores become softcap * tanh(score / softcap).
        sinks: [H] logits of the sinks.

    Returns:
        [B, H, Sq, D].

    Raises:
        ModelError: gradients are asked for.
    """
    _refuse_gradients(query, key, value)
    assert near.parts is not None
    begin, turned = key.shape[2] - query.shape[2], _TurnedKeys(near, key)
    near.shared.begin(begin, key.shape[2])
    whole = torch.empty_like(query)
    for span in near.parts.spans(begin, key.shape[2]):
        cut = slice(span.queries[0] - begin, span.queries[1] - begin)
        found = []
        for met in span.met:
            part = met.part
            asked = near.turned(query[:, :, cut], span.queries[0], part.query, part.temperature)
            keys = slice(*met.keys)
            found.append(_attend_part(asked, turned.of(part)[:, :, keys], value[:, :, keys], met, scale, softcap))
        output, lse = merge_parts(found)
        whole[:, :, cut] = output if sinks is None else beside_sinks(output, lse, sinks)
    return whole


class _TurnedKeys:
    """The keys of all tokens at the positions of each part, turned when they are first asked for."""

    def __init__(self, near: NearExact, key: Tensor) -> None:
        self._near = near
        self._made: dict[Place | None, Tensor] = {None: key}

    def of(self, part: Part) -> Tensor:
        if part.key not in self._made:
            self._made[part.key] = self._near.turned(self._made[None], 0, part.key)
        return self._made[part.key]


def _attend_part(
    query: Tensor, key: Tensor, value: Tensor, met: Met, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attention to the keys of one part: output [B, H, Sq, D] and log-sum-exp [B, H, Sq]."""
    heads = Heads(query.shape[1], key.shape[1], query.shape[3])
    limited = met.window is not None and met.window < key.shape[2]
    knows_windows = takes_windows(query.device, query.dtype, heads)
    if softcap is not None or (limited and not knows_windows):
        return attend_in_band(query, key, value, met, scale=scale, softcap=softcap)
    if limited:
        assert met.window is not None
        return window_attention(query, key, value, scale=scale, window=met.window)
    if query.shape[2] == 1:
        kernel, _ = choose_kernel(query.device, query.dtype, heads, decoding=True)
        return attend_one(kernel, query, key, value, scale=scale)
    kernel, _ = choose_kernel(query.device, query.dtype, heads)
    if met.causal:
        return attend_aligned(kernel, query, key, value, scale)
    return partial_attention(kernel, query, key, value, causal=False, scale=scale)


def attend_in_band(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    met: Met,
    *,
    scale: float,
    softcap: float | None = None,
    most_scores: int = SCORES_PER_BLOCK,
) -> tuple[Tensor, Tensor]:
    """Attention to the keys of one part with all scores of a block of queries at once, in float32 at least.

    Args:
        query: [B, H, Sq, D].
        key: [B, G, Sk, D], those of the part.
        value: [B, G, Sk, D].
        met: whether the part is causal, and its window.
        scale: of the scores.
        softcap: scores become softcap * tanh(score / softcap).
        most_scores: how many are held at once, about.

    Returns:
        Output [B, H, Sq, D] and log-sum-exp [B, H, Sq].
    """
    sq, sk = query.shape[2], key.shape[2]
    reach = min(met.window or sk, sk)
    rows = query.shape[0] * query.shape[1]
    block = max(1, min(sq, max(reach, LEAST_BLOCK), most_scores // (rows * reach)))
    wide = torch.promote_types(query.dtype, torch.float32)
    outputs, sums = [], []
    for first in range(0, sq, block):
        last = min(first + block, sq)
        ends = (max(0, sk - sq + first - reach + 1), sk - sq + last) if met.causal else (0, sk)
        own = torch.arange(sk - sq + first, sk - sq + last, device=query.device)[:, None]
        seen = torch.arange(*ends, device=query.device)[None]
        given = (x[:, :, slice(*ends)].repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
        keys, values = (x.to(wide) for x in given)
        scores = query[:, :, first:last].to(wide) @ keys.mT * scale
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        if met.causal:
            scores = scores.masked_fill((seen > own) | (seen <= own - reach), -torch.inf)
        sums.append(scores.logsumexp(-1))
        outputs.append((scores.softmax(-1) @ values).to(query.dtype))
    return torch.cat(outputs, dim=2), torch.cat(sums, dim=2)


def _refuse_gradients(query: Tensor, key: Tensor, value: Tensor) -> None:
    if takes_gradients(query, key, value):
        raise ModelError(
            "Gradients are asked for while near keys are exact and far ones have coarser positions.",
            "DCA, Self-Extend and Jet-Long are measured, without gradients.",
            "Search and train with factors.",
        )
