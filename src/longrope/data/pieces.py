"""Long texts in pieces: a file is looked through once, then read as it is tokenized, and never held whole."""

import gzip
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from longrope.data.sources import (
    CONTROL,
    DAMAGED,
    NO_TEXT,
    WIDE_SAMPLE,
    NoTextError,
    check_format,
    describe_zeros,
    likely_encoding,
    marked,
    unmarked,
)
from longrope.errors import TextsError

HELD_BYTES = 2**23  # of a file that is read at once; of a .gz file an eighth
CHUNK = 2**20  # characters that are decoded at once
PIECE_CHARACTERS = 2**23  # of one document that are tokenized at once, on one core
MOST_PIECES = 2  # of long documents that are tokenized side by side
LONG_CHARACTERS = 2**26  # of a document from which its pieces are short, so that all cores have some
SHORT_PIECE = 2**20
NUL = re.compile("\0")


@dataclass(frozen=True)
class TextFile:
    """A text file that is too long to be held.

    Attributes:
        path: of the file.
        encoding: in which all of it can be decoded.
        characters: of its text.
        size: bytes of its text, as UTF-8.
        digest: SHA-256 of them.
    """

    path: Path
    encoding: str
    characters: int
    size: int
    digest: bytes

    def __len__(self) -> int:
        """How many characters there are."""
        return self.characters

    def pieces(self) -> Iterator[str]:
        """Its text, in the pieces in which it is tokenized."""
        return cut(read_chunks(self.path, self.encoding), self.characters)


def at_once(characters: int, cores: int) -> int:
    """How many characters are tokenized together of documents of at most so many: each 8 million take about a GB."""
    return PIECE_CHARACTERS * (min(MOST_PIECES, cores) if characters <= LONG_CHARACTERS else 1)


def is_long(path: Path) -> bool:
    """Whether a text file is to be read in pieces."""
    return path.is_file() and path.stat().st_size > (HELD_BYTES // 8 if path.suffix.lower() == ".gz" else HELD_BYTES)


def look_through(path: Path, encoding: str = "") -> TextFile:
    """Decode a file from beginning to end.

    Args:
        path: of the file; ``.gz`` too.
        encoding: of a file that is neither UTF-8 nor has a byte order mark, or that holds zeros.

    Raises:
        NoTextError: it is of another encoding, which is named if it is likely; binary; blank; or damaged.
        TextsError: the system does not let it be read.
    """
    try:
        with _open(path) as file:
            head = file.read(WIDE_SAMPLE)
        try:
            return _look_through(path, marked(head), NUL, describe_zeros(head))
        except UnicodeDecodeError as error:
            check_format(head)
            if not encoding:
                raise NoTextError(f"{NO_TEXT}{likely_encoding(error.object)}") from None
        except NoTextError as error:
            if not encoding or f"{error}" == "blank":
                raise
        with suppress(UnicodeDecodeError):
            return _look_through(path, unmarked(encoding), CONTROL, f"neither UTF-8 nor {encoding} text")
        raise NoTextError(f"neither UTF-8 nor {encoding} text")
    except DAMAGED:
        raise NoTextError("a damaged .gz file") from None
    except OSError as error:
        raise TextsError(f"{path} cannot be read ({error}).", "A readable file is needed.", "Check it.") from error


def _look_through(path: Path, encoding: str, forbidden: re.Pattern[str], reason: str) -> TextFile:
    characters = size = 0
    digest, blank, refused = hashlib.sha256(), True, False
    for chunk in read_chunks(path, encoding):
        refused = refused or bool(forbidden.search(chunk))  # unless it cannot be decoded further on
        content = chunk.encode()
        digest.update(content)
        characters, size, blank = characters + len(chunk), size + len(content), blank and not chunk.strip()
    if blank or refused:
        raise NoTextError("blank" if blank else reason)
    return TextFile(path, encoding, characters, size, digest.digest())


def read_chunks(path: Path, encoding: str) -> Iterator[str]:
    """The text of a file, a million characters after the other, its ends of lines as they are."""
    with _open(path) as file, io.TextIOWrapper(file, encoding, newline="") as text:
        while chunk := text.read(CHUNK):
            yield chunk


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")


def pieces_of(text: str) -> list[str]:
    """A text in the pieces in which it is tokenized."""
    return list(cut((text[at : at + CHUNK] for at in range(0, len(text), CHUNK)), len(text)))


def cut(chunks: Iterable[str], characters: int) -> Iterator[str]:
    """A text in pieces of at most 8 million characters, cut at the end of a paragraph, a line or a word.

    One of more than 64 million characters is cut into pieces of at most a million.

    Args:
        chunks: the text, in parts of any size.
        characters: of all of it.
    """
    size, held = PIECE_CHARACTERS if characters <= LONG_CHARACTERS else SHORT_PIECE, ""
    for chunk in chunks:
        held += chunk
        while len(held) > size:
            ends = (held.rfind(mark, 1, size) + len(mark) for mark in ("\n\n", "\n", " "))
            last = next((end for end in ends if end > size // 2), size)
            yield held[:last]
            held = held[last:]
    yield held
