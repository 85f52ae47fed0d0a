"""The batches of a training, each a pure function of seed and step, so that resuming needs no state of the data.

Shape legend: B = windows of a batch, N = tokens of a window.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.texts import Tokens, TokenText


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
    """

    text: TokenText
    window_tokens: int
    batch_windows: int
    seed: int

    @classmethod
    def cut(cls, text: TokenText, window_tokens: int, batch_windows: int, seed: int) -> "Batches":
        """Make the batches of a text (raises TextsError if not one window fits)."""
        text.windows(window_tokens, 1)
        return cls(text, window_tokens, batch_windows, seed)

    @property
    def epoch_windows(self) -> int:
        """Windows of one epoch: as many as fit."""
        return len(self.text.tokens) // self._body

    @property
    def _body(self) -> int:
        """Tokens of the text in a window."""
        return self.window_tokens - (self.text.bos is not None)

    def at(self, step: int) -> Tokens:
        """The [B, N] tokens of one step; a batch may reach over the end of an epoch."""
        first = step * self.batch_windows
        return np.stack([self._window(row) for row in range(first, first + self.batch_windows)])

    def _window(self, row: int) -> Tokens:
        epoch, place = divmod(row, self.epoch_windows)
        start = int(_shuffle(self.seed, epoch, self.epoch_windows)[place]) * self._body
        body = self.text.tokens[start : start + self._body]
        opening = [] if self.text.bos is None else [self.text.bos]
        return np.concatenate([np.asarray(opening, np.int32), body])


@lru_cache(maxsize=4)
def _shuffle(seed: int, epoch: int, windows: int) -> NDArray[np.integer[Any]]:
    """The order [W] of the windows in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(windows)
