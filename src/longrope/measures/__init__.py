"""Measure a model with given factors: perplexity and passkeys by context window, as records with intervals."""

from functools import partial

from longrope import parallel
from longrope.factors import FactorTable, RescaleFactors, as_table
from longrope.measures.passkey import build_passkeys, measure_passkey, tasks_fingerprint
from longrope.measures.perplexity import measure_perplexity, measure_ratio
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.records import Score, append_record, read_records
from longrope.rundir import RunDir
from longrope.texts import Tokens, TokenText, check_unsearched, fingerprint


def measure(
    model: LanguageModel,
    factors: RescaleFactors | FactorTable | None,
    text: TokenText,
    *,
    settings: MeasureRecipe | None = None,
    method: str = "",
    run: RunDir | None = None,
    seed: int = 0,
) -> list[Score]:
    """Measure perplexity and passkeys at each length.

    Args:
        model: the model.
        factors: its factors; None measures the model as it is.
        text: text that no search has seen (raises TextsError if it has).
        settings: lengths (by default the trained and the target window), metrics, how many windows and keys.
        method: the name in the records; by default that of the factors.
        run: where the scores go; those that are there already are not measured again.
        seed: of keys and bootstrap.

    Returns:
        The scores, shortest length first.
    """
    settings = settings or MeasureRecipe()
    table = as_table(factors) if factors else None
    lengths = _lengths(model, table, settings)
    windows = text.windows(lengths[-1], settings.windows)
    for tier in table.tiers if table else ():
        check_unsearched(windows, tier.searched)
    method = method or (table.tiers[-1].method if table else "none")
    known = parallel.lead(partial(read_records, run.scores, Score)) if run else []
    scores: list[Score] = []
    for length in lengths:
        for metric in settings.metrics:
            texts = _texts_fingerprint(model, metric, windows, length, settings, seed)
            asked = (method, length, model.name, texts, table.fingerprint if table else "", seed)
            kept = {s.metric: s for s in known if _identity(s) == asked and s.metric.startswith(metric)}
            made = list(kept.values())
            if metric not in kept:
                made = _measure(model, table, text, windows, length, metric, settings, method, seed)
                if run:
                    parallel.lead(partial(_keep, run, [score for score in made if score.metric not in kept]))
            scores += sorted(made, key=lambda score: score.metric)
    return scores


def measure_against(
    model: LanguageModel,
    factors: RescaleFactors,
    rival: FactorTable,
    text: TokenText,
    *,
    settings: MeasureRecipe,
    rival_name: str,
    run: RunDir,
    seed: int = 0,
) -> Score:
    """Measure the perplexity of factors as a share of a rival's at the longest length, with a paired interval.

    Args:
        model: the model.
        factors: its factors.
        rival: of another method.
        text: text that no search has seen (raises TextsError if it has).
        settings: lengths and windows, as for ``measure``.
        rival_name: what the record calls the rival.
        run: where the score goes; one that is there already is not measured again.
        seed: of the bootstrap.
    """
    table = as_table(factors)
    windows = text.windows(_lengths(model, table, settings)[-1], settings.paired_windows or settings.windows)
    check_unsearched(windows, factors.searched)
    asked = (factors.method, windows.shape[1], model.name, fingerprint(windows), table.fingerprint, seed)
    for score in parallel.lead(partial(read_records, run.scores, Score)):
        if score.metric == f"ratio-to-{rival_name}" and _identity(score) == asked:
            return score
    methods = (factors.method, rival_name)
    score = measure_ratio(model, (table, rival), windows, methods=methods, seed=seed)
    parallel.lead(partial(append_record, run.scores, score))
    return score


def _measure(
    model: LanguageModel,
    table: FactorTable | None,
    text: TokenText,
    windows: Tokens,
    length: int,
    metric: str,
    settings: MeasureRecipe,
    method: str,
    seed: int,
) -> list[Score]:
    if metric == "passkey":
        return measure_passkey(model, table, length, method=method, count=settings.passkeys, seed=seed)
    tail = settings.tail_tokens
    return measure_perplexity(model, table, text, windows, length, method=method, tail_tokens=tail, seed=seed)


def _lengths(model: LanguageModel, table: FactorTable | None, settings: MeasureRecipe) -> list[int]:
    """The lengths to measure, ascending; refused if the factors do not hold the longest."""
    window = model.spec.trained_window
    lengths = sorted(set(settings.lengths or (window, table.tiers[-1].target_window if table else window)))
    if table:
        table.check_spec(model.spec)
        table.choose(lengths[-1])
    return lengths


def _texts_fingerprint(
    model: LanguageModel, metric: str, windows: Tokens, length: int, settings: MeasureRecipe, seed: int
) -> str:
    """What the scores of one metric will name as their texts."""
    if metric == "passkey":
        return tasks_fingerprint(build_passkeys(model.tokenizer, length, settings.passkeys, seed))
    return fingerprint(windows)


def _identity(score: Score) -> tuple[str, int, str, str, str, int]:
    """What makes a score one that need not be measured again."""
    texts, factors = score.texts_fingerprint, score.factors_fingerprint
    return score.method, score.context_tokens, score.model, texts, factors, score.seed


def _keep(run: RunDir, scores: list[Score]) -> None:
    """Write the scores of one metric, the one over everything last: it means that its parts are there."""
    for score in [*scores[1:], scores[0]]:
        append_record(run.scores, score)
