"""The verdict of a run in one sentence: which method won what by how much, and what it costs at short lengths.

The terminal, the page and the model card ask here, so that they say the same: data first (``conclude``), words last
(``describe_verdict``). Methods differ where the interval of a paired comparison leaves out "alike"; where records hold
no paired comparison of a metric, where their own intervals do not overlap, and the sentence says so.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from longrope.labels import Source, compared_with, metric_label, write_interval
from longrope.labels import write_value as write
from longrope.metrics import (
    ACCURACY,
    CHAT_NEEDLE,
    DIFFERENCE,
    LAST_TOKENS,
    LONG_PPL,
    MANY_PASSKEYS,
    PROSE,
    RATIO,
    RULER_SUBSET,
    SUMMARY,
    USES,
)
from longrope.registry import ORIGINAL, TUNED, baselines
from longrope.runs.records import Score

PERPLEXITY = "perplexity"
BY_EVALUATOR = f"{LONG_PPL}by-"
LESS = ("prefix-perplexity", "position-perplexity")  # is better; compared where nothing below is
MORE = (MANY_PASSKEYS, CHAT_NEEDLE, *USES, SUMMARY)  # is better; the same
OTHERS = (*LESS, *MORE)
PERPLEXITIES = (PERPLEXITY, LAST_TOKENS, BY_EVALUATOR, *LESS)  # less is better
PAIRS = {  # the records of paired comparisons, and what they are of
    RATIO: PERPLEXITY,
    f"{LAST_TOKENS}{RATIO}": LAST_TOKENS,
    f"{LONG_PPL}{RATIO}": BY_EVALUATOR,
    DIFFERENCE: "passkey",
    f"{PROSE}-{DIFFERENCE}": PROSE,
    f"{ACCURACY}-{DIFFERENCE}": ACCURACY,
    f"{MANY_PASSKEYS}-{DIFFERENCE}": MANY_PASSKEYS,
}
SHARES = (
    ACCURACY,
    PROSE,
    "passkey",
    "needle",
    "ruler",
    RULER_SUBSET,
    "effective-length",
    *MORE,
)  # more is better
Outcome = Literal["ahead", "behind", "alike"]


@dataclass(frozen=True)
class Comparison:
    """One metric of two methods at one length.

    Attributes:
        metric: its name in records; ``last-tokens-`` without their number, ``longppl-by-`` without the evaluator.
        ours, theirs: the values; None where one has no record of its own.
        pair: the paired comparison; None where there is none, and their own intervals decide.
        outcome: of ours, against theirs.
    """

    metric: str
    ours: Score | None
    theirs: Score | None
    pair: Score | None
    outcome: Outcome


@dataclass(frozen=True)
class ShortTexts:
    """Perplexity at a short length as a share of the original model's.

    Attributes:
        context_tokens: the length.
        ratio, low, high: with a 95 % interval where it is a paired one, else without ends (NaN).
        exported: whether it is that of the exported checkpoint.
        trained: whether its weights were trained; then the share is of what they have with the model's own RoPE.
    """

    context_tokens: int
    ratio: float
    low: float = math.nan
    high: float = math.nan
    exported: bool = False
    trained: bool = False


@dataclass(frozen=True)
class Verdict:
    """How the best of what was found compares with the best baseline.

    Attributes:
        context_tokens: the longest length that both were measured at.
        ours: what was found.
        theirs: the best baseline by perplexity; the original model where no baseline was measured.
        comparisons: by metric.
        short: what it costs at a short length, as far as it was measured.
    """

    context_tokens: int
    ours: Source
    theirs: Source
    comparisons: tuple[Comparison, ...]
    short: ShortTexts | None


def conclude(
    scores: Sequence[Score], export: Mapping[str, Any] | None = None, *, own: Sequence[Score] | None = None
) -> Verdict | None:
    """The verdict of the scores of a run; None where nothing was found, or nothing else was measured.

    Args:
        scores: all of them.
        export: the content of ``export.json``, whose short texts come before those of the scores.
        own: those among the scores that a checkpoint has; by default those of all methods that are no baseline.
    """
    found = [score for score in scores if is_found(score)] if own is None else list(own)
    mine = {score.source for score in own or ()}
    others = [s for s in scores if _is_baseline(s) and s.source not in mine] or [
        s for s in scores if s.method == ORIGINAL
    ]
    paired = [score for score in found if compared_with(score.metric) not in ("", ORIGINAL)]
    lengths = {s.context_tokens for s in found} & {s.context_tokens for s in others} if others else set()
    length = max((s.context_tokens for s in paired), default=max(lengths, default=0))
    here, there = _of_same_texts(*([s for s in some if s.context_tokens == length] for some in (found, others)))
    ours, theirs = _best(here), _best(there, {compared_with(score.metric) for score in paired})
    if not ours or not theirs:
        return None
    pair = ([s for s in some if s.source == source] for some, source in ((here, ours), (there, theirs)))
    comparisons = tuple(_compare(*pair))
    short = _exported(export, trained=any(s.method == TUNED for s in found)) or _measured(
        [s for s in found if s.source == ours], scores, length
    )
    return Verdict(length, ours, theirs, comparisons, short) if comparisons else None


def describe_verdict(verdict: Verdict) -> str:
    """A verdict as one sentence."""
    alone = verdict.theirs.method == ORIGINAL
    theirs = f"the {verdict.theirs.label}" if alone else f"the best baseline, {verdict.theirs.label}"
    said: dict[Outcome, str] = {
        "ahead": f"{verdict.ours.label} is ahead in",
        "behind": f"the {'original model' if alone else 'baseline'} is ahead in",
        "alike": "there is no difference beyond the intervals in",
    }
    clauses = []
    for outcome, words in said.items():
        if named := [_describe(each) for each in verdict.comparisons if each.outcome == outcome]:
            listed = " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))
            clauses.append(f"{words} {listed}")
    clauses += ["no baseline was measured"] * alone + [_describe_short(verdict.short)]
    compared = f"At {verdict.context_tokens:,} tokens, {verdict.ours.label} against {theirs}"
    return f"{compared}: {'; '.join(clauses)}."


def _describe(comparison: Comparison) -> str:
    """One metric: both values, and the paired comparison."""
    pair, own = comparison.pair, comparison.ours or comparison.theirs
    metric = own.metric if own else comparison.metric
    values = [write(metric, score.value) for score in (comparison.ours, comparison.theirs) if score]
    notes = [" against ".join(values)] if len(values) == 2 else []
    kind = "difference" if comparison.metric in SHARES else "ratio"
    notes.append(f"{kind} {write_interval(pair.metric, pair.value, pair.low, pair.high)}" if pair else "unpaired")
    return f"{inner_label(metric)} [{', '.join(notes)}]"


def inner_label(metric: str) -> str:
    """The label of a metric inside of a sentence."""
    label = metric_label(metric)
    return label if label[:2].isupper() else label[0].lower() + label[1:]


def _describe_short(short: ShortTexts | None) -> str:
    if short is None:
        return "what it costs at short lengths was not measured"
    where = "of the exported checkpoint " if short.exported else ""
    at = f"perplexity {where}at {short.context_tokens:,} tokens"
    whose = "what the same weights have with the model's own RoPE" if short.trained else "the original model's"
    paired = math.isfinite(short.high - short.low)
    ends = f", {short.low - 1:+.1%} to {short.high - 1:+.1%}" if paired else ", unpaired" * (not short.exported)
    if paired and short.low <= 1 <= short.high:
        return f"{at} does not differ from the original model's beyond the interval ({short.ratio - 1:+.1%}{ends})"
    return f"{at} differs from {whose} by {short.ratio - 1:+.1%}{f' ({ends[2:]})' if ends else ''}"


def _is_baseline(score: Score) -> bool:
    return score.method in baselines() and score.chosen_by in ("", *baselines())


def is_found(score: Score) -> bool:
    """Whether it is of what a run found, and neither of the original model nor of a baseline."""
    return score.method != ORIGINAL and not _is_baseline(score)


def _of_same_texts(ours: Sequence[Score], theirs: Sequence[Score]) -> tuple[list[Score], list[Score]]:
    """Scores of one length without those of other texts than both were measured on last, metric by metric.

    Paired comparisons of texts that are left out are left out, too.
    """
    both = {(score.metric, score.texts_fingerprint) for score in theirs}
    last = {s.metric: s.texts_fingerprint for s in ours if (s.metric, s.texts_fingerprint) in both}
    earlier = {
        (_counted(s.metric), s.texts_fingerprint)
        for s in (*ours, *theirs)
        if last.get(s.metric, s.texts_fingerprint) != s.texts_fingerprint
    }

    def is_kept(score: Score) -> bool:
        compared = next((PAIRS[kind] for kind in PAIRS if score.metric.startswith(kind)), "")
        return (compared or _counted(score.metric), score.texts_fingerprint) not in earlier

    return [*filter(is_kept, ours)], [*filter(is_kept, theirs)]


def _best(scores: Sequence[Score], among: Iterable[str] = ()) -> Source | None:
    """The method of the lowest perplexity, or else of the best other score, if possible among those of these names."""
    named = [score for score in scores if score.method in set(among)] or scores
    for metric in (PERPLEXITY, *SHARES, *PERPLEXITIES[1:]):
        if own := [score for score in named if _counted(score.metric) == metric]:
            sign = -1 if metric in SHARES else 1
            return min(own, key=lambda score: sign * score.value).source
    return None


def _counted(metric: str) -> str:
    """The name by which a verdict is about a metric; empty where it is not."""
    if metric.startswith(LAST_TOKENS):
        return LAST_TOKENS * metric.removeprefix(LAST_TOKENS).isdecimal()
    if metric.startswith(BY_EVALUATOR):
        return BY_EVALUATOR
    return metric if metric in (*PERPLEXITIES, *SHARES) else ""


def _compare(ours: Sequence[Score], theirs: Sequence[Score]) -> Iterable[Comparison]:
    """What two methods share, by metric, unpaired ``OTHERS`` where there is nothing else; each with one alone."""
    compared = list(_compare_all(ours, theirs))
    return [each for each in compared if each.metric not in OTHERS or each.pair] or compared


def _compare_all(ours: Sequence[Score], theirs: Sequence[Score]) -> Iterable[Comparison]:
    name = theirs[0].method
    pairs = {PAIRS[kind]: score for score in ours for kind in PAIRS if score.metric == f"{kind}{name}"}
    for metric in (*PERPLEXITIES, *SHARES):
        b, pair = _latest(theirs, metric), pairs.get(metric)
        a = _latest(ours, metric, b)
        if pair:
            alike = float(metric in PERPLEXITIES)  # as a ratio; a difference of shares is 0
            outcome = _outcome(metric, pair.low, pair.high, alike, alike)
        elif a and b and a.texts_fingerprint == b.texts_fingerprint:
            outcome = _outcome(metric, a.low, a.high, b.low, b.high)
        else:
            continue
        yield Comparison(metric, a, b, pair, outcome)


def _latest(scores: Sequence[Score], metric: str, other: Score | None = None) -> Score | None:
    """The last score of a metric, if possible of the texts of another score; None without any."""
    found = [score for score in scores if _counted(score.metric) == metric]
    alike = [score for score in found if other and score.texts_fingerprint == other.texts_fingerprint]
    return next(reversed(alike or found), None)


def _outcome(metric: str, low: float, high: float, their_low: float, their_high: float) -> Outcome:
    """What two intervals say; NaN says nothing."""
    if high < their_low:
        return "behind" if metric in SHARES else "ahead"
    if low > their_high:
        return "ahead" if metric in SHARES else "behind"
    return "alike"


def _exported(export: Mapping[str, Any] | None, *, trained: bool) -> ShortTexts | None:
    """What short texts cost in the layout of a checkpoint."""
    tokens = (export or {}).get("short_tokens")
    if not export or not tokens:
        return None
    perplexity = export[f"perplexity_{export.get('factor_sets', 'single')}"]
    if not perplexity:
        return None
    return ShortTexts(tokens, perplexity / export["perplexity_original"], exported=True, trained=trained)


def _measured(own: Sequence[Score], scores: Sequence[Score], length: int) -> ShortTexts | None:
    """The same by the last score of the shortest length: paired with the original model, or else beside it."""
    least: Callable[[Score], int] = lambda score: score.context_tokens  # noqa: E731
    if retained := [score for score in own if score.metric == f"{RATIO}{ORIGINAL}"]:
        score = min(reversed(retained), key=least)
        return ShortTexts(score.context_tokens, score.value, score.low, score.high)
    plain = [score for score in reversed(own) if score.metric == PERPLEXITY and score.context_tokens < length]
    for score in sorted(plain, key=least):
        key = (ORIGINAL, PERPLEXITY, score.context_tokens, score.texts_fingerprint)
        for other in reversed(scores):
            if (other.method, other.metric, other.context_tokens, other.texts_fingerprint) == key:
                return ShortTexts(score.context_tokens, score.value / other.value)
    return None
