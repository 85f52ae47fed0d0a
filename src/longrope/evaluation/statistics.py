"""Values and 95 % intervals as pure functions of arrays: no model, no file.

Shape legend: W = windows, N - 1 = scored tokens of a window, U = units that are resampled, K = prompts.

Losses of one text depend on each other, so whole documents are resampled where there are at least five, and blocks of
consecutive tokens where there are fewer: such an interval says nothing about other documents. Answers about one text
depend on each other, too, so shares of several prompts in a text count as fewer prompts. Two methods are compared on
the same tokens or prompts, with paired intervals.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Losses = NDArray[np.float64]
BLOCK_TOKENS = 512
FEWEST_BLOCKS = 32
FEWEST_DOCUMENTS, FEWEST_DRAWN = 5, 10
RESAMPLES = 2000
Z_95 = 1.959964


class Interval(NamedTuple):
    """A value with its 95 % interval, and what was resampled for it (``documents``, ``blocks``, or nothing)."""

    value: float
    low: float
    high: float
    resampled: str = ""


class Units(NamedTuple):
    """Losses by what is resampled: all that a perplexity and its interval depend on, without the loss of every token.

    Attributes:
        sums: [U] of the losses of each unit in nats.
        counts: [U] of its tokens.
        resampled: what a unit is: ``documents``, or ``blocks`` of consecutive tokens of one window.
    """

    sums: Losses
    counts: NDArray[np.int64]
    resampled: str


def perplexity_interval(losses: Losses, documents: NDArray[Any], seed: int) -> Interval:
    """Perplexity of losses, with an interval over whole documents where there are five or more, else over blocks.

    Args:
        losses: [W, N - 1] in nats.
        documents: [W, N - 1], which document each scored token belongs to.
        seed: of the bootstrap.
    """
    return units_interval(sum_units(losses, documents), seed)


def ratio_interval(ours: Losses, theirs: Losses, documents: NDArray[Any], seed: int) -> Interval:
    """One perplexity as a share of another on the same tokens, with a paired interval; see ``units_ratio``.

    Args:
        ours: [W, N - 1] losses in nats.
        theirs: [W, N - 1] losses of the same tokens by the other.
        documents: [W, N - 1], as for ``perplexity_interval``.
        seed: of the bootstrap.
    """
    return units_ratio(sum_units(ours, documents), sum_units(theirs, documents), seed)


def sum_units(losses: Losses, documents: NDArray[Any]) -> Units:
    """The units of losses [W, N - 1]: documents where there are five or more, else blocks."""
    units = document_units(losses, documents)
    return block_units(losses) if len(units.counts) < FEWEST_DOCUMENTS else units


def document_units(losses: Losses, documents: NDArray[Any]) -> Units:
    """Losses [W, N - 1] by document, in the order of their numbers; one counts once, though several windows hold it."""
    _, index = np.unique(documents, return_inverse=True)
    sums = np.asarray(np.bincount(index.ravel(), weights=losses.ravel()), np.float64)
    return Units(sums, np.bincount(index.ravel()), "documents")


def block_units(losses: Losses) -> Units:
    """Losses [W, N - 1] by block of consecutive tokens of one window.

    Neighbouring losses depend on each other, so blocks are drawn, not tokens; windows alone would be too few. Blocks
    have 512 tokens, or fewer where that would leave less than 32 of them.
    """
    block = max(1, min(BLOCK_TOKENS, losses.shape[1], losses.size // FEWEST_BLOCKS))
    edges = np.arange(0, losses.shape[1], block)
    sums = np.add.reduceat(losses, edges, axis=1).ravel()
    return Units(sums, np.tile(np.diff(np.append(edges, losses.shape[1])), len(losses)), "blocks")


def units_ratio(ours: Units, theirs: Units, seed: int) -> Interval:
    """One perplexity as a share of another of the same units, with a paired interval.

    The differences of the two sums of each unit are resampled, so that the same documents (or blocks) are drawn for
    both; what makes some texts harder than others for both does not widen the interval.
    """
    return units_interval(ours._replace(sums=ours.sums - theirs.sums), seed)


def units_interval(units: Units, seed: int) -> Interval:
    """The perplexity of units, with its 95 % interval.

    Blocks are drawn, and so are ten or more documents. Percentiles of a bootstrap are too narrow for few documents;
    they are taken further out, as far as Student's distribution asks (the expanded percentile interval, Hesterberg
    2015, The American Statistician 69). Fewer documents, two or more, are left out one by one (the jackknife, Tukey
    1958), with Student's quantile, for that covers more often there.
    """
    sums, counts, resampled = units
    count, outside = len(counts), 0.025
    value = _exp_mean(float(sums.sum()), int(counts.sum()))
    if resampled == "documents" or count < FEWEST_BLOCKS:  # so few blocks are tokens, all that there are
        if count < 2:
            return Interval(value, 0.0, math.inf, resampled)
        if count < FEWEST_DRAWN:
            return Interval(value, *_jackknife(sums, counts), resampled)
        outside = NormalDist().cdf(-math.sqrt(count / (count - 1)) * _student_95(count - 1))
    return Interval(value, *_bootstrap(sums, counts, seed, outside), resampled)


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """95 % Wilson score interval of a share (Wilson 1927); successes in part count in part."""
    z = Z_95
    share, spread = successes / trials, z * z / trials
    centre = share + spread / 2
    reach = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, (centre - reach) / (1 + spread)), min(1.0, (centre + reach) / (1 + spread))


def share_interval(shares: Sequence[float], texts: NDArray[np.int64] | None = None) -> Interval:
    """The mean of shares [K], each between 0 and 1, with Wilson's interval: one trial for each of them.

    A share between 0 and 1 counts in part: the variance of such shares is at most that of answers which are right or
    wrong. Of several prompts in a text, the trials are as many as ``independent_prompts`` says.

    Args:
        shares: of each prompt.
        texts: [K] the number of the text that each prompt stands in. Without it each has a text of its own.
    """
    value, trials = sum(shares) / len(shares), independent_prompts(np.asarray(shares, float), texts)
    return Interval(value, *wilson_interval(value * trials, trials))


def share_difference(ours: NDArray[Any], theirs: NDArray[Any], texts: NDArray[np.int64] | None = None) -> Interval:
    """The mean share of the same answers [K] that one method has right less that of another, paired by answer.

    Args:
        ours: which are right, or shares between 0 and 1, which count in part.
        theirs: likewise.
        texts: [K] as for ``share_interval``.
    """
    gains = ours.astype(float) - theirs
    gained, lost = (float(np.maximum(sign * gains, 0).sum()) for sign in (1, -1))
    count, part = len(gains), independent_prompts(gains, texts) / len(gains)
    return Interval((gained - lost) / count, *difference_interval(gained * part, lost * part, count * part))


def interval_of_mean(intervals: Sequence[Interval]) -> Interval:
    """The mean of independent values, with an interval made from theirs.

    Each side is the root of the sum of their squared sides, divided by their number (Zou and Donner 2008, Statistics in
    Medicine 27).
    """
    value, count = sum(each.value for each in intervals) / len(intervals), len(intervals)
    below = math.hypot(*(each.value - each.low for each in intervals)) / count
    above = math.hypot(*(each.high - each.value for each in intervals)) / count
    return Interval(value, value - below, value + above)


def independent_prompts(values: NDArray[np.float64], texts: NDArray[np.int64] | None) -> float:
    """How many independent prompts would tell as much as these, of which several stand in a text.

    That is K divided by the design effect, the variance of the mean of whole texts divided by that of single prompts
    (Rao and Scott 1992, Biometrics 48), and by the square of the ratio of Student's quantiles for so few texts and so
    many prompts (Korn and Graubard 1998, Survey Methodology 24); at most K. Of one text alone, and where all values are
    alike, it is K, since nothing shows how texts differ: such an interval says nothing about other texts.

    Args:
        values: [K] shares, or differences of two methods.
        texts: [K] the number of the text that each stands in; None where each has its own.
    """
    count = len(values)
    if texts is None:
        return count
    _, index = np.unique(texts, return_inverse=True)
    groups, apart = int(index.max()) + 1, values - values.mean()
    alone, together = float((apart**2).sum()), float((np.bincount(index, weights=apart) ** 2).sum())
    if groups in (1, count) or not alone or not together:
        return count
    effect = groups / (groups - 1) * together / alone * (_student_95(groups - 1) / _student_95(count - 1)) ** 2
    return count / max(1.0, effect)


def difference_interval(gained: float, lost: float, pairs: float) -> tuple[float, float]:
    """95 % score interval of the difference of two shares of the same pairs (Tango 1998, Statistics in Medicine 17).

    It holds the differences that a score test of the paired counts does not refuse. Where all pairs agree it stays
    wide, unlike a bootstrap, which has nothing to draw there.

    Args:
        gained: pairs that the first alone has right; those in part count in part.
        lost: pairs that the second alone has right.
        pairs: all of them.
    """
    value = (gained - lost) / pairs

    def refused(difference: float) -> bool:
        linear = (2 * pairs - gained + lost) * difference - gained - lost
        root = math.sqrt(max(0.0, linear**2 + 8 * pairs * lost * difference * (1 - difference)))
        share_lost = (root - linear) / (4 * pairs)  # the likeliest share of lost pairs, given the difference
        variance = pairs * (2 * share_lost + difference * (1 - difference))
        return (gained - lost - pairs * difference) ** 2 > Z_95**2 * max(0.0, variance)

    return _bisect(refused, value, -1.0), _bisect(refused, value, 1.0)


def _exp_mean(total: float, count: int) -> float:
    """exp(sum of the losses in nats / number of losses), infinite beyond what a float holds."""
    mean = total / count
    return math.exp(mean) if mean < 700 else math.inf


def _bootstrap(sums: NDArray[Any], counts: NDArray[Any], seed: int, outside: float) -> tuple[float, float]:
    """Quantiles ``outside`` and 1 - ``outside`` of exp(sum / count) over resamples of some units."""
    drawn = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.exp(np.minimum(np.quantile(means, [outside, 1 - outside]), 700))
    return float(low), float(high)


def _jackknife(sums: NDArray[Any], counts: NDArray[Any]) -> tuple[float, float]:
    """95 % interval of exp(sum / count) over some units, each of them left out in turn."""
    n = len(sums)
    others = (sums.sum() - sums) / (counts.sum() - counts)
    reach = _student_95(n - 1) * math.sqrt((n - 1) / n * float(((others - others.mean()) ** 2).sum()))
    mean = float(sums.sum() / counts.sum())
    return math.exp(min(mean - reach, 700)), math.exp(min(mean + reach, 700))


def _student_95(freedom: int) -> float:
    """The 97.5 % quantile of Student's distribution, by Fisher's expansion; within 0.3 % from 4 degrees on."""
    z, n = Z_95, freedom
    if n < 4:
        return (12.706205, 4.302653, 3.182446)[n - 1]
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / n**power for power, term in enumerate(terms, 1))


def _bisect(refused: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where a test that accepts ``inside`` begins to refuse on the way to ``outside``."""
    if not refused(outside):
        return outside
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if refused(middle) else (middle, outside)
    return inside
