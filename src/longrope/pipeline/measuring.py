"""Measuring alone, and what is measured in a run: at which lengths, on which windows, with which cache."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from longrope.data import Preprocess, Texts
from longrope.errors import DryRunEnd, RecipeError
from longrope.evaluation import Evaluation, name_subject
from longrope.evaluation.metric import Subject
from longrope.evaluation.recording import record_provenance
from longrope.evaluation.samples import SampleCache
from longrope.models import LanguageModel, open_model
from longrope.pipeline.baselines import check_baseline, make_baseline
from longrope.pipeline.callbacks import Callbacks, counting
from longrope.pipeline.comparison_costs import ESTIMATING, estimate_measuring, report_costs
from longrope.pipeline.guarding import check_known
from longrope.pipeline.session import Session, load_inputs, loading_choices
from longrope.recipe import Recipe
from longrope.rope import load_factors
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir


def measured_lengths(recipe: Recipe, model: LanguageModel) -> tuple[int, ...]:
    """The context windows of a recipe: those it names, else the trained window and the target."""
    return recipe.measure.lengths or tuple(sorted({model.spec.trained_window, recipe.target_tokens}))


def check_lengths(recipe: Recipe) -> None:
    """Refuse to measure beyond the window that factors are searched for (raises RecipeError)."""
    if (longest := max((0, *recipe.measure.lengths))) > recipe.target_tokens:
        raise RecipeError(
            f"measure.lengths has {longest:,} tokens, and the window to reach is {recipe.target_tokens:,}.",
            "Factors serve lengths up to their window.",
            "Leave out longer lengths, or give a longer window with --to.",
        )


def longest_window(recipe: Recipe, factors: Path | None = None) -> int:
    """The longest window of a run in tokens, by its recipe and a file of factors, without looking at the model."""
    lengths = recipe.measure.lengths
    if factors and not lengths:
        lengths = (load_factors(factors).factor_sets[-1].target_window,)
    return max((recipe.target_tokens, *lengths))


def evaluation_of(session: Session, original: Subject) -> Evaluation:
    """What all methods of a run are measured with."""
    recipe = session.recipe
    settings = replace(recipe.measure, lengths=measured_lengths(recipe, original.model))
    cache = SampleCache(session.run)
    callbacks = session.callbacks
    return Evaluation(
        session.texts.measure, settings, original, cache, recipe.seed, callbacks.on_step, counting(callbacks)
    )


def measure_only(
    recipe: Recipe,
    factors: Path | None,
    run: RunDir | None = None,
    callbacks: Callbacks | None = None,
    *,
    baseline: str = "",
    base: str = "",
    preprocess: Preprocess | None = None,
    dry_run: bool = False,
) -> list[Score]:
    """Measure a model with factors from a file, by a baseline made for the longest of the lengths, or the original.

    The recipe's search and export are not used. With ``dry_run`` nothing is written, as in ``extend``. Metrics that
    compare with the original model take ``base``, the model before its weights were trained; by default it is the
    measured one without factors.

    Raises:
        RecipeError: the base has another window or vocabulary than the model.
        RunError: the run has measured the model beside another base, in another number format, or other weights of
            this name.
    """
    callbacks = callbacks or Callbacks()
    if baseline:
        check_baseline(baseline)
    table, cache = load_factors(factors) if factors else None, SampleCache(run)

    opened = open_model(base, **loading_choices(recipe)) if base else None

    def evaluate(model: LanguageModel, texts: Texts, original: LanguageModel | None) -> Evaluation:
        without, passed = Subject(original or model, None, "none"), counting(callbacks)
        return Evaluation(texts.measure, recipe.measure, without, cache, recipe.seed, on_progress=passed)

    def check(outline: LanguageModel, texts: Texts) -> None:
        if opened:
            _check_base(opened.outline, outline)
        evaluation = evaluate(outline, texts, opened.outline if opened else None)
        subject = name_subject(outline, table)
        length, count = evaluation.longest(subject), recipe.measure.windows
        check_known(outline, table, texts.measure, length, count, callbacks.on_step)
        evaluation.check(subject)
        for line in evaluation.describe_windows(subject):
            callbacks.on_step(line)

    model, texts, _ = load_inputs(recipe, callbacks, preprocess, check)
    original = opened.load() if opened else None
    evaluation, subject = evaluate(model, texts, original), name_subject(model, table)
    if baseline:
        lengths = recipe.measure.lengths or (model.spec.trained_window,)
        subject = make_baseline(model, baseline, lengths, max(lengths))
    if kept := evaluation.kept(subject):
        callbacks.on_step(f"{len(kept)} of {len(evaluation.wanted(subject))} scores are in the records already")
    callbacks.on_step(ESTIMATING)
    costs = estimate_measuring(recipe, model, evaluation.readings(subject, kept), subject)
    report_costs(costs, callbacks.on_step, unknown=evaluation.unread(subject), always=dry_run)
    if dry_run:
        raise DryRunEnd
    with run.locked() if run else nullcontext():
        if run:
            record_provenance(run, model, original, one_format=True)
        scores = evaluation.measure(subject)
        callbacks.on_scores(scores)
        return scores


def _check_base(base: LanguageModel, model: LanguageModel) -> None:
    """Refuse a base that does not read the tokens of a model in a window as long (raises RecipeError)."""
    theirs, ours = ((m.spec.trained_window, m.tokenizer.get_vocab()) for m in (base, model))
    if theirs != ours:
        other = "another vocabulary" if theirs[0] == ours[0] else f"a window of {theirs[0]:,} tokens, not {ours[0]:,}"
        raise RecipeError(
            f"{base.name} has {other}.",
            f"Metrics that compare with the original need {model.name} before its weights were trained.",
            "Give that model with --base, or leave the option out.",
        )
