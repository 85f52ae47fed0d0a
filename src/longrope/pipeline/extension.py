"""From a model and texts to a checkpoint and a report: search, tune, measure, export, all in a run directory."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from longrope import distributed, registry
from longrope.data import Preprocess, check_unsearched
from longrope.engine.pass_seconds import PassTimer
from longrope.errors import RecipeError, RunError
from longrope.evaluation import Evaluation, name_subject
from longrope.evaluation.metric import Subject
from longrope.models import LanguageModel
from longrope.pipeline.baselines import make_baselines
from longrope.pipeline.callbacks import Callbacks
from longrope.pipeline.capabilities import MEASURE, SEARCH, check_capable, export_step
from longrope.pipeline.comparison_costs import (
    COMPARED,
    ESTIMATING,
    report_comparison,
    report_costs,
    report_run,
    report_search,
)
from longrope.pipeline.early_checks import check_comparison, check_run, check_search
from longrope.pipeline.estimates import estimate_tuning, search_costs
from longrope.pipeline.export_costs import estimate_run_export
from longrope.pipeline.exporting import export
from longrope.pipeline.kept import report_kept
from longrope.pipeline.measuring import check_lengths, evaluation_of, measured_lengths
from longrope.pipeline.session import Session
from longrope.pipeline.stages import (
    Progress,
    Task,
    plan_tasks,
    run_tasks,
    target_tuning,
    tune_at_target,
)
from longrope.recipe import ExportRecipe, Recipe, TuneRecipe
from longrope.report import write_report
from longrope.rope import RescaleFactors, load_factors, read_given
from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir, lost_weights
from longrope.search import find_factors, was_searched_on
from longrope.tuning import check_training


def extend(
    recipe: Recipe,
    run: RunDir,
    callbacks: Callbacks | None = None,
    *,
    preprocess: Preprocess | None = None,
    dry_run: bool = False,
) -> list[Score]:
    """Extend the context window of a model by one recipe; a run directory that was begun is resumed.

    The original model and the baselines are measured first, while their weights are in memory; what is found by search
    and training is measured after them and compared with their samples.

    Args:
        recipe: what to do.
        run: where everything goes; bound to this recipe (raises RunError if another one began it).
        callbacks: called as the run proceeds.
        preprocess: what every row of the texts goes through (see ``load_texts``); a run is resumed with the same one.
        dry_run: check everything, report what it will take, and raise DryRunEnd; nothing is written.

    Returns:
        The scores of the original model, of the recipe's baselines, and with the factors found; the comparisons with
        the best baseline last.

    Raises:
        RecipeError: a part does not fit into memory.
    """
    check_lengths(recipe)
    _check_untrained(run)
    session = Session.load(recipe, run, callbacks, preprocess, dry_run=dry_run, check=check_run)
    _check_capable(session, MEASURE, *_gradients(recipe), export_step("hf"))
    given = _given(session)
    tasks, original = plan_tasks(session), name_subject(session.model, None)
    evaluation = evaluation_of(session, original)
    report_kept(session, tasks)
    report_run(session, evaluation, tasks, exports=not _is_exported(session, tasks), always=dry_run)
    with session.begun():
        baselines = make_baselines(session, recipe.measure.baselines, measured_lengths(recipe, session.model))
        for line in evaluation.describe_windows(original):
            session.report(line)
        scores = _measure(session, evaluation, [original, *baselines, *given])
        best = _best_baseline(evaluation, baselines, scores)
        if best:
            evaluation.prepare(best)
        extended = _extend(session, tasks, evaluation)
        if extended.tuned_with:  # the weights of the original are gone, its samples are there
            evaluation = replace(evaluation, original=replace(original, at_hand=False))
            best = replace(best, at_hand=False) if best else None
        method = registry.TUNED if extended.tuned_with else extended.longest.method
        found = name_subject(extended.model, extended.table, method)
        scores += _measure(session, evaluation, [found])
        scores += _compare_with_best(session, evaluation, [found], best)
        export(session.with_model(extended.model), extended.longest)
        search_costs(run, tasks)
        _write_report(session)
    return scores


def _extend(session: Session, tasks: Sequence[Task], evaluation: Evaluation) -> Progress:
    """The model with its factors: of one search, or of all stages.

    Raises:
        TextsError: the factors to train with were searched on text that is measured, before any training with them.
    """
    if not tasks:
        return Progress(session.model, (_search_one(session),))
    measured = evaluation.text.windows(evaluation.longest(evaluation.original), evaluation.settings.windows)
    extended = run_tasks(session, tasks, lambda factors: check_unsearched(measured, factors.searched))
    run = session.run
    if not _is_exported(session, tasks):
        run.remove(run.export_report)  # a checkpoint of other stages, or in another form
    run.write_factors(extended.table)
    run.write_text(run.scheduled, _made_of(session, tasks))
    return extended


def _is_exported(session: Session, tasks: Sequence[Task]) -> bool:
    """Whether the checkpoint is there: of stages, that of all of these."""
    run = session.run
    made = not tasks or run.read_text(run.scheduled) == _made_of(session, tasks)
    return made and run.is_exported


def _made_of(session: Session, tasks: Sequence[Task]) -> str:
    """What a checkpoint of stages was made of, as the file of a run says it."""
    return f"{tasks[-1].made_of} {_form_of(session.recipe.export)}\n"


def _form_of(settings: ExportRecipe) -> str:
    """The settings of a checkpoint as earlier versions wrote them, so that the checkpoints of their runs stay."""
    form = {"tiers" if key == "factor_sets" else key: value for key, value in asdict(settings).items()}
    if settings.max_shard_size == ExportRecipe().max_shard_size:
        del form["max_shard_size"]
    return json.dumps(form)


def tune(
    recipe: Recipe,
    factors: Path,
    run: RunDir,
    callbacks: Callbacks | None = None,
    *,
    preprocess: Preprocess | None = None,
    dry_run: bool = False,
) -> LanguageModel:
    """Train the weights alone, at the target window of a recipe with factors from a file; export the checkpoint."""
    factor_set, settings = load_factors(factors).choose(recipe.target_tokens), target_tuning(recipe)

    def check(session: Session) -> None:
        factor_set.check_spec(session.model.spec)
        _check_reach(settings, factor_set)
        check_training(session.model, session.texts.tune, settings)

    if run.has(run.export_report) and not run.has(run.tuning):
        raise lost_weights(run)
    session = Session.load(recipe, run, callbacks, preprocess, dry_run=dry_run, check=check)
    session.report(ESTIMATING)
    passes = PassTimer(session.model)
    costs = [estimate_tuning(settings, session.model, passes)]
    if not run.is_exported:
        costs.append(estimate_run_export(session, passes, factor_set))
    report_costs(costs, session.report, always=True)
    with session.begun():
        tuned = tune_at_target(session, factor_set)
        run.write_factors(factor_set)
        export(session.with_model(tuned), factor_set)
        _write_report(session)
    return tuned


def _check_reach(settings: TuneRecipe, factor_set: RescaleFactors) -> None:
    """Refuse to train at positions beyond the window of the factors (raises RecipeError)."""
    if settings.reach_tokens > factor_set.target_window:
        raise RecipeError(
            f"The training reads positions up to {settings.reach_tokens:,}, and the factors are for "
            f"{factor_set.target_window:,} tokens.",
            "It needs factors for its window or a longer one.",
            "Give such factors, or a smaller tune.window_tokens or tune.skipped_positions.",
        )


def compare(
    recipe: Recipe,
    run: RunDir,
    callbacks: Callbacks | None = None,
    *,
    preprocess: Preprocess | None = None,
    dry_run: bool = False,
) -> list[Score]:
    """Measure every method on the same windows: the original model, all baselines, and both LongRoPE searches.

    Factors from elsewhere that the recipe names are measured, too, each as a method with the name of its file. The last
    scores compare each method with the best baseline, token by token and passkey by passkey.
    """
    check_lengths(recipe)
    _check_untrained(run)
    session = Session.load(recipe, run, callbacks, preprocess, dry_run=dry_run, check=check_comparison)
    _check_capable(session, MEASURE, SEARCH)
    given = _given(session)
    original, lengths = name_subject(session.model, None), measured_lengths(recipe, session.model)
    evaluation = evaluation_of(session, original)
    report_kept(session)
    report_comparison(session, evaluation, [subject.method for subject in given])
    with session.begun():
        searched = {method: _search(session, method) for method in COMPARED}
        baselines = make_baselines(session, registry.baselines(), lengths, leave_out=True)
        found = [name_subject(session.model, factors) for factors in searched.values()]
        subjects = [original, *baselines, *given, *found]
        scores = _measure(session, evaluation, subjects)
        scores += _compare_with_best(session, evaluation, subjects, _best_baseline(evaluation, baselines, scores))
        search_costs(run)
        _write_report(session)
    return scores


def search(
    recipe: Recipe,
    run: RunDir,
    callbacks: Callbacks | None = None,
    *,
    preprocess: Preprocess | None = None,
    dry_run: bool = False,
) -> RescaleFactors:
    """Search alone: the factors of a recipe, in a run directory that is resumed if it was begun."""
    _check_untrained(run)
    session = Session.load(recipe, run, callbacks, preprocess, dry_run=dry_run, check=check_search)
    _check_capable(session, MEASURE, *_gradients(recipe))
    report_kept(session)
    report_search(session, always=dry_run)
    with session.begun():
        return _search_one(session)


def _check_untrained(run: RunDir) -> None:
    """Raise RunError where the directory holds a training by ``tune``: its factors are for other weights."""
    if run.has(run.tuning) or run.has(run.train):
        raise RunError(
            f"{run.path} holds a training of `longrope tune`.",
            "This command begins with the original weights, and would replace the factors of the training.",
            f"Go on with `longrope tune`, measure the trained checkpoint {run.checkpoint}, or give another --out.",
        )


def _check_capable(session: Session, *steps: str) -> None:
    """Try steps before a run begins; one that has begun was tried then."""
    if not session.run.has(session.run.provenance):
        check_capable(session.model, *steps)


def _gradients(recipe: Recipe) -> tuple[str, ...]:
    """The step that needs gradients, where a recipe does."""
    methods = {recipe.searching(at.stage).method for at in recipe.standings()}
    needed = "gradient" in methods or any(stage.kind == "tune" for stage in recipe.stages)
    return (SEARCH,) if needed else ()


def _search(session: Session, method: str) -> RescaleFactors:
    """The factors by one search; those of a finished one are read, also where an earlier version made them."""
    recipe, run = session.recipe, session.run
    if run.has(finished := run.factors(registry.searches().get(method, method))):
        found = distributed.on_main(partial(load_factors, finished)).factor_sets[0]
        if found.target_window != recipe.target_tokens:
            raise RunError(
                f"{finished} is for {found.target_window:,} tokens.",
                f"This run searches factors for {recipe.target_tokens:,}.",
                "Put its own file back, or delete it to search again.",
            )
        if not was_searched_on(found, session.texts.search, recipe.search, recipe.seed):
            session.report(f"{finished} was searched on other texts than are there now: delete it to search again")
        return found
    session.report(f"search factors for {recipe.target_tokens:,} tokens by {method}")
    return find_factors(
        session.model,
        session.texts.search,
        recipe.target_tokens,
        run=run,
        settings=replace(recipe.search, method=method),
        seed=recipe.seed,
        on_trial=session.callbacks.on_trial,
    )


def _search_one(session: Session) -> RescaleFactors:
    """The factors by the recipe's own method, which become those of the run."""
    factors = _search(session, session.recipe.search.method)
    session.run.write_factors(factors)
    return factors


