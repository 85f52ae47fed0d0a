"""One split of some texts as a stream of tokens, and the windows that are cut from it.

Shape legend: W = windows, N = tokens of a window, D = documents.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from longrope.errors import TextsError
from longrope.lengths import counted

Tokens = NDArray[np.int32]
Starts = NDArray[np.int64]


@dataclass(frozen=True)
class TokenText:
    """One stream of tokens: the documents of one split, one after the other.

    Attributes:
        tokens: [any] int32 token ids.
        name: what it is called in errors (``search``, ``measure`` ...).
        bos: token id that the tokenizer puts before every text, or None; it then opens every window.
        documents: [D] int64, where each document begins in ``tokens``; by default all of them are one. A file is a
            document, or a row of a file of records is, and what a split leaves of one is a document, too.
        files: [D] the file of each document, with its row, for errors; empty where they are not known.
    """

    tokens: Tokens
    name: str
    bos: int | None = None
    documents: Starts = field(default_factory=lambda: np.zeros(1, np.int64))
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse documents that do not follow one another (raises TextsError)."""
        first, later = self.documents[:1], self.documents[1:]
        if first.tolist() != [0] or np.any(np.diff(self.documents) <= 0) or np.any(later >= len(self.tokens)):
            raise TextsError(
                f"The {self.name} text ({len(self.tokens):,} tokens) has {len(self.documents)} documents in disorder.",
                "The first begins at 0, each of the others later than the one before it, and the last before the end.",
                "Give where each document begins, in the order of the text.",
            )

    def fitting(self, length: int) -> int:
        """How many windows of ``length`` tokens fit into the text without overlap."""
        return len(self.tokens) // max(1, length - (self.bos is not None))

    def windows(self, length: int, count: int, *, minimum: int = 1) -> Tokens:
        """Cut ``count`` windows that do not overlap, evenly spread over the text; fewer if it is too short for them.

        Returns:
            [W, N] int32 with N = ``length``.

        Raises:
            TextsError: not even ``minimum`` windows fit.
        """
        body = length - (self.bos is not None)
        fitting = min(count, self.fitting(length))
        if fitting < minimum:
            raise TextsError(
                f"The {self.name} text has {len(self.tokens):,} tokens.",
                f"{counted(minimum, 'window')} of {length:,} tokens must fit into it.",
                "Give more or longer texts with --data (or --measure-data), or a shorter window.",
            )
        starts = np.linspace(0, len(self.tokens) - body, fitting).astype(int) if fitting > 1 else np.zeros(1, int)
        cut = np.stack([self.tokens[start : start + body] for start in starts])
        return cut if self.bos is None else self._opened(cut)

    def divided(self, windows: Tokens, length: int) -> Tokens:
        """Divide windows [W, M] into [W * (M // N), N] shorter ones of the same text; a remainder is left out."""
        if self.bos is None:
            return _divide(windows, length)
        return self._opened(_divide(windows[:, 1:], length - 1))

    def numbered(self) -> "TokenText":
        """The same text with the number of its document, from 0, in the place of every token.

        Its ``windows`` and ``divided`` say which document each token of this text's belongs to; an opening token
        counts to document 0.
        """
        numbers = np.zeros(len(self.tokens), np.int32)
        numbers[self.documents[1:]] = 1
        return replace(self, tokens=np.cumsum(numbers, dtype=np.int32), bos=None if self.bos is None else 0)

    def name_of(self, document: int) -> str:
        """What a document is called in messages: its file, or else its number from 1."""
        return self.files[document] if self.files else f"document {document + 1:,} of the {self.name} text"

    def _opened(self, cut: Tokens) -> Tokens:
        return np.concatenate([np.full((len(cut), 1), self.bos, np.int32), cut], axis=1)


def _divide(windows: Tokens, length: int) -> Tokens:
    pieces = windows.shape[1] // length
    return windows[:, : pieces * length].reshape(-1, length)
