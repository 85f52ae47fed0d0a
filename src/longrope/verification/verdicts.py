"""What a client did at one length, by how far its log-probabilities are from those of each candidate.

Shape legend: K = last positions, V = vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longrope.verification.running import Row

APPLIED, ORIGINAL, OTHER, UNCLEAR, REFUSED = "applied", "original", "other scaling", "unclear", "refused"
CLEAR = 4  # times as far as the candidate itself any other one must be

LogProbabilities = NDArray[np.floating]  # [K, V]
Candidates = Mapping[str, LogProbabilities]


@dataclass(frozen=True)
class Finding:
    """What a client did with sequences of one length.

    Attributes:
        tokens: the length.
        verdict: ``applied``, ``original``, ``other scaling`` or ``unclear``.
        difference_nats: the largest difference of a log-probability from ours with the scaling.
        as_: the candidate that it is like, empty if none.
    """

    tokens: int
    verdict: str
    difference_nats: float
    as_: str = ""


def largest_difference(rows: Sequence[Row], ours: LogProbabilities) -> float:
    """The largest difference in nats between a client's log-probabilities and ours of the same tokens.

    Args:
        rows: for each of K positions the client's likeliest tokens.
        ours: [K, V].

    Returns:
        Infinity where the client gives no numbers, or tokens that the model does not have.
    """
    differences = [
        abs(value - float(of[token])) if 0 <= token < len(of) else math.inf
        for row, of in zip(rows, ours, strict=True)
        for token, value in row
    ]
    largest = max(differences, default=math.inf)
    return largest if math.isfinite(largest) and all(map(math.isfinite, differences)) else math.inf


def judge(
    tokens: int,
    rows: Sequence[Row],
    *,
    accepted: Candidates,
    faults: Candidates,
    more_faults: Callable[[], Candidates],
    originals: Sequence[str],
    tolerance: float,
) -> Finding:
    """Decide what a client did.

    It applied the scaling if its numbers are within the tolerance of it, and far from every candidate that differs.

    Args:
        tokens: the length of the sequence.
        rows: the client's log-probabilities.
        accepted: ours, with what it may apply.
        faults: ours, with what it may have done; none of them equal to an accepted one.
        more_faults: makes others, where none of these fits.
        originals: begin the names of candidates in which a scaling is ignored.
        tolerance: the largest difference in nats that number formats explain.
    """
    right = {name: largest_difference(rows, ours) for name, ours in accepted.items()}
    best = min(right, key=lambda name: right[name])
    wrong = {name: largest_difference(rows, ours) for name, ours in faults.items()}
    if right[best] <= tolerance and all(CLEAR * right[best] <= far for far in wrong.values()):
        return Finding(tokens, APPLIED, right[best], best)
    if not wrong or CLEAR * min(wrong.values()) > right[best]:
        wrong |= {name: largest_difference(rows, ours) for name, ours in more_faults().items()}
    nearest = min(wrong, key=lambda name: wrong[name], default="")
    if nearest and wrong[nearest] <= tolerance and CLEAR * wrong[nearest] <= right[best]:
        return Finding(tokens, ORIGINAL if nearest.startswith(tuple(originals)) else OTHER, right[best], nearest)
    if right[best] <= tolerance:
        return Finding(tokens, UNCLEAR, right[best])
    return Finding(tokens, OTHER, right[best])
