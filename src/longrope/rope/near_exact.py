"""Positions of methods that read near tokens exactly and far ones coarsely: DCA, Self-Extend and Jet-Long.

Each pair of a query and a key has one relative position. The keys of a query fall into parts; in each part queries and
keys have positions of their own, whose difference is that relative position. The parts of a query are disjoint and hold
every key up to it, so one softmax over all keys comes from those over the parts (``engine.parted``).

Positions follow from the planned length of the whole sequence, so they are the same in one pass, in tiles and with a
cache. Functions of positions work on whole numbers and on arrays and tensors of them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from longrope.errors import FactorsError

Place = Callable[[Any], Any]
"""Positions of tokens in a sequence -> positions as the rotary embedding is to see them."""


@dataclass(frozen=True)
class Part:
    """The positions that queries and keys have where they meet in one part of the keys.

    Attributes:
        query: of queries; None leaves them at their own.
        key: of keys; None leaves them at their own.
        temperature: multiplies logits, that is the rotated entries of queries.
    """

    query: Place | None = None
    key: Place | None = None
    temperature: float = 1.0


class Met(NamedTuple):
    """Keys that some queries meet in one part.

    Attributes:
        part: their positions.
        keys: the first of these keys, and where they end.
        causal: the last query sees up to the last key, the one before it one key less, and so on; otherwise each query
            sees all of them.
        window: how many of them a query sees at most, its last one included; None for no limit.
    """

    part: Part
    keys: tuple[int, int]
    causal: bool = False
    window: int | None = None


class Span(NamedTuple):
    """Queries that meet the same parts: the first one, where they end, and the parts, that of the query first."""

    queries: tuple[int, int]
    met: tuple[Met, ...]


@dataclass(frozen=True)
class Banded:
    """A query meets the last ``window`` keys, its own included, in the near part and all before them in the far one."""

    window: int
    near: Part
    far: Part

    def spans(self, begin: int, end: int) -> Iterator[Span]:
        """Yield the parts that the queries from one position up to another meet."""
        border = min(max(begin, self.window), end)
        if begin < border:
            yield Span((begin, border), (Met(self.near, (0, border), causal=True),))
        if border < end:
            near = Met(self.near, (border - self.window + 1, end), causal=True, window=self.window)
            yield Span((border, end), (near, Met(self.far, (0, end - self.window), causal=True)))


@dataclass(frozen=True)
class Chunked:
    """A query meets the keys of its own chunk of ``stride`` tokens, those of the chunk before, and all before that."""

    stride: int
    own: Part
    before: Part
    far: Part

    def spans(self, begin: int, end: int) -> Iterator[Span]:
        """Yield the parts that the queries from one position up to another meet."""
        for first in range(begin // self.stride * self.stride, end, self.stride):
            queries = (max(begin, first), min(end, first + self.stride))
            met = [Met(self.own, (first, queries[1]), causal=True)]
            if first:
                met.append(Met(self.before, (first - self.stride, first)))
            if first > self.stride:
                met.append(Met(self.far, (0, first - self.stride)))
            yield Span(queries, tuple(met))


Parts = Banded | Chunked


def dca_parts(trained_window: int, length: int, *, chunk: int | None = None, local: int | None = None) -> Chunked:
    """Dual chunk attention (arXiv 2402.17463), by the code of its authors (HKUNLP/ChunkLlama).

    The stride is chunk - local. Keys stand at their place in their stride. Their relative position to a query of the
    same stride is the distance; a query of the next stride stands a stride further, but at most at ``chunk``; all later
    ones stand at ``chunk``. Beyond the trained window logits are multiplied by (1 + 0.05 ln(length / window))^2: that
    code has this temperature, the paper's results had none.

    Args:
        trained_window: L, in tokens.
        length: planned, of the whole sequence.
        chunk: three quarters of L by default.
        local: an eighth of L by default.

    Raises:
        FactorsError: the local window is not smaller than the chunk, or the chunk exceeds L.
    """
    chunk = trained_window * 3 // 4 if chunk is None else chunk
    local = trained_window // 8 if local is None else local
    stride = chunk - local
    if not 0 <= local < chunk <= trained_window:
        raise FactorsError(
            f"Dual chunk attention has chunks of {chunk} tokens and a local window of {local}.",
            f"The local window must be smaller than a chunk, and that at most the trained window of {trained_window}.",
            "Leave both out: three quarters and an eighth of the trained window.",
        )
    temperature = (1 + 0.05 * math.log(max(1.0, length / trained_window))) ** 2

    def in_stride(at: Any) -> Any:
        return at % stride

    return Chunked(
        stride,
        own=Part(temperature=temperature),
        before=Part(lambda at: _at_most(at % stride + stride, chunk), in_stride, temperature),
        far=Part(lambda at: at * 0 + chunk, in_stride, temperature),
    )


def self_extend_parts(
    trained_window: int, length: int, *, window: int | None = None, group: int | None = None
) -> Banded | None:
    """Self-Extend (arXiv 2401.01325): keys nearer than a window at their distance, all others by groups of tokens.

    Args:
        trained_window: L, in tokens.
        length: planned, of the whole sequence.
        window: W, how many keys are near, the query's own included; a quarter of L by default (the authors' 1,024 of
            4,096), rounded to a multiple of the group.
        group: G, tokens of a group; by default the least power of two by which the largest relative position, about
            W + (length - W) / G, is at most two thirds of L, the most that the authors advise; where no group gives
            that, the one that gives the least. 1 up to L.

    Returns:
        None where groups of one token change nothing.

    Raises:
        FactorsError: the group does not divide the window.
    """
    groups = (
        [group] if group else [2**i for i in range(trained_window.bit_length())] if length > trained_window else [1]
    )

    def near_of(group: int) -> int:
        return max(1, trained_window // 4 // group) * group if window is None else window

    def largest(group: int) -> float:
        return near_of(group) + (length - near_of(group)) / group

    enough = (group for group in groups if largest(group) <= trained_window * 2 / 3)
    group = next(enough, min(groups, key=largest))
    near = near_of(group)
    if near < 1 or group < 1 or near % group:
        raise FactorsError(
            f"Self-Extend has a window of {near} tokens and groups of {group}.",
            "The group must divide the window: queries are moved by W - W/G, a whole number.",
            f"Take a window of {max(1, near // max(1, group)) * max(1, group)}.",
        )
    if group == 1:
        return None
    shift = near - near // group
    return Banded(near, Part(), Part(lambda at: at // group + shift, lambda at: at // group))


def jet_long_parts(trained_window: int, length: int, *, near: int | None = None) -> Banded | None:
    """Jet-Long (arXiv 2607.07740): keys up to a distance at that distance, all others by groups without a shift.

    Groups have as many tokens as the length has windows, rounded up.

    Args:
        trained_window: L, in tokens, up to which the model reads as it was trained.
        length: planned, of the whole sequence.
        near: w0, the largest distance that is kept; a sixteenth of the window by default, as the authors' 2,048 of
            32,768.

    Returns:
        None where the length does not exceed the window: the model reads as it was trained.
    """
    near = trained_window // 16 if near is None else near
    if length <= trained_window:
        return None
    group = -(-length // trained_window)
    return Banded(near + 1, Part(), Part(lambda at: at // group, lambda at: at // group))


def _at_most(at: Any, most: int) -> Any:
    return min(at, most) if isinstance(at, int) else at.clip(max=most)