def _write_report(session: Session) -> None:
    session.report(f"report: {distributed.on_main(partial(write_report, session.run))}")


def _given(session: Session) -> list[Subject]:
    """Factors from elsewhere that the recipe names, each a method with the name of its file."""
    model, recipe = session.model, session.recipe
    subjects = []
    for one in read_given(recipe.factors, model.spec, recipe.target_tokens):
        one.table.choose(max(measured_lengths(recipe, model)))
        session.report(f"{one}")
        subjects.append(name_subject(model, one.table, one.name))
    return subjects


def _measure(session: Session, evaluation: Evaluation, subjects: Sequence[Subject]) -> list[Score]:
    scores = []
    for subject in subjects:
        measured = evaluation.measure(subject)
        session.callbacks.on_scores(measured)
        scores += measured
    return scores


def _compare_with_best(
    session: Session, evaluation: Evaluation, subjects: Sequence[Subject], best: Subject | None
) -> list[Score]:
    """How methods compare with the best baseline at the longest length.

    The best baseline is not compared with itself, but with the same factors where a search chose them.
    """
    scores = []
    for subject in subjects:
        if best and subject.source != best.source:
            compared = evaluation.compare(subject, best)
            session.callbacks.on_scores(compared)
            scores += compared
    return scores


def _best_baseline(evaluation: Evaluation, baselines: Sequence[Subject], scores: Sequence[Score]) -> Subject | None:
    """The best baseline at the longest length; None without any, or where perplexity is not measured."""
    longest = max(evaluation.settings.lengths)
    values = {s.source: s.value for s in scores if (s.metric, s.context_tokens) == ("perplexity", longest)}
    measured = [subject for subject in baselines if subject.source in values]
    return min(measured, key=lambda subject: values[subject.source]) if measured else None
