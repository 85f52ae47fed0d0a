"""Intervals over documents against a simulation whose documents have means of their own."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from intervals import block_interval, document_interval

from longrope.evaluation.statistics import ratio_interval

STUDENT = {5: 2.776445, 9: 2.306004}  # 97.5 % quantiles by the number of documents, from a table


def texts(rng: np.random.Generator, count: int, tokens: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses [1, N] of two methods on documents of unlike lengths, and the documents; the first is worse by 0.1 nats.

    A document has a mean of its own (3 nats with a deviation of 0.3), which both methods share, and the difference of
    the two has one, too (0.1 nats with a deviation of 0.05).
    """
    sizes = np.maximum(20, tokens * rng.lognormal(0, 0.5, count)).astype(int)
    shared, own = rng.normal(3, 0.3, count), rng.normal(0.1, 0.05, count)
    theirs = np.repeat(shared, sizes) + rng.normal(0, 2, sizes.sum())
    ours = theirs + np.repeat(own, sizes) + rng.normal(0, 0.2, sizes.sum())
    return ours[None], theirs[None], np.repeat(np.arange(count), sizes)[None]


def covered(
    interval: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[float, float]],
    count: int,
    value: float,
    rounds: int = 1500,
    tokens: int = 60,
) -> float:
    """How often an interval of fresh documents holds the value that new documents would have."""
    rng = np.random.default_rng(count)
    intervals = [interval(*texts(rng, count, tokens)) for _ in range(rounds)]
    return sum(low <= value <= high for low, high in intervals) / rounds


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 7, 8, 9, 10, 12, 24])
def test_perplexities_cover_new_documents(count: int) -> None:
    """95 % is promised; 1,500 rounds have a standard error of 0.6 %."""
    assert 0.92 <= covered(lambda _, theirs, books: document_interval(theirs, books, 1), count, math.exp(3)) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 8, 10, 24])
def test_paired_ratios_cover_new_documents(count: int) -> None:
    """What documents cost both methods is large here, and does not count."""

    def paired(ours: np.ndarray, theirs: np.ndarray, documents: np.ndarray) -> tuple[float, float]:
        found = ratio_interval(ours, theirs, documents, 1)
        return found.low, found.high

    assert 0.92 <= covered(paired, count, math.exp(0.1)) <= 0.97


@pytest.mark.slow
def test_blocks_of_few_documents_do_not_cover() -> None:
    """Why five documents are not resampled by blocks."""
    assert covered(lambda _, theirs, __: block_interval(theirs, 1), 5, math.exp(3), rounds=100, tokens=4000) < 0.6


@pytest.mark.parametrize("count", [5, 9])
def test_few_documents_are_left_out_one_by_one(count: int) -> None:
    """By a loop over the documents, with Student's quantile from a table."""
    ours, _, documents = texts(np.random.default_rng(0), count)
    without = [ours[documents != i].mean() for i in range(count)]
    error = math.sqrt((count - 1) * np.var(without))
    expected = [math.exp(ours.mean() + sign * STUDENT[count] * error) for sign in (-1, 1)]
    assert document_interval(ours, documents, 0) == pytest.approx(expected, rel=2e-3)
    assert document_interval(ours, documents, 0) == document_interval(ours, documents, 9)  # nothing is drawn


def test_documents_that_are_alike_have_no_width() -> None:
    documents = np.repeat(np.arange(6), 10)[None]
    low, high = document_interval(np.full((1, 60), 2.0), documents, 0)
    assert low == pytest.approx(math.exp(2), rel=1e-12)
    assert high == pytest.approx(math.exp(2), rel=1e-12)


@pytest.mark.parametrize("tokens", [2, 3, 5, 8, 16, 31])
def test_few_tokens_tell_no_two_methods_apart_that_are_alike(tokens: int) -> None:
    """Less than a block: each token counts as a document does. 5 % is promised; 400 rounds have an error of 1.1 %."""
    rng, documents = np.random.default_rng(tokens), np.zeros((1, tokens), int)
    apart = 0
    for seed in range(400):
        interval = ratio_interval(rng.normal(1, 1, (1, tokens)), rng.normal(1, 1, (1, tokens)), documents, seed)
        apart += not interval.low <= 1 <= interval.high
    assert apart / 400 < 0.085


def test_one_token_has_no_interval() -> None:
    interval = ratio_interval(np.ones((1, 1)), np.zeros((1, 1)), np.zeros((1, 1), int), 0)
    assert interval.value == pytest.approx(math.e)
    assert (interval.low, interval.high) == (0.0, math.inf)
