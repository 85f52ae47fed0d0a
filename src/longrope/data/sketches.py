"""Sketches of texts, by which text that was trained on is known again: copies with changes, re-wrapped or renamed.

A text is compared by the runs of 48 letters and digits in it, in lower case, without white space and punctuation. Of
their hashes the smallest ones are kept (bottom-k sketches, Broder 1997; containment from them as in FracMinHash, Irber
et al. 2022). Files of a kind share licences and headers: runs that occur in many trained documents are not kept.

Shape legend: R = runs of a text, K = hashes of a sketch.
"""

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longrope.data.windows import Tokens, TokenText
from longrope.errors import TextsError

Hashes = NDArray[np.uint64]
FORMAT = "longrope-sketch/1"
RUN_CHARACTERS = 48
SKETCH_HASHES = 2**16  # half a MiB
COMMON_DOCUMENTS = 5  # a run in more trained documents than this is a licence or a header
ALL_HASHES = 2**64 - 1
DECODED_AT_ONCE = 2**18  # tokens
MOST_SHARED = 0.2  # of the text to measure on, and of one document of it
LEAST_SHARED = 20_000  # characters that one document has in common with trained ones; a book's licence has fewer
Z = 2.576  # of a normal distribution: one in 200 lies above it


@dataclass(frozen=True, eq=False)
class TextSketch:
    """What texts contain, in at most 65,536 hashes.

    Attributes:
        hashes: [K] ascending: those of the runs in the texts that are not above ``limit``.
        limit: up to here all runs of the texts are known, but for those that many documents have.
    """

    hashes: Hashes = field(default_factory=lambda: np.zeros(0, np.uint64))
    limit: int = ALL_HASHES

    def __bool__(self) -> bool:
        """Whether there is any text in it."""
        return len(self.hashes) > 0

    def merged(self, other: "TextSketch") -> "TextSketch":
        """A sketch of the texts of both."""
        limit = min(self.limit, other.limit)
        both = distinct(self.hashes, other.hashes)
        return _smallest(both[both <= np.uint64(limit)], limit)

    def overlap(self, runs: Hashes) -> "Overlap":
        """How much of a text, given by the hashes [R] of its runs, stands in the texts of this sketch."""
        asked = runs[runs <= np.uint64(self.limit)]
        return Overlap(int(np.isin(asked, self.hashes, assume_unique=True).sum()), len(asked), len(runs))


class Overlap(NamedTuple):
    """How much of a text stands in others.

    Attributes:
        found: of the runs that were looked up, those that stand there.
        asked: runs that were looked up.
        runs: of the text.
    """

    found: int
    asked: int
    runs: int

    @property
    def share(self) -> float:
        """The share of the text."""
        return self.found / self.asked if self.asked else 0.0

    @property
    def characters(self) -> float:
        """About how many letters and digits that is."""
        return self.share * self.runs

    @property
    def is_large(self) -> bool:
        """Whether it is surely above a fifth: the lower end of Wilson's interval is."""
        if not self.found:
            return False
        spread = Z * math.sqrt(self.share * (1 - self.share) / self.asked + Z**2 / (4 * self.asked**2))
        lower = (self.share + Z**2 / (2 * self.asked) - spread) / (1 + Z**2 / self.asked)
        return lower > MOST_SHARED


def run_hashes(texts: Iterable[str], limit: int = ALL_HASHES) -> Hashes:
    """The different hashes [R] of the runs of texts, ascending; none above the limit."""
    found = [hash_runs(_letters(text), RUN_CHARACTERS, limit) for text in texts]
    return distinct(*found)


def sketch_documents(documents: Iterable[Iterable[str]]) -> TextSketch:
    """A sketch of documents, each in one or several pieces; runs that more than five of them have are left out.

    Of a document most of whose runs were there before, such as a copy with other line ends, only new runs are counted.
    """
    hashes, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
    limit, waiting, number, known = ALL_HASHES, list[Hashes](), 0, set[int]()
    for document in documents:
        runs = run_hashes(document, limit)
        new = _unknown(runs, known)
        waiting.append(runs[new] if 2 * new.sum() < len(runs) else runs)
        number += len(waiting[-1])
        if number > 4 * SKETCH_HASHES:
            hashes, counts, limit = _counted(hashes, counts, waiting, limit)
            waiting, number, known = [], 0, set(hashes.tolist())
        else:
            known.update(waiting[-1].tolist())
    hashes, counts, limit = _counted(hashes, counts, waiting, limit)
    return TextSketch(hashes[counts <= COMMON_DOCUMENTS], limit)


