"""Values and intervals against known distributions: coverage, brute force, roots of Wilson's equation."""

import math
import random
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from intervals import block_interval, document_interval

from longrope.evaluation.statistics import (
    difference_interval,
    perplexity_interval,
    ratio_interval,
    share_difference,
    share_interval,
    sum_units,
    units_ratio,
    wilson_interval,
)
from longrope.recipe import MeasureRecipe

# Perplexity


def perplexity(losses: list[list[float]]) -> float:
    """The value of the interval."""
    return perplexity_interval(np.array(losses), np.zeros(np.shape(losses), int), 0).value


def test_perplexity_is_not_a_mean_of_means() -> None:
    """Uneven losses in rows of one length, and a number worked out by hand: exp((3 * 1 + 3 * 2 + 3 * 6) / 9) = e^3."""
    rows = [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0], [6.0, 6.0, 6.0]]
    assert perplexity(rows) == pytest.approx(math.e**3)
    assert perplexity(rows) < np.exp(rows).mean() / 5
    assert perplexity([[0.0, 0.0, 3.0]]) == pytest.approx(math.e)


def test_a_perplexity_beyond_all_floats_is_infinite() -> None:
    assert perplexity([[701.0, 701.0]]) == math.inf


# Blocks


@settings(deadline=None)
@given(rows=st.integers(1, 6), columns=st.integers(1, 1500), scale=st.floats(0, 3), seed=st.integers(0, 99))
def test_the_interval_holds_the_value(rows: int, columns: int, scale: float, seed: int) -> None:
    losses = np.random.default_rng(seed).normal(3, scale, (rows, columns))
    low, high = block_interval(losses, seed)
    value = float(np.exp(losses.mean()))
    assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)


def test_the_interval_is_decided_by_its_seed() -> None:
    losses = np.random.default_rng(0).gamma(1, 3, (4, 4096))
    assert block_interval(losses, 1) == block_interval(losses, 1)
    assert block_interval(losses, 1) != block_interval(losses, 2)


def test_the_interval_shrinks_with_the_square_root_of_the_data() -> None:
    losses = np.random.default_rng(0).gamma(1, 3, (400, 512))
    widths = [math.log(high / low) for low, high in (block_interval(losses[:n], 0) for n in (25, 100, 400))]
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.35)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.35)


def correlated(rng: np.random.Generator, rows: int, columns: int, memory: float) -> np.ndarray:
    """Losses around 3 nats whose neighbours hang together by ``memory`` (an autoregression of order one)."""
    noise = rng.normal(size=(rows, columns)) * math.sqrt(1 - memory**2)
    losses = np.empty((rows, columns))
    losses[:, 0] = rng.normal(size=rows)
    for i in range(1, columns):
        losses[:, i] = memory * losses[:, i - 1] + noise[:, i]
    return losses + 3


def coverage(draw: Callable[[np.random.Generator], np.ndarray], rounds: int = 300) -> float:
    """How often the interval of fresh losses with a mean of 3 nats holds e^3."""
    rng = np.random.default_rng(0)
    intervals = [block_interval(draw(rng), seed) for seed in range(rounds)]
    return sum(low <= math.exp(3) <= high for low, high in intervals) / rounds


@pytest.mark.parametrize("shape", [(8, 4096), (3, 16_384), (64, 511)])
def test_the_interval_covers_as_often_as_it_says(shape: tuple[int, int]) -> None:
    """Independent skewed losses: 95 % is promised; 300 rounds have a standard error of 1.3 %."""
    assert 0.90 <= coverage(lambda rng: rng.gamma(1, 3, shape)) <= 0.99


def test_the_interval_of_losses_that_hang_together_covers_too() -> None:
    """Drawing single tokens would cover 20 % here."""
    assert coverage(lambda rng: correlated(rng, 8, 4096, 0.98), rounds=200) >= 0.86


def test_the_interval_of_the_default_tail_covers() -> None:
    """Three windows of a tail of 1024 tokens are what the default recipe publishes."""
    default = MeasureRecipe()
    assert coverage(lambda rng: rng.gamma(1, 3, (default.windows, default.tail_tokens))) >= 0.88


def test_a_single_short_window_has_an_interval() -> None:
    losses = np.random.default_rng(0).gamma(1, 3, (1, 300))
    low, high = block_interval(losses, 0)
    assert high > 1.05 * low


# Documents


def books(rng: np.random.Generator, count: int, *, tokens: float = 55) -> tuple[np.ndarray, np.ndarray]:
    """Losses [1, N] around 3 nats of documents of unlike lengths with means of their own, and their numbers [1, N]."""
    sizes = np.maximum(20, tokens * rng.lognormal(0, 0.5, count)).astype(int)
    own = np.repeat(rng.normal(3, 0.3, count), sizes)
    return (own + rng.normal(0, 2, len(own)))[None], np.repeat(np.arange(count), sizes)[None]


def covered(
    interval: Callable[[np.ndarray, np.ndarray], tuple[float, float]], count: int, rounds: int, tokens: float = 55
) -> float:
    """How often an interval of fresh documents holds the perplexity e^3 that new documents would have."""
    rng = np.random.default_rng(0)
    intervals = [interval(*books(rng, count, tokens=tokens)) for _ in range(rounds)]
    return sum(low <= math.exp(3) <= high for low, high in intervals) / rounds


