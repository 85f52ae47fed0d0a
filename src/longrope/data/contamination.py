"""Contamination: names and sketches of what windows contain, so that nobody measures on text that was searched on.

Shape legend: W = windows, N = tokens of a window.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from longrope.data.sketches import ALL_HASHES, Hashes, Overlap, TextSketch, distinct, hash_runs
from longrope.data.windows import Tokens
from longrope.errors import TextsError

SHINGLE_TOKENS = 48
SKETCH_SIZE = 256


def fingerprint(windows: Tokens) -> str:
    """Sixteen hex digits that name the content of windows."""
    return hashlib.sha256(np.ascontiguousarray(windows, dtype=np.int32).tobytes()).hexdigest()[:16]


def sketch(windows: Tokens) -> tuple[int, ...]:
    """A bottom-k sketch of what windows [W, N] contain: the 256 smallest hashes of their 48-token shingles.

    Kept with the factors that were searched on these windows; ``check_unsearched`` compares other texts with it.
    """
    hashes = distinct(*(hash_runs(window, SHINGLE_TOKENS) for window in windows))
    return tuple(hashes[:SKETCH_SIZE].tolist())


def were_searched(windows: Tokens, searched: Sequence[int]) -> bool:
    """Whether windows [W, N] are among those of a sketch, as far as it tells."""
    overlap = _compare(windows, searched)[1]
    return overlap.found == overlap.asked


def check_unsearched(windows: Tokens, searched: Sequence[int]) -> Overlap:
    """Refuse windows that were searched on; return how much of them was, where a sketch tells it.

    Raises:
        TextsError: more than 1 % of the searched text stands in these windows, or more than a fifth of them in it. One
            shared licence header or table of contents passes; a page in common does not.
    """
    if not searched:
        return Overlap(0, 0, 0)
    known, overlap, runs = _compare(windows, searched)
    if (share := np.isin(known, runs).mean()) > 0.01 or overlap.is_large:
        raise TextsError(
            f"About {share:.0%} of the text that these factors were searched on stands in the text to measure on, "
            f"and is about {overlap.share:.0%} of it.",
            "A measurement needs text that no search has seen.",
            "Give other texts with --measure-data.",
        )
    return overlap


def _compare(windows: Tokens, searched: Sequence[int]) -> tuple[Hashes, Overlap, Hashes]:
    """The hashes of a sketch, how much of some windows is in it, and the hashes of these windows."""
    known = np.asarray(sorted(searched), dtype=np.uint64)
    runs = distinct(*(hash_runs(window, SHINGLE_TOKENS) for window in windows))
    return known, TextSketch(known, int(known[-1]) if len(known) == SKETCH_SIZE else ALL_HASHES).overlap(runs), runs