def _unknown(runs: Hashes, known: set[int]) -> NDArray[np.bool_]:
    """Which runs [R] of a document are not among known ones; of a long document without a Python number for each."""
    if len(runs) > 4 * SKETCH_HASHES:
        return ~np.isin(runs, np.fromiter(known, np.uint64, len(known)))
    return np.fromiter((run not in known for run in runs.tolist()), np.bool_, len(runs))


def dump_sketch(sketch: TextSketch) -> str:
    """The JSON text of a sketch; hashes are little-endian and in base64."""
    content = base64.b64encode(sketch.hashes.astype("<u8").tobytes()).decode()
    return json.dumps(
        {"format": FORMAT, "run_characters": RUN_CHARACTERS, "limit": sketch.limit, "hashes": content}, indent=1
    )


def parse_sketch(text: str, place: str) -> TextSketch:
    """Read the JSON text of a sketch.

    Args:
        text: as ``dump_sketch`` writes it.
        place: where it was read, for the error.

    Raises:
        TextsError: it is damaged, or of another version.
    """
    try:
        stated: dict[str, Any] = json.loads(text)
        if (stated["format"], stated["run_characters"]) != (FORMAT, RUN_CHARACTERS):
            raise ValueError(f"format {stated['format']!r}")
        hashes = np.frombuffer(base64.b64decode(stated["hashes"], validate=True), "<u8").astype(np.uint64)
        if not 0 <= stated["limit"] <= ALL_HASHES:
            raise ValueError(f"limit {stated['limit']!r}")
        return TextSketch(distinct(hashes), stated["limit"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise TextsError(
            f"The sketch of trained texts in {place} cannot be read ({error}).",
            f"It is needed in the format {FORMAT}: without it nobody sees what the weights were trained on.",
            "Export the checkpoint again, or download it again.",
        ) from None


def decode_pieces(tokenizer: Any, tokens: Tokens) -> Iterator[str]:
    """The text of tokens [any] in pieces, without special tokens."""
    for first in range(0, len(tokens), DECODED_AT_ONCE):
        piece = tokens[first : first + DECODED_AT_ONCE].tolist()
        yield tokenizer.decode(piece, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def hash_windows(text: TokenText, windows: Tokens, documents: Tokens, tokenizer: Any) -> dict[str, Hashes]:
    """The hashes of the runs in windows of a text, by the names of its documents.

    Args:
        text: where the windows were cut.
        windows: [W, N] tokens.
        documents: [W, N], which document of the text each of them belongs to.
        tokenizer: that they were made with.
    """
    pieces: dict[int, list[str]] = {}
    for window, numbers in zip(windows, documents, strict=True):
        borders = np.flatnonzero(np.diff(numbers)) + 1
        for number, part in zip(numbers[[0, *borders]], np.split(window, borders), strict=True):
            pieces.setdefault(int(number), []).extend(decode_pieces(tokenizer, part))
    found: dict[str, Hashes] = {}
    for number, parts in pieces.items():
        name = text.name_of(number)
        found[name] = distinct(found.get(name, np.zeros(0, np.uint64)), run_hashes(parts))
    return found


def sketch_common(runs: Hashes, text: TokenText, tokenizer: Any) -> TextSketch:
    """A sketch of what a text has in common with another one, which is given by the hashes of its runs."""
    asked = _smallest(runs, ALL_HASHES)
    ends = (*text.documents[1:], len(text.tokens))
    found = TextSketch(limit=asked.limit)
    for batch in _batched(text.tokens[first:last] for first, last in zip(text.documents, ends, strict=True)):
        pieces = (piece for tokens in batch for piece in decode_pieces(tokenizer, tokens))
        present = np.isin(asked.hashes, run_hashes(pieces, asked.limit), assume_unique=True)
        found = found.merged(TextSketch(asked.hashes[present], asked.limit))
    return found


def _batched(documents: Iterable[Tokens]) -> Iterator[list[Tokens]]:
    """Documents, or pieces of long ones as they are decoded, in groups of many tokens, but not of very many."""
    batch, number = list[Tokens](), 0
    for document in documents:
        for first in range(0, len(document), DECODED_AT_ONCE):
            batch.append(document[first : first + DECODED_AT_ONCE])
            number += len(batch[-1])
            if number >= DECODED_AT_ONCE:
                yield batch
                batch, number = [], 0
    yield batch


def check_apart(documents: Mapping[str, Hashes], other: TextSketch, purpose: str) -> Overlap:
    """Refuse documents to measure on that stand in other texts; return how much of all of them does.

    Args:
        documents: the hashes of the runs of each document, by its name.
        other: a sketch of the other texts.
        purpose: what these are for: ``search``, or ``tune``.

    Raises:
        TextsError: more than a fifth of all of it, or of one document with more than 20,000 characters in common.
    """
    overlap = other.overlap(all_runs(documents))
    parts = {name: other.overlap(runs) for name, runs in documents.items()}
    large = {
        name: part
        for name, part in parts.items()
        if part.is_large and (overlap.is_large or part.characters > LEAST_SHARED)
    }
    if not large and not overlap.is_large:
        return overlap
    name, worst = max((large or parts).items(), key=lambda item: item[1].characters)
    more = f" and {len(large) - 1:,} more" if len(large) > 1 else ""
    raise TextsError(
        f"Text to measure on is also text to {purpose} on: about {worst.share:.0%} of {name}{more}, "
        f"{overlap.share:.1%} of all.",
        f"At most {MOST_SHARED:.0%} of it may be; copies with changes count.",
        "Leave it out, or give other texts with --measure-data.",
    )


def all_runs(documents: Mapping[str, Hashes]) -> Hashes:
    """The different hashes of the runs of all documents."""
    return distinct(*documents.values())


def hash_runs(values: NDArray[Any], length: int, limit: int = ALL_HASHES) -> Hashes:
    """The different hashes of every run of ``length`` numbers: a polynomial by prefix sums modulo 2 ** 64, mixed."""
    if len(values) < length:
        return np.zeros(0, np.uint64)
    base, inverse = np.uint64(0x9E3779B97F4A7C15), np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
    with np.errstate(over="ignore"):
        powers = np.cumprod(np.full(len(values), base, np.uint64))
        unpowers = np.cumprod(np.full(len(values), inverse, np.uint64))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((values.astype(np.uint64) + np.uint64(1)) * powers)])
        hashes = (sums[length:] - sums[:-length]) * unpowers[: len(values) - length + 1]
        hashes ^= hashes >> np.uint64(31)
        hashes *= np.uint64(0xBF58476D1CE4E5B9)
        hashes ^= hashes >> np.uint64(27)
    return distinct(hashes[hashes <= np.uint64(limit)])


def distinct(*hashes: Hashes) -> Hashes:
    """The different ones of some hashes, ascending: ``np.unique`` of numpy 2.3 and later takes 20 times as long."""
    if not hashes:
        return np.zeros(0, np.uint64)
    ordered = np.sort(hashes[0] if len(hashes) == 1 else np.concatenate(hashes))
    first = np.concatenate([np.ones(len(ordered[:1]), bool), ordered[1:] != ordered[:-1]])
    found: Hashes = ordered[first]
    return found


def _letters(text: str) -> NDArray[np.uint32]:
    """The letters and digits of a text as numbers, in lower case."""
    codes = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), np.uint32)
    return codes[_alphanumeric()[codes]]


@cache
def _alphanumeric() -> NDArray[np.bool_]:
    """[0x110000] whether each code point is a letter or a digit."""
    return np.fromiter((chr(code).isalnum() for code in range(0x110000)), bool, 0x110000)


def _counted(
    hashes: Hashes, counts: NDArray[np.int64], documents: list[Hashes], limit: int
) -> tuple[Hashes, NDArray[np.int64], int]:
    """The smallest hashes so far with those of more documents, how many documents have each, and the new limit."""
    found, places = np.unique(np.concatenate([hashes, *documents]), return_inverse=True)
    weights = np.concatenate([counts, *(np.ones(len(document), np.int64) for document in documents)])
    totals = np.bincount(places, weights, minlength=len(found)).astype(np.int64)
    kept = _smallest(found, limit)
    return kept.hashes, totals[: len(kept.hashes)], kept.limit


def _smallest(hashes: Hashes, limit: int) -> TextSketch:
    """As many of ascending hashes as a sketch has."""
    if len(hashes) <= SKETCH_HASHES:
        return TextSketch(hashes, limit)
    return TextSketch(hashes[:SKETCH_HASHES], int(hashes[SKETCH_HASHES - 1]))
