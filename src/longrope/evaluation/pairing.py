"""Run directories beside each other, such as one model trained alike with several factors: paired comparisons.

A run keeps a small summary of what its scores were computed from (``sample-summaries.jsonl``), so runs that measured
the same tokens and prompts are compared token by token and prompt by prompt, without a model or their samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from longrope.errors import RunError
from longrope.evaluation.statistics import Units, share_difference, units_ratio
from longrope.evaluation.summaries import is_paired
from longrope.registry import ORIGINAL
from longrope.runs.records import SampleSummary, Score, TrainStep, read_records
from longrope.runs.run_dir import RunDir
from longrope.runs.schedule import stages_of


class UnpairedError(RunError):
    """Two runs, each whole, that cannot be compared with each other."""


Lookup = Callable[[Score], SampleSummary | None]


@dataclass(frozen=True)
class Comparison:
    """What one run found at a length, beside another run on the same tokens or prompts.

    Attributes:
        run, reference: names of the two directories, or of two methods of one run.
        metric: ``perplexity``, ``perplexity-last-K`` and ``last-tokens-K``, whose ``value`` is the ratio of the first
            run's to the reference's; ``passkey``, ``many-passkeys``, ``needle`` and ``prose-needle``: the difference of
            the shares that were found.
        context_tokens: the length.
        value, low, high: with the ends of its paired 95 % interval.
        pairs: tokens or prompts.
        resampled: ``documents`` or ``blocks``; empty for prompts.
        texts_fingerprint: of the windows or prompts.
    """

    run: str
    reference: str
    metric: str
    context_tokens: int
    value: float
    low: float
    high: float
    pairs: int
    resampled: str
    texts_fingerprint: str


def found_scores(run: RunDir) -> list[Score]:
    """The scores of what a run has found: of its last weights with its factors.

    A run of ``longrope measure`` keeps no factors; there they are the scores of its one method beside the original.

    Raises:
        UnpairedError: there are none, or no factors and several methods.
    """
    table, scores = run.read_factors(), run.read_scores()
    found = [score for score in scores if not table or score.factors_fingerprint == table.fingerprint]
    found = [score for score in found if table or score.method != ORIGINAL]
    if not found or (not table and len({(score.model, score.method) for score in found}) > 1):
        raise UnpairedError(
            f"{run.path} holds no scores of factors that it has found, or of one method alone.",
            "A finished run of `longrope extend` is needed, or of `longrope measure`.",
            "Start it again with --out; what is done is kept.",
        )
    last = found[-1]
    return [score for score in found if (score.model, score.method) == (last.model, last.method)]


def pair_runs(run: RunDir, reference: RunDir) -> list[Comparison]:
    """Compare what a run has found with what another one has, at every length and by every metric of both.

    Earlier versions kept summaries of fewer metrics; a metric of which neither run has any is left out.

    Args:
        run: a finished run.
        reference: the run that it is compared with.

    Raises:
        UnpairedError: one of them is not finished, they were trained on other windows or measured on other texts, or
            one lacks the summary of a score.
        RunError: a file of one of them is damaged.
    """
    check_trained_alike(run, reference)
    names = run.path.name, reference.path.name
    ours, theirs = _summaries(run), _summaries(reference)
    kept = {summary.metric for some in (run, reference) for summary in some.read_summaries()}
    found = []
    for score, other in _of_both(found_scores(run), found_scores(reference)):
        if is_paired(score.metric) and (score.metric in kept or not kept):
            _check_same_texts(names, score, other)
            found.append(_paired(names, _needed(run, ours, score), _needed(reference, theirs, other)))
    return found


def pair_methods(run: RunDir, reference: str) -> tuple[list[Comparison], list[str]]:
    """Compare the methods of one run with one of them, at every length and by every metric of both.

    Args:
        run: of ``longrope compare``.
        reference: a method of it.

    Returns:
        The comparisons, each with the method in the place of ``run``, and what could not be compared because the run
        lacks the summary of one of the two.

    Raises:
        RunError: there are no scores of the reference.
    """
    scores = {(score.method, *_place(score)): score for score in run.read_scores()}
    found, missing = list[Comparison](), dict[str, None]()
    if reference not in {method for method, *_ in scores}:
        raise RunError(
            f"{run.path} has no scores of {reference!r}.",
            f"Methods: {', '.join(dict.fromkeys(method for method, *_ in scores))}.",
            "Name one of them.",
        )
    summary = _summaries(run)
    for (method, *_), score in scores.items():
        other = scores.get((reference, *_place(score)))
        if method == reference or other is None or not is_paired(score.metric):
            continue
        ours, theirs = summary(score), summary(other)
        if ours and theirs:
            _check_same_texts((method, reference), score, other)
            found.append(_paired((method, reference), ours, theirs))
        else:
            missing[f"{method} ({score.metric} at {score.context_tokens:,})"] = None
    return found, list(missing)


def check_trained_alike(run: RunDir, reference: RunDir) -> None:
    """Raise UnpairedError where two runs trained on other windows, or on the same in another order."""
    ours, theirs = _trained_on(run), _trained_on(reference)
    if bool(ours) != bool(theirs):
        trained, other = (run, reference) if ours else (reference, run)
        raise UnpairedError(
            f"{trained.path} was trained, and {other.path} was not.",
            "Trained weights are compared with others that were trained on the same windows.",
            "Give two trainings, or two runs without.",
        )
    if ours != theirs:
        raise UnpairedError(
            f"{run.path} and {reference.path} were trained on different windows.",
            "Both must be trained on the same windows in the same order.",
            "Give both the same texts, window, steps and seed.",
        )


def _trained_on(run: RunDir) -> list[str]:
    """The windows of its trainings, step by step, without those of stages that a changed schedule left behind."""
    places = (run.path, *stages_of(run))
    return [step.texts_fingerprint for path in places for step in read_records(path / run.train.name, TrainStep)]


def _of_both(ours: Sequence[Score], theirs: Sequence[Score]) -> list[tuple[Score, Score]]:
    """The last scores of each metric and length of both, if possible of texts that both were measured on."""
    others: dict[tuple[str, int], dict[str, Score]] = {}
    for score in theirs:
        others.setdefault(_place(score), {})[score.texts_fingerprint] = score
    pairs: dict[tuple[str, int], tuple[Score, Score]] = {}
    for score in (score for score in ours if _place(score) in others):
        beside = others[_place(score)]
        if score.texts_fingerprint in beside or _place(score) not in pairs:
            pairs[_place(score)] = score, beside.get(score.texts_fingerprint) or [*beside.values()][-1]
    return list(pairs.values())


def _place(score: Score | SampleSummary) -> tuple[str, int]:
    return score.metric, score.context_tokens


def _paired(names: tuple[str, str], ours: SampleSummary, theirs: SampleSummary) -> Comparison:
    """The comparison of two scores of the same texts by their summaries."""
    _check_same_units(names, ours, theirs)
    if ours.answers:
        right, of_other = (np.asarray(list(some.answers)) == "1" for some in (ours, theirs))
        counts = ours.counts or theirs.counts
        texts = np.repeat(np.arange(len(counts)), counts) if counts else None
        interval, pairs = share_difference(right, of_other, texts), len(right)
    else:
        interval, pairs = units_ratio(_units(ours), _units(theirs), ours.seed), sum(ours.counts)
    return Comparison(*names, *_place(ours), *interval[:3], pairs, interval.resampled, ours.texts_fingerprint)


def _units(summary: SampleSummary) -> Units:
    return Units(np.asarray(summary.sums, float), np.asarray(summary.counts), summary.resampled)


def _check_same_units(names: tuple[str, str], ours: SampleSummary, theirs: SampleSummary) -> None:
    made_of = [(some.resampled, some.documents_fingerprint, len(some.answers)) for some in (ours, theirs)]
    other_counts = ours.counts != theirs.counts and bool(ours.counts and theirs.counts)
    if made_of[0] != made_of[1] or other_counts:
        raise UnpairedError(
            f"The {ours.metric} at {ours.context_tokens:,} tokens of {names[0]} and {names[1]} are of other documents, "
            "or of other numbers of tokens or answers.",
            "What is paired must be measured on the same tokens of the same documents, and on the same prompts.",
            "Measure both with the same measure_data, lengths, windows and seed.",
        )


def _check_same_texts(names: tuple[str, str], score: Score, other: Score) -> None:
    if score.texts_fingerprint != other.texts_fingerprint:
        raise UnpairedError(
            f"The {score.metric} at {score.context_tokens:,} tokens of {names[0]} and {names[1]} are of other "
            f"texts ({score.texts_fingerprint} and {other.texts_fingerprint}).",
            "What is paired must be measured on the same tokens and prompts.",
            "Measure both with the same measure_data, lengths, windows and seed.",
        )


def _summaries(run: RunDir) -> Lookup:
    """What gives the summary of a score, None where the run has none."""
    kept = {_measured(summary): summary for summary in run.read_summaries()}
    return lambda score: kept.get(_measured(score))


def _measured(of: Score | SampleSummary) -> tuple[str | int, ...]:
    """What makes a score and a summary the same measurement."""
    return (*_place(of), of.method, of.model, of.factors_fingerprint, of.texts_fingerprint, of.seed)


def _needed(run: RunDir, summary: Lookup, score: Score) -> SampleSummary:
    found = summary(score)
    if found is None:
        raise UnpairedError(
            f"{run.summaries} holds nothing of the {score.metric} at {score.context_tokens:,} tokens.",
            "Measuring writes there what comparisons need, beside the scores.",
            "Measure again in a new directory.",
        )
    return found
