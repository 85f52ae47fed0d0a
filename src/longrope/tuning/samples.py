"""How the windows of a training are read: which tokens see each other, where they stand, and which are scored.

Shape legend: B = windows that are read at once, N = tokens of each.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.data import Tokens, plant_needles
from longrope.recipe import TuneRecipe
from longrope.tune_recipe import VARIED
from longrope.tuning.batches import Batches

SKIPS, NEEDLES = 1, 2  # tell their generators from that of orders
Documents = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class TrainingSample:
    """Windows that go through the model together.

    Attributes:
        tokens: [B, N].
        documents: where documents that do not see each other begin in each window; None where a token sees all before.
        positions: [B, N] of the tokens; None for 0, 1, 2 ...
        own_rope: whether the model's own RoPE is in force, whatever factors are installed.
        answers: [B, N - 1] which next tokens answer about planted needles; None where there are none.
    """

    tokens: Tokens
    documents: Documents | None = None
    positions: NDArray[np.int64] | None = None
    own_rope: bool = False
    answers: NDArray[np.bool_] | None = None

    @property
    def scored(self) -> NDArray[np.bool_]:
        """[B, N - 1] which next tokens are scored: not the first of a document, which sees nothing before it."""
        found = np.ones((len(self.tokens), self.tokens.shape[1] - 1), bool)
        for row, starts in enumerate(self.documents or ()):
            found[row, np.asarray(starts[1:], int) - 1] = False
        return found

    def cut(self, rows: slice) -> "TrainingSample":
        """Some of the windows, to go through the model without the others."""
        return replace(
            self,
            tokens=self.tokens[rows],
            documents=self.documents and self.documents[rows],
            positions=None if self.positions is None else self.positions[rows],
            answers=None if self.answers is None else self.answers[rows],
        )


@dataclass(frozen=True)
class SampleBuilder:
    """Reads windows of a training, each a pure function of seed and row.

    Attributes:
        batches: where the windows come from.
        settings: of the training.
        trained_window: of the model; short windows have this length, or that of the training where it is shorter.
        tokenizer: of the model, for needles.
    """

    batches: Batches
    settings: TuneRecipe
    trained_window: int
    tokenizer: Any = None

    def read(self, rows: Sequence[int]) -> Iterator[TrainingSample]:
        """Windows of the training by their rows, long ones first, as many at once as the settings say."""
        short = [row for row in rows if self.is_short(row)]
        long = [row for row in rows if not self.is_short(row)]
        for kind, read in ((long, self._read), (short, self._read_short)):
            for first in range(0, len(kind), self.settings.windows_at_once):
                yield read(kind[first : first + self.settings.windows_at_once])

    def is_short(self, row: int) -> bool:
        """Whether a window of the training is read as short ones, which are spread evenly over the rows."""
        share = self.settings.short_share
        return math.floor((row + 1) * share) > math.floor(row * share)

    def num_long(self, rows: Sequence[int]) -> int:
        """How many of these windows are not read as short ones."""
        return sum(not self.is_short(row) for row in rows)

    def lengths(self, rows: Sequence[int]) -> list[int]:
        """How long each sequence of these windows is: a long or short window, or a document that is kept apart."""
        found: list[int] = []
        for row in rows:
            short = self.is_short(row)
            length, pieces = (self._short_tokens, self._pieces) if short else (self.batches.window_tokens, 1)
            if not (self.settings.isolate_documents if short else self._isolates_long):
                found += [length] * pieces
                continue
            for starts in (self._short_documents if short else self._documents)(row):
                found += np.diff(starts, append=length).tolist()
        return found

    def num_scored(self, rows: Sequence[int]) -> int:
        """How many tokens of these windows are scored: all but the first of each sequence."""
        lengths = self.lengths(rows)
        return sum(lengths) - len(lengths)

    def answer_weights(self, sample: TrainingSample, rows: Sequence[int]) -> NDArray[np.float64]:
        """[B, N - 1] of a sample of a batch of rows: its part of ``needle_weight`` for each token of an answer.

        Every window of the training with needles has the same part, whether it is read as a long or as short ones.
        """
        assert sample.answers is not None
        with_needles = len(rows) if self._plants_in_short else self.num_long(rows)
        of_one = self.settings.needle_weight / with_needles / (self._pieces if sample.own_rope else 1)
        return np.asarray(of_one * sample.answers / sample.answers.sum(axis=1, keepdims=True))

    @property
    def _plants_in_short(self) -> bool:
        """Whether needles are planted in short windows, too: varied ones, where all of a window sees them."""
        return bool(
            self.settings.needle_weight and self.settings.needle_kinds == VARIED and not self.settings.isolate_documents
        )

    @property
    def _isolates_long(self) -> bool:
        """Whether documents of long windows do not see each other; questions about needles must see all of them."""
        return self.settings.isolate_documents and not self.settings.needle_weight

    @property
    def _short_tokens(self) -> int:
        return min(self.trained_window, self.batches.window_tokens)

    @property
    def _pieces(self) -> int:
        """How many short windows a window is read as."""
        opening = self.batches.text.bos is not None
        return (self.batches.window_tokens - opening) // (self._short_tokens - opening)

    def _read(self, rows: Sequence[int]) -> TrainingSample:
        tokens = np.stack([self.batches.window(row) for row in rows])
        if self._isolates_long:
            return _isolated(tokens, tuple(starts for row in rows for starts in self._documents(row)))
        needles = self.settings.needle_weight
        reading = self._planted(tokens, ([row] for row in rows)) if needles else TrainingSample(tokens)
        if self.settings.skipped_positions:
            return replace(reading, positions=np.stack([self._skip(row) for row in rows]))
        return reading

    def _planted(self, tokens: Tokens, seeds: Iterable[Sequence[int]]) -> TrainingSample:
        """Windows with facts at all depths and questions about them at the end (LongRoPE2, section 3.2), by seeds."""
        planted = [
            plant_needles(
                window,
                self.tokenizer,
                np.random.default_rng([self.batches.seed, *seed, NEEDLES]),
                self.settings.needle_kinds,
            )
            for window, seed in zip(tokens, seeds, strict=True)
        ]
        return TrainingSample(
            np.stack([window for window, _ in planted]), answers=np.stack([found for _, found in planted])
        )

    def _read_short(self, rows: Sequence[int]) -> TrainingSample:
        windows = np.stack([self.batches.window(row) for row in rows])
        tokens = self.batches.text.divided(windows, self._short_tokens)
        if self._plants_in_short:
            seeds = ((row, piece) for row in rows for piece in range(self._pieces))
            return replace(self._planted(tokens, seeds), own_rope=True)
        if not self.settings.isolate_documents:
            return TrainingSample(tokens, own_rope=True)
        documents = tuple(starts for row in rows for starts in self._short_documents(row))
        return replace(_isolated(tokens, documents), own_rope=True)

    def _documents(self, row: int) -> Documents:
        return (self.batches.documents(row),)

    def _short_documents(self, row: int) -> Documents:
        """Where documents begin in each of the short windows of a window; the opening token is of the first one."""
        opening = self.batches.text.bos is not None
        size, later = self._short_tokens - opening, self.batches.documents(row)[1:]
        inside = [[start - n * size for start in later] for n in range(self._pieces)]
        return tuple((0, *(start for start in starts if opening < start < size + opening)) for starts in inside)

    def _skip(self, row: int) -> NDArray[np.int64]:
        """[N] positions of a window in two parts, with a random number of positions between them."""
        rng = np.random.default_rng([self.batches.seed, row, SKIPS])
        positions = np.arange(self.batches.window_tokens)
        unused = self.settings.skipped_positions - self.batches.window_tokens
        positions[rng.integers(1, self.batches.window_tokens) :] += rng.integers(0, unused + 1)
        return positions


def _isolated(tokens: Tokens, documents: Documents) -> TrainingSample:
    """Windows whose documents do not see each other, with positions that begin anew in each."""
    length = tokens.shape[1]
    begins = [np.repeat(starts, np.diff(starts, append=length)) for starts in documents]
    return TrainingSample(tokens, documents, np.arange(length) - np.stack(begins))
