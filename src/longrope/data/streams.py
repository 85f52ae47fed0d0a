"""Documents one after the other: in memory while they are few, in a temporary file where they are many."""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from longrope.data.windows import Starts, Tokens

IN_MEMORY = 2**26  # tokens, a quarter of a GiB


@dataclass
class TokenStream:
    """A growing stream of tokens; what exceeds a quarter of a GiB goes to a file that the system removes at the end.

    Attributes:
        names: of the documents, in their order.
        in_memory: tokens that are held before they are written.
    """

    names: list[str] = field(default_factory=list)
    in_memory: int = IN_MEMORY
    _held: list[Tokens] = field(default_factory=list)
    _held_tokens: int = 0
    _sizes: list[int] = field(default_factory=list)
    _file: IO[bytes] | None = None

    def extend(self, name: str, parts: Iterable[Tokens]) -> None:
        """Add a document: its name and tokens, in parts [any] int32 that may be made as they are taken."""
        self.names.append(name)
        self._sizes.append(0)
        for tokens in parts:
            self._sizes[-1] += len(tokens)
            self._held.append(tokens)
            self._held_tokens += len(tokens)
            if self._held_tokens > self.in_memory:
                self._write()

    def __len__(self) -> int:
        """How many tokens there are."""
        return sum(self._sizes)

    def tokens(self) -> Tokens:
        """All tokens, [len] int32; where a file holds them, they are read when they are used."""
        if not self._file:
            return np.concatenate([np.zeros(0, np.int32), *self._held])
        self._write()
        mapped = np.memmap(self._file, np.int32, "c", shape=(len(self),))
        return np.asarray(mapped)

    def borders(self) -> Starts:
        """Where each document begins, and the end of the last one: [documents + 1] int64."""
        return np.cumsum([0, *self._sizes], dtype=np.int64)

    def _write(self) -> None:
        self._file = self._file or tempfile.TemporaryFile(prefix="longrope-tokens-")  # noqa: SIM115  # it stays open
        for tokens in self._held:
            self._file.write(np.ascontiguousarray(tokens).data)
        self._file.flush()
        self._held, self._held_tokens = [], 0
