"""Measure a model with given factors: by context window, against its original and its rivals, and on benchmarks.

Every number is a record with an interval, a paired one where two methods are compared on the same tokens or keys.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from numpy.typing import NDArray

from longrope import distributed
from longrope.errors import RecipeError
from longrope.factors import FactorTable, RescaleFactors, as_table
from longrope.measures.harness import measure_benchmark
from longrope.measures.passkey import build_passkeys, kept_answers, measure_difference, tasks_fingerprint
from longrope.measures.perplexity import kept_losses, measure_ratio
from longrope.measures.requests import Request, tasks_of_ruler
from longrope.measures.retention import OriginalLosses, original_losses
from longrope.measures.ruler import needles_fingerprint, ruler_fingerprint, task_fingerprint
from longrope.measures.samples import Samples, source_of
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.records import Score, append_record, read_records
from longrope.registry import HARNESS, METRICS, RULER_TASKS, resolve
from longrope.rundir import RunDir
from longrope.texts import Tokens, TokenText, check_unsearched, fingerprint

RivalSamples = dict[str, NDArray[Any]]


def measure(
    model: LanguageModel,
    factors: RescaleFactors | FactorTable | None,
    text: TokenText,
    *,
    settings: MeasureRecipe | None = None,
    method: str = "",
    run: RunDir | None = None,
    seed: int = 0,
    original: OriginalLosses | None = None,
) -> list[Score]:
    """Measure the metrics of the settings at each length, and benchmarks once.

    Args:
        model: the model.
        factors: its factors; None measures the model as it is.
        text: text that no search has seen (raises TextsError if it has).
        settings: lengths (by default the trained and the target window), metrics, how many windows and keys.
        method: the name in the records; by default that of the factors, beside which the search that chose them stands.
        run: where scores and samples go; those that are there already are not measured again.
        seed: of keys and bootstrap.
        original: for retention where weights were tuned: the losses of ``keep_original``.

    Returns:
        The scores, shortest length first, benchmarks last.

    Raises:
        ModelError: a loss is not finite.
    """
    settings = settings or MeasureRecipe()
    table = as_table(factors) if factors else None
    lengths = _lengths(model, table, settings)
    windows = text.windows(lengths[-1], settings.windows)
    for tier in table.tiers if table else ():
        check_unsearched(windows, tier.searched)
    method = method or (table.tiers[-1].method if table else "none")
    known = distributed.on_main(partial(read_records, run.scores, Score)) if run else []
    scores: list[Score] = []
    request = Request(
        *("", model, table, text, windows, lengths, settings),
        *(method, seed, Samples(run), original, scores),
    )
    for length in lengths:
        for metric in (name for name in _metrics(settings) if not name.startswith(HARNESS)):
            texts = _texts_fingerprint(model, text, windows, metric, length, settings, seed, scores)
            asked, name = _asked(model, table, method, length, texts, seed), METRICS[metric].recorded_as
            work = partial(resolve(METRICS[metric].measure), replace(request, metric=metric))
            found = (s for s in known if _identity(s) == asked and s.metric.startswith(name))
            kept = {score.metric: _named(score, table, method) for score in found}
            made = list(kept.values())
            if name not in kept and (made := work(length)) and run:
                distributed.on_main(partial(_keep, run, [score for score in made if score.metric not in kept]))
            scores += sorted(made, key=lambda score: score.metric)
    for metric in (name for name in settings.metrics if name.startswith(HARNESS)):
        scores += distributed.on_main(partial(measure_benchmark, model, table, metric, method=method, run=run))
    return scores


def describe_windows(
    model: LanguageModel,
    factors: RescaleFactors | FactorTable | None,
    text: TokenText,
    settings: MeasureRecipe,
) -> list[str]:
    """Say how many windows are measured and compared on, of how many that the settings ask for.

    A text that is too short for all of them gives fewer. The arguments are those of ``measure``.
    """
    length = _lengths(model, as_table(factors) if factors else None, settings)[-1]
    asked = {"measure": settings.windows, "compare methods on": settings.paired_windows}
    fitting = {purpose: len(text.windows(length, count)) for purpose, count in asked.items() if count}
    short = f": the {text.name} text has {len(text.tokens):,} tokens"
    return [
        f"{purpose} {count} of {asked[purpose]} windows of {length:,} tokens{short if count < asked[purpose] else ''}"
        for purpose, count in fitting.items()
    ]


def measure_against(
    model: LanguageModel,
    factors: RescaleFactors | FactorTable | None,
    rival: FactorTable | RivalSamples,
    text: TokenText,
    *,
    settings: MeasureRecipe,
    rival_name: str,
    run: RunDir,
    method: str = "",
    seed: int = 0,
) -> list[Score]:
    """Compare factors with a rival at the longest length: perplexity token by token, passkeys key by key.

    Args:
        model: the model.
        factors: its factors; None is the model as it is.
        rival: the factors of another method; where the model's weights were tuned, what ``keep_rival`` kept before.
        text: text that no search has seen (raises TextsError if it has).
        settings: lengths, metrics, windows and keys, as for ``measure``.
        rival_name: what the record calls the rival.
        run: where the scores go; those that are there already are not measured again, nor are losses and answers.
        method: as for ``measure``.
        seed: of keys and bootstrap.

    Returns:
        ``ratio-to-RIVAL`` and ``difference-to-RIVAL``, for those of perplexity and passkeys that the settings ask for.
    """
    table = as_table(factors) if factors else None
    method = method or (table.tiers[-1].method if table else "none")
    length = _lengths(model, table, settings)[-1]
    windows = text.windows(length, settings.paired_windows or settings.windows)
    for tier in table.tiers if table else ():
        check_unsearched(windows, tier.searched)
    known = distributed.on_main(partial(read_records, run.scores, Score))
    given: dict[str, Any] = {"methods": (method, rival_name), "seed": seed, "samples": Samples(run)}
    work: dict[str, tuple[str, Callable[[Any], Score]]] = {
        "perplexity": (f"ratio-to-{rival_name}", lambda other: measure_ratio(model, (table, other), windows, **given)),
        "passkey": (
            f"difference-to-{rival_name}",
            lambda other: measure_difference(model, (table, other), length, count=settings.passkeys, **given),
        ),
    }
    scores = []
    for metric, (name, compare) in ((metric, work[metric]) for metric in settings.metrics if metric in work):
        texts = _texts_fingerprint(model, text, windows, metric, length, settings, seed, [])
        asked = _asked(model, table, method, length, texts, seed)
        kept = [_named(score, table, method) for score in known if score.metric == name and _identity(score) == asked]
        if not kept:
            kept = [compare(rival[metric] if isinstance(rival, dict) else rival)]
            distributed.on_main(partial(append_record, run.scores, kept[0]))
        scores += kept[:1]
    return scores


def keep_rival(
    model: LanguageModel,
    rival: FactorTable,
    text: TokenText,
    *,
    settings: MeasureRecipe,
    rival_name: str,
    run: RunDir | None = None,
    seed: int = 0,
) -> RivalSamples:
    """What ``measure_against`` compares a model with whose weights are about to be tuned; its arguments are the same.

    Returns:
        By metric [W, N - 1] losses in nats and [K] answers, for those that the settings ask for.
    """
    length = _lengths(model, rival, settings)[-1]
    windows = text.windows(length, settings.paired_windows or settings.windows)
    keys = partial(build_passkeys, model.tokenizer, length, settings.passkeys, seed)
    given: dict[str, Any] = {"method": rival_name, "samples": Samples(run)}
    kept: RivalSamples = {}
    if "perplexity" in settings.metrics:
        kept["perplexity"] = kept_losses(model, rival, windows, **given)
    if "passkey" in settings.metrics:
        kept["passkey"] = kept_answers(model, rival, keys(), **given)
    return kept


def keep_original(
    model: LanguageModel,
    text: TokenText,
    *,
    settings: MeasureRecipe,
    factors: RescaleFactors | FactorTable | None = None,
    run: RunDir | None = None,
) -> OriginalLosses:
    """The losses of a model before its weights are tuned, on the windows on which ``measure`` asks for retention.

    Args:
        model: the model as it was loaded.
        text: as for ``measure``.
        settings: as for ``measure``.
        factors: as for ``measure``, where the settings name no lengths.
        run: where they are kept; those that are there already are not made again.
    """
    lengths = _lengths(model, as_table(factors) if factors else None, settings)
    windows = text.windows(lengths[-1], settings.windows)
    short = [n for n in lengths if n <= model.spec.trained_window]
    return original_losses(model, [text.divided(windows, n) for n in short], samples=Samples(run))


def _lengths(model: LanguageModel, table: FactorTable | None, settings: MeasureRecipe) -> list[int]:
    """The lengths to measure, ascending; refused if the factors do not hold the longest."""
    window = model.spec.trained_window
    lengths = sorted(set(settings.lengths or (window, table.tiers[-1].target_window if table else window)))
    if table:
        table.check_spec(model.spec)
        table.choose(lengths[-1])
    if "retention" in settings.metrics and lengths[0] > window:
        raise RecipeError(
            f"Retention was asked for at {', '.join(f'{n:,}' for n in lengths)} tokens.",
            f"It needs a length within the model's own window of {window:,}.",
            "Add one to the lengths.",
        )
    return lengths


def _metrics(settings: MeasureRecipe) -> list[str]:
    """What is measured, one step after the other: before ``ruler``, their mean, all tasks that can be asked."""
    tasks = [f"ruler-{task}" for task in RULER_TASKS if task != "qa" or settings.qa_data]
    steps = [step for metric in settings.metrics for step in ((*tasks, metric) if metric == "ruler" else (metric,))]
    return list(dict.fromkeys(steps))


def _texts_fingerprint(
    model: LanguageModel,
    text: TokenText,
    windows: Tokens,
    metric: str,
    length: int,
    settings: MeasureRecipe,
    seed: int,
    scores: list[Score],
) -> str:
    """What the scores of one metric will name as their texts; ``scores`` are those made so far."""
    if metric == "ruler":
        return ruler_fingerprint(tasks_of_ruler(scores, length))
    if metric.startswith("ruler-"):
        return task_fingerprint(model, text, windows, metric.removeprefix("ruler-"), length, settings, seed)
    if metric == "needle":
        return needles_fingerprint(model, text, windows, length, settings.needles, seed)
    if metric == "passkey":
        return tasks_fingerprint(build_passkeys(model.tokenizer, length, settings.passkeys, seed))
    return fingerprint(text.divided(windows, length) if metric == "retention" else windows)


def _asked(
    model: LanguageModel, table: FactorTable | None, method: str, length: int, texts: str, seed: int
) -> tuple[str, int, str, str, str, int]:
    """What ``_identity`` a score must have to be the one that is asked for."""
    name = source_of(table, method).known_as
    return name, length, model.name, texts, table.fingerprint if table else "", seed


def _identity(score: Score) -> tuple[str, int, str, str, str, int]:
    """What makes a score one that need not be measured again."""
    texts, factors = score.texts_fingerprint, score.factors_fingerprint
    return score.source.known_as, score.context_tokens, score.model, texts, factors, score.seed


def _named(score: Score, table: FactorTable | None, method: str) -> Score:
    """A score that was kept, with the source of its factors, which lines of earlier versions do not tell."""
    return replace(score, **source_of(table, method)._asdict())


def _keep(run: RunDir, scores: list[Score]) -> None:
    """Write the scores of one metric, the one over everything last: it means that its parts are there."""
    for score in [*scores[1:], scores[0]]:
        append_record(run.scores, score)
