"""How the windows of a training are read: which tokens see each other, where they stand, and which are scored.

Shape legend: B = windows that are read at once, N = tokens of a window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longrope.recipe import TuneRecipe
from longrope.texts import Tokens
from longrope.tuning.batches import Batches

SKIPS = 1  # tells the generator of skips from that of orders
Documents = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Reading:
    """Windows that go through the model together.

    Attributes:
        tokens: [B, N].
        documents: where documents that do not see each other begin in each window; None where a token sees all before.
        positions: [B, N] of the tokens; None for 0, 1, 2 ...
    """

    tokens: Tokens
    documents: Documents | None = None
    positions: NDArray[np.int64] | None = None

    @property
    def scored(self) -> NDArray[np.bool_]:
        """[B, N - 1] which next tokens are scored: not the first of a document, which sees nothing before it."""
        found = np.ones((len(self.tokens), self.tokens.shape[1] - 1), bool)
        for row, starts in enumerate(self.documents or ()):
            found[row, np.asarray(starts[1:], int) - 1] = False
        return found


@dataclass(frozen=True)
class Reader:
    """Reads windows of a training, each a pure function of seed and row.

    Attributes:
        batches: where the windows come from.
        settings: of the training.
    """

    batches: Batches
    settings: TuneRecipe

    def read(self, rows: Sequence[int]) -> Iterator[Reading]:
        """Windows of the training by their rows, as many at once as the settings say."""
        for first in range(0, len(rows), self.settings.windows_at_once):
            yield self._read(rows[first : first + self.settings.windows_at_once])

    def num_scored(self, rows: Sequence[int]) -> int:
        """How many tokens of these windows are scored."""
        if not self.settings.isolate_documents:
            return len(rows) * (self.batches.window_tokens - 1)
        return sum(self.batches.window_tokens - len(self.batches.documents(row)) for row in rows)

    def _read(self, rows: Sequence[int]) -> Reading:
        tokens = np.stack([self.batches.window(row) for row in rows])
        if self.settings.isolate_documents:
            return _isolated(tokens, tuple(self.batches.documents(row) for row in rows))
        if self.settings.skipped_positions:
            return Reading(tokens, positions=np.stack([self._skip(row) for row in rows]))
        return Reading(tokens)

    def _skip(self, row: int) -> NDArray[np.int64]:
        """[N] positions of a window in two parts, with a random number of positions between them."""
        rng = np.random.default_rng([self.batches.seed, row, SKIPS])
        positions = np.arange(self.batches.window_tokens)
        unused = self.settings.skipped_positions - self.batches.window_tokens
        positions[rng.integers(1, self.batches.window_tokens) :] += rng.integers(0, unused + 1)
        return positions


def _isolated(tokens: Tokens, documents: Documents) -> Reading:
    """Windows whose documents do not see each other, with positions that begin anew in each."""
    length = tokens.shape[1]
    begins = [np.repeat(starts, np.diff(starts, append=length)) for starts in documents]
    return Reading(tokens, documents, np.arange(length) - np.stack(begins))
