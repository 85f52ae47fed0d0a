"""The batches of a training, each a pure function of seed and step, so that resuming needs no state of the data.

Shape legend: B = windows of a batch, N = tokens of a window, W = windows of an epoch, D = documents.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.data import Starts, Tokens, TokenText


@dataclass(frozen=True)
class Batches:
    """Windows of a text in random order, epoch after epoch.

    The windows of a text are always the same, so whoever lays out a text in windows finds them again in the batches.
    Tokens at the end that fill no whole window are left out.

    Attributes:
        text: where the windows come from; its opening token stands before each of them.
        window_tokens: N.
        batch_windows: B.
        seed: of the orders.
        prefer_documents: windows are cut from the beginning of each document on, as many as fit into it, and stand
            first in every epoch. What is left of documents, and short ones, are packed one after the other and follow.
    """

    text: TokenText
    window_tokens: int
    batch_windows: int
    seed: int
    prefer_documents: bool = False

    @classmethod
    def cut(
        cls, text: TokenText, window_tokens: int, batch_windows: int, seed: int, *, prefer_documents: bool = False
    ) -> "Batches":
        """Make the batches of a text (raises TextsError if not one window fits)."""
        text.windows(window_tokens, 1)
        return cls(text, window_tokens, batch_windows, seed, prefer_documents)

    @property
    def epoch_windows(self) -> int:
        """Windows of one epoch: as many as fit."""
        return len(self.text.tokens) // self._layout.size

    def rows(self, step: int) -> range:
        """The windows of one step, counted from the first of the training."""
        return range(step * self.batch_windows, (step + 1) * self.batch_windows)

    def at(self, step: int) -> Tokens:
        """The [B, N] tokens of one step; a batch may reach over the end of an epoch."""
        return np.stack([self.window(row) for row in self.rows(step)])

    def window(self, row: int) -> Tokens:
        """The [N] tokens of a window of the training."""
        opening = [] if self.text.bos is None else [self.text.bos]
        parts = [self.text.tokens[first:last] for first, last in self._spans(row)]
        return np.concatenate([np.asarray(opening, np.int32), *parts])

    def read_documents(self, steps: int) -> Iterator[list[Tokens]]:
        """What so many steps read of each document of the text, in stretches that belong together."""
        marks = np.zeros(len(self.text.tokens) + 1, np.int64)
        for row in range(min(steps * self.batch_windows, self.epoch_windows)):  # an epoch has every window once
            for first, last in self._spans(row):
                marks[first] += 1
                marks[last] -= 1
        read = np.cumsum(marks)[:-1] > 0
        for start, end in zip(self.text.documents, (*self.text.documents[1:], len(read)), strict=True):
            edges = start + np.flatnonzero(np.diff(read[start:end], prepend=False, append=False))
            yield [self.text.tokens[first:last] for first, last in edges.reshape(-1, 2)]

    def documents(self, row: int) -> tuple[int, ...]:
        """Where documents begin in a window of the training: first 0, and the opening token is of the first one."""
        places, before = [], int(self.text.bos is not None)
        for first, last in self._spans(row):
            inside = slice(*np.searchsorted(self.text.documents, (first + 1, last)))
            places += [before + start - first for start in (first, *self.text.documents[inside].tolist())]
            before += last - first
        return (0, *places[1:])

    def _spans(self, row: int) -> list[tuple[int, int]]:
        """The parts of the text that make up a window, each as its beginning and end there."""
        epoch, place = divmod(row, self.epoch_windows)
        return list(self._layout.spans(int(_shuffle(self.seed, epoch, self._layout.within, self.epoch_windows)[place])))

    @cached_property
    def _layout(self) -> "_Layout":
        body = self.window_tokens - (self.text.bos is not None)
        starts = self.text.documents if self.prefer_documents else np.zeros(1, np.int64)
        return _Layout(body, starts, np.diff(starts, append=len(self.text.tokens)))


@dataclass(frozen=True)
class _Layout:
    """Where windows lie in a text: first those within documents, in its order, then those of all that they leave.

    Attributes:
        size: tokens of the text in a window.
        starts: [D] of its documents.
        lengths: [D] of its documents.
    """

    size: int
    starts: Starts
    lengths: Starts

    @cached_property
    def _ends(self) -> Starts:
        """[D] windows within each document and all before it."""
        return np.cumsum(self.lengths // self.size)

    @cached_property
    def _rest_ends(self) -> Starts:
        """[D] tokens that windows within documents leave of each document and all before it."""
        return np.cumsum(self.lengths % self.size)

    @property
    def within(self) -> int:
        """Windows within documents."""
        return int(self._ends[-1])

    def spans(self, index: int) -> Iterator[tuple[int, int]]:
        """The parts of the text in a window, each as its beginning and end."""
        if index < self.within:
            document = np.searchsorted(self._ends, index, side="right")
            last = self.starts[document] + self.lengths[document] // self.size * self.size
            first = int(last - (self._ends[document] - index) * self.size)
            yield first, first + self.size
            return
        begin = (index - self.within) * self.size  # among all that is left
        end = begin + self.size
        document = np.searchsorted(self._rest_ends, begin, side="right")
        while begin < end:
            last = min(end, int(self._rest_ends[document]))
            offset = int(self.starts[document] + self.lengths[document] - self._rest_ends[document])
            if begin < last:
                yield offset + begin, offset + last
            begin, document = last, document + 1


@lru_cache(maxsize=4)
def _shuffle(seed: int, epoch: int, within: int, windows: int) -> NDArray[np.integer[Any]]:
    """The order [W] of the windows in an epoch: those within documents come first."""
    rng = np.random.default_rng([seed, epoch])
    return np.concatenate([rng.permutation(within), within + rng.permutation(windows - within)])
