"""Measure a model with given factors: by context window, against its original and its rivals, and on benchmarks.

Every number is a record with an interval, a paired one where two methods are compared on the same tokens or keys.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from longrope import parallel
from longrope.errors import RecipeError
from longrope.evaluation.lm_eval import measure_benchmark
from longrope.evaluation.passkey import (
    build_passkeys,
    kept_answers,
    measure_difference,
    measure_passkey,
    tasks_fingerprint,
)
from longrope.evaluation.perplexity import kept_losses, measure_perplexity, measure_prefix, measure_ratio
from longrope.evaluation.retention import OriginalLosses, measure_retention, original_losses
from longrope.evaluation.ruler import (
    mean_ruler,
    measure_needles,
    measure_ruler,
    needles_fingerprint,
    ruler_fingerprint,
    task_fingerprint,
)
from longrope.evaluation.samples import Samples
from longrope.factors import FactorTable, RescaleFactors, as_table
from longrope.models import LanguageModel
from longrope.recipe import HARNESS, RULER_TASKS, MeasureRecipe
from longrope.records import Score, append_record, read_records
from longrope.rundir import RunDir
from longrope.texts import Tokens, TokenText, check_unsearched, fingerprint

RivalSamples = dict[str, NDArray[Any]]
RECORDED_AS = {"retention": "ratio-to-none"}  # metrics whose records have another name


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
        method: the name in the records; by default that of the factors.
        run: where scores and samples go; those that are there already are not measured again.
        seed: of keys and bootstrap.
        original: for retention where weights were tuned: the losses of ``keep_original``.

    Returns:
        The scores, shortest length first, benchmarks last.
    """
    settings = settings or MeasureRecipe()
    table = as_table(factors) if factors else None
    lengths = _lengths(model, table, settings)
    windows = text.windows(lengths[-1], settings.windows)
    for tier in table.tiers if table else ():
        check_unsearched(windows, tier.searched)
    method = method or (table.tiers[-1].method if table else "none")
    known = parallel.lead(partial(read_records, run.scores, Score)) if run else []
    given = {"method": method, "seed": seed, "samples": Samples(run)}
    scores: list[Score] = []
    work = _work(model, table, text, windows, lengths, settings, original, scores, **given)
    for length in lengths:
        for metric in (name for name in _metrics(settings) if name in work):
            texts = _texts_fingerprint(model, text, windows, metric, length, settings, seed, scores)
            asked, name = _asked(model, table, method, length, texts, seed), RECORDED_AS.get(metric, metric)
            kept = {s.metric: s for s in known if _identity(s) == asked and s.metric.startswith(name)}
            made = list(kept.values())
            if name not in kept and (made := work[metric](length)) and run:
                parallel.lead(partial(_keep, run, [score for score in made if score.metric not in kept]))
            scores += sorted(made, key=lambda score: score.metric)
    for metric in (name for name in settings.metrics if name.startswith(HARNESS)):
        scores += parallel.lead(partial(measure_benchmark, model, table, metric, method=method, run=run))
    return scores


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
    known = parallel.lead(partial(read_records, run.scores, Score))
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
        texts = _texts_fingerprint(model, text, windows, metric, length, settings, seed)
        asked = _asked(model, table, method, length, texts, seed)
        kept = [score for score in known if score.metric == name and _identity(score) == asked]
        if not kept:
            kept = [compare(rival[metric] if isinstance(rival, dict) else rival)]
            parallel.lead(partial(append_record, run.scores, kept[0]))
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


def _work(
    model: LanguageModel,
    table: FactorTable | None,
    text: TokenText,
    windows: Tokens,
    lengths: list[int],
    settings: MeasureRecipe,
    original: OriginalLosses | None,
    scores: list[Score],
    **given: Any,
) -> dict[str, Callable[[int], list[Score]]]:
    """What measures each metric at a length.

    ``scores`` are those made so far, of which the mean of RULER's tasks is; ``given`` are the method's name, the seed
    and the samples.
    """
    named = {key: given[key] for key in ("method", "seed")}

    def retained(length: int) -> list[Score]:
        changed = table is not None or original is not None
        if not changed or length > model.spec.trained_window:
            return []
        return [measure_retention(model, table, text.divided(windows, length), original=original, **given)]

    def asked_by_ruler(task: str, length: int) -> list[Score]:
        return [measure_ruler(model, table, text, windows, task, length, settings=settings, **named)]

    tail = settings.tail_tokens
    return {
        "perplexity": partial(measure_perplexity, model, table, text, windows, tail_tokens=tail, **given),
        "prefix-perplexity": partial(measure_prefix, model, table, windows, lengths=lengths, **given),
        "passkey": partial(measure_passkey, model, table, count=settings.passkeys, **given),
        "retention": retained,
        "needle": partial(measure_needles, model, table, text, windows, count=settings.needles, **named),
        **{f"ruler-{task}": partial(asked_by_ruler, task) for task in RULER_TASKS},
        "ruler": lambda length: [mean_ruler(_tasks_of_ruler(scores, length))],
    }


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
    scores: Sequence[Score] = (),
) -> str:
    """What the scores of one metric will name as their texts; ``scores`` are those made so far."""
    if metric == "ruler":
        return ruler_fingerprint(_tasks_of_ruler(scores, length))
    if metric.startswith("ruler-"):
        return task_fingerprint(model, text, windows, metric.removeprefix("ruler-"), length, settings, seed)
    if metric == "needle":
        return needles_fingerprint(model, text, windows, length, settings.needles, seed)
    if metric == "passkey":
        return tasks_fingerprint(build_passkeys(model.tokenizer, length, settings.passkeys, seed))
    return fingerprint(text.divided(windows, length) if metric == "retention" else windows)


def _tasks_of_ruler(scores: Sequence[Score], length: int) -> list[Score]:
    return [s for s in scores if s.context_tokens == length and s.metric.startswith("ruler-")]


def _asked(
    model: LanguageModel, table: FactorTable | None, method: str, length: int, texts: str, seed: int
) -> tuple[str, int, str, str, str, int]:
    """What ``_identity`` a score must have to be the one that is asked for."""
    return method, length, model.name, texts, table.fingerprint if table else "", seed


def _identity(score: Score) -> tuple[str, int, str, str, str, int]:
    """What makes a score one that need not be measured again."""
    texts, factors = score.texts_fingerprint, score.factors_fingerprint
    return score.method, score.context_tokens, score.model, texts, factors, score.seed


def _keep(run: RunDir, scores: list[Score]) -> None:
    """Write the scores of one metric, the one over everything last: it means that its parts are there."""
    for score in [*scores[1:], scores[0]]:
        append_record(run.scores, score)