@pytest.mark.parametrize("count", [10, 15, 40])
def test_resampled_documents_cover_as_often_as_they_say(count: int) -> None:
    """95 % is promised, from ten documents on; 700 rounds have a standard error of 0.8 %."""
    assert 0.92 <= covered(lambda losses, documents: document_interval(losses, documents, 1), count, rounds=700) <= 0.97


def test_blocks_of_documents_with_their_own_means_do_not_cover() -> None:
    """Why documents are drawn: the blocks of one are alike, and yet count as independent ones."""
    assert covered(lambda losses, _: block_interval(losses, seed=1), 20, rounds=100, tokens=5000) < 0.6


def by_hand(losses: np.ndarray, documents: np.ndarray, rounds: int, seed: int) -> tuple[float, float]:
    """The interval by one document after the other: token lists drawn whole, Student's quantile from a table."""
    rng = random.Random(seed)  # noqa: S311
    names = sorted(set(documents.ravel().tolist()))
    tokens = {name: losses[documents == name].tolist() for name in names}
    assert len(names) == 10
    values = []
    for _ in range(rounds):
        drawn = [loss for name in rng.choices(names, k=10) for loss in tokens[name]]
        values.append(math.exp(math.fsum(drawn) / len(drawn)))
    outside = NormalDist().cdf(-math.sqrt(10 / 9) * 2.262157)  # t of 9 degrees of freedom
    low, high = np.quantile(values, [outside, 1 - outside])
    return float(low), float(high)


def test_the_interval_over_documents_is_that_of_brute_force() -> None:
    """Documents that lie in two windows, and windows of several documents, in any order."""
    rng = np.random.default_rng(5)
    documents = np.array([[0] * 30 + [1] * 20 + [2] * 50, [2] * 10 + [3] * 60 + [4] * 30, [5] * 40 + [6] * 60])
    documents = np.concatenate([documents, [[9] * 5 + [7] * 80 + [8] * 15]])
    losses = rng.gamma(1, 3, documents.shape) + 0.3 * documents
    expected = by_hand(losses, documents, rounds=8000, seed=1)
    assert document_interval(losses, documents, 0) == pytest.approx(expected, rel=0.06)
    order = rng.permutation(losses.size)
    again, numbers = (x.ravel()[order].reshape(losses.shape) for x in (losses, documents))
    assert document_interval(again, numbers, 0) == pytest.approx(document_interval(losses, documents, 0), rel=1e-9)


def test_five_documents_are_resampled_and_four_are_not() -> None:
    rng = np.random.default_rng(0)
    losses = rng.gamma(1, 3, (4, 500))
    for count, resampled in ((10, "documents"), (9, "documents"), (5, "documents"), (4, "blocks")):
        documents = np.sort(rng.permutation(np.arange(2000) % count)).reshape(4, 500)
        found = perplexity_interval(losses, documents, 3)
        expected = document_interval(losses, documents, 3) if count >= 5 else block_interval(losses, 3)
        assert found.value == pytest.approx(np.exp(losses.mean()), rel=1e-12)
        assert found[1:] == (*expected, resampled)


def test_a_ratio_draws_the_same_documents_for_both() -> None:
    """What a document costs both methods does not widen it; a constant factor is known exactly."""
    losses, documents = books(np.random.default_rng(0), 12)
    exact = ratio_interval(losses + 0.25, losses, documents, 0)
    assert exact[:3] == pytest.approx([math.exp(0.25)] * 3)
    assert exact.resampled == "documents"
    wide = perplexity_interval(losses, documents, 0)
    assert wide.high / wide.low > 1.1


@pytest.mark.parametrize("count", [3, 7, 12])
def test_a_ratio_needs_no_more_than_the_sums_and_counts_of_each_method(count: int) -> None:
    """Summed apart they give what the differences of the two losses of each token give."""
    theirs, documents = books(np.random.default_rng(count), count, tokens=3000)
    ours = theirs + np.random.default_rng(1).normal(0.02, 0.5, theirs.shape)
    by_token = perplexity_interval(ours - theirs, documents, 5)
    apart = units_ratio(sum_units(ours, documents), sum_units(theirs, documents), 5)
    assert apart[:3] == pytest.approx(by_token[:3], rel=1e-12)
    assert apart == ratio_interval(ours, theirs, documents, 5)
    assert apart.resampled == by_token.resampled == ("blocks" if count == 3 else "documents")


def test_units_are_whole_documents_in_order_or_blocks_of_one_window() -> None:
    losses, documents = np.arange(12.0).reshape(2, 6), np.array([[1, 1, 2, 2, 2, 5], [5, 5, 7, 7, 9, 9]])
    units = sum_units(losses, documents)
    assert (units.sums.tolist(), units.counts.tolist()) == ([1.0, 9.0, 18.0, 17.0, 21.0], [2, 3, 3, 2, 2])
    blocks = sum_units(np.ones((3, 500)), np.zeros((3, 500)))  # 1500 // 32 = 46 tokens, and what is left of a window
    assert blocks.counts.tolist() == blocks.sums.tolist() == ([46] * 10 + [40]) * 3
    assert (units.resampled, blocks.resampled) == ("documents", "blocks")


def test_shares_and_their_differences_have_the_intervals_of_their_counts() -> None:
    ours, theirs = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 0], bool), np.array([1, 0, 0, 1, 0, 1, 0, 0, 1, 0], bool)
    assert share_interval(ours.astype(float).tolist()) == (0.7, *wilson_interval(7, 10), "")
    for interval, value, bounds in (
        (share_interval([0.5, 0.25, 1.0]), 7 / 12, wilson_interval(1.75, 3)),
        (share_difference(ours, theirs), 0.3, difference_interval(4, 1, 10)),
    ):
        assert interval.value == pytest.approx(value)
        assert interval[1:] == (*bounds, "")


# Differences


def difference_by_search(gained: int, lost: int, pairs: int) -> tuple[float, float]:
    """The interval by brute force: for each difference of a grid, the likeliest table of counts that has it.

    The score test refuses a difference whose distance to the one observed is more than 1.96 of the standard errors that
    it has in that table.
    """
    z, observed = 1.959963984540054, (gained - lost) / pairs
    kept = []
    for difference in np.linspace(-1, 1, 2001):
        share = np.linspace(max(0.0, -difference), (1 - difference) / 2, 2001)  # of lost pairs
        rest = np.clip(1 - 2 * share - difference, 0, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            counts = ((gained, share + difference), (lost, share), (pairs - gained - lost, rest))
            likelihood = sum(count * np.log(np.clip(p, 0, 1)) for count, p in counts if count)
        best = share[np.argmax(likelihood)]
        error = math.sqrt(max(0.0, 2 * best + difference - difference**2) / pairs)
        if abs(observed - difference) <= z * error + 1e-9:
            kept.append(float(difference))
    return min(kept), max(kept)


@pytest.mark.parametrize(
    ("gained", "lost", "pairs"),
    [(12, 2, 50), (2, 12, 50), (0, 0, 20), (5, 0, 20), (20, 0, 20), (0, 10, 10), (3, 3, 10), (1, 0, 10), (40, 30, 100)],
)
def test_the_interval_of_a_difference_is_that_of_the_score_test(gained: int, lost: int, pairs: int) -> None:
    assert difference_interval(gained, lost, pairs) == pytest.approx(
        difference_by_search(gained, lost, pairs), abs=2e-3
    )


def test_the_interval_of_a_difference_covers_as_often_as_it_says() -> None:
    """Keys answered by 70 % and 50 %, and mostly the same ones: 95 % is promised for the difference of 20 %."""
    rng = np.random.default_rng(0)
    tables = rng.multinomial(20, [0.25, 0.05, 0.7], size=4000)  # gained, lost, alike
    covered = [low <= 0.2 <= high for low, high in (difference_interval(int(b), int(c), 20) for b, c, _ in tables)]
    assert 0.93 <= np.mean(covered) <= 0.98


@settings(deadline=None)
@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_the_interval_of_a_difference_holds_it_and_turns_with_it(counts: tuple[int, int, int]) -> None:
    gained, lost, pairs = min(counts[0], counts[2] // 2), min(counts[1], counts[2] // 2), counts[2]
    low, high = difference_interval(gained, lost, pairs)
    assert -1 <= low <= (gained - lost) / pairs <= high <= 1
    turned = difference_interval(lost, gained, pairs)
    assert (low, high) == pytest.approx((-turned[1], -turned[0]), abs=1e-9)
    assert low < high


def test_pairing_narrows_a_difference() -> None:
    """Both answer the same 30 of 50 keys, one of them six more: apart the intervals overlap, paired it is told."""
    apart = wilson_interval(36, 50)[0], wilson_interval(30, 50)[1]
    assert apart[0] < apart[1]
    assert difference_interval(6, 0, 50)[0] > 0


# Wilson's interval


def wilson_by_roots(successes: int, trials: int) -> tuple[float, float]:
    """The two shares p that lie 1.96 of their own standard errors away: roots of (x/n - p)^2 = z^2 p (1 - p) / n."""
    z, share = 1.959963984540054, successes / trials
    roots = np.roots([1 + z * z / trials, -(2 * share + z * z / trials), share * share])
    low, high = sorted(float(root.real) for root in roots)
    return low, high


def test_wilson_interval_of_known_numbers() -> None:
    """As printed in tables: 0 of 10, 7 of 10, 10 of 10, 81 of 263 (Newcombe 1998)."""
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=5e-5)
    assert wilson_interval(7, 10) == pytest.approx((0.3968, 0.8922), abs=5e-5)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_the_root_of_its_equation(counts: tuple[int, int]) -> None:
    low, high = wilson_interval(*counts)
    assert (low, high) == pytest.approx(wilson_by_roots(*counts), abs=1e-5)
    assert 0 <= low <= counts[0] / counts[1] + 1e-12
    assert counts[0] / counts[1] - 1e-12 <= high <= 1
