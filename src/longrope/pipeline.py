"""The walk: model + texts -> search -> tune -> measure -> export, one line per arrow, all in a run directory."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from longrope import distributed, registry
from longrope.engine.passes import describe_pass
from longrope.errors import RunError
from longrope.evaluation import Evaluation, name_subject
from longrope.evaluation.metric import Subject
from longrope.evaluation.samples import SampleCache
from longrope.exports import Origin, dump_report, export_hf
from longrope.factors import FactorTable, RescaleFactors, closed_form, dump_factors, load_factors
from longrope.models import LanguageModel, describe_device, load_config, load_model, read_spec
from longrope.recipe import ExportRecipe, Recipe, TuneRecipe
from longrope.records import Score, Trial, read_records
from longrope.reports import write_report
from longrope.reports.provenance import describe_rope, record_rope, record_walk
from longrope.rundir import RunDir
from longrope.search import check_recovery, check_search, find_factors
from longrope.search.cost import SearchCost, compare_costs
from longrope.stages import (
    TUNED,
    Progress,
    Task,
    Watch,
    check_costs,
    estimate_stages,
    estimate_tuning,
    plan_stages,
    plan_walk,
    walk,
)
from longrope.texts import Texts, load_texts
from longrope.tuning import check_training, fine_tune


def extend(recipe: Recipe, run: RunDir, watch: Watch | None = None) -> list[Score]:
    """Walk the whole way for one recipe; a run directory that was begun is resumed.

    The original model and the baselines are measured first, while their weights are in memory; what is found by search
    and training is measured after them and compared with their samples.

    Args:
        recipe: what to do.
        run: where everything goes; bound to this recipe (raises RunError if another one began it).
        watch: told of progress.

    Returns:
        The scores of the original model, of the recipe's baselines, and with the factors found; the comparisons with
        the best baseline last.
    """
    watch = watch or Watch()
    distributed.on_main(partial(run.check, recipe))
    model, texts = _load(recipe, watch)
    _check(recipe, model, texts)
    with _held(run, recipe):
        distributed.on_main(partial(_record, recipe, run, model))
        tasks = plan_walk(recipe, run, model, texts)
        _estimate(recipe, tasks, model, watch)
        original, *baselines = _subjects(recipe, run, model, texts, recipe.measure.rivals, watch)
        evaluation = _evaluation(recipe, run, texts, original)
        for line in evaluation.describe_windows(original):
            watch.on_step(line)
        scores = _measure(evaluation, [original, *baselines], watch)
        best = _best_baseline(evaluation, baselines, scores)
        if best:
            evaluation.prepare(best)
        extended = _extend(recipe, run, tasks, model, texts, watch)
        if extended.tuned_with:  # the weights of the original are gone, its samples are there
            evaluation = replace(evaluation, original=replace(original, at_hand=False))
            best = replace(best, at_hand=False) if best else None
        found = name_subject(extended.model, extended.table, _method(extended))
        scores += _measure(evaluation, [found], watch)
        scores += _compare_with_best(evaluation, [found], best, watch)
        distributed.on_main(partial(export, recipe, run, extended.model, extended.longest, texts, watch))
        search_costs(run, tasks)
        watch.on_step(f"report: {distributed.on_main(partial(write_report, run))}")
    return scores


def _extend(
    recipe: Recipe, run: RunDir, tasks: Sequence[Task], model: LanguageModel, texts: Texts, watch: Watch
) -> Progress:
    """The model with its factors: of one search, or of all stages of a walk."""
    if not tasks:
        return Progress(model, (_search_one(recipe, run, model, texts, watch),))
    extended = walk(recipe, tasks, model, texts, watch)

    def keep() -> None:
        made_of = f"{tasks[-1].made_of} {json.dumps(asdict(recipe.export))}\n"
        if not run.walked.exists() or run.walked.read_text(encoding="utf-8") != made_of:
            run.export_report.unlink(missing_ok=True)  # a checkpoint of other stages, or in another form
        run.write_text(run.factors(), dump_factors(extended.table))
        run.write_text(run.walked, made_of)

    distributed.on_main(keep)
    return extended


def _method(extended: Progress) -> str:
    return "longrope-tuned" if extended.tuned_with else extended.longest.method


def _check(recipe: Recipe, model: LanguageModel, texts: Texts) -> None:
    """Raise LongRopeError, before anything takes time, if a search or a training could not begin."""
    for at in recipe.standings():
        stage, window = at.stage, at.stage.window_tokens
        if stage.kind == "search":
            trained = at.tuned or model.spec.trained_window
            check_search(model, texts.search, window, trained_window=trained, settings=recipe.search)
        elif stage.kind == "recover":
            check_recovery(texts.search, window, max(at.windows), recipe.search)
        elif stage.kind == "tune":
            check_training(model, texts.tune, recipe.tuning(stage))


def _estimate(recipe: Recipe, tasks: Sequence[Task], model: LanguageModel, watch: Watch) -> None:
    """Tell what is left of a walk will take; raise RecipeError if a stage of it does not fit into memory."""
    costs = estimate_stages(recipe, model, [task.stage for task in tasks if not task.done])
    for cost in costs:
        watch.on_step(f"{cost}")
    check_costs(costs)


def with_tuning(recipe: Recipe) -> Recipe:
    """The recipe with the stages of a walk that tunes, where it lists none; the model's config is looked at."""
    spec = read_spec(load_config(recipe.model))
    return recipe if recipe.stages else replace(recipe, stages=plan_stages(spec.trained_window, recipe.target_tokens))


def tune(recipe: Recipe, factors: Path, run: RunDir, watch: Watch | None = None) -> LanguageModel:
    """Train the weights alone, at the target window of a recipe with factors from a file; export the checkpoint."""
    watch = watch or Watch()
    table = load_factors(factors)
    distributed.on_main(partial(run.check, recipe))
    model, texts = _load(recipe, watch)
    tier, settings = table.choose(recipe.target_tokens), _tuning(recipe)
    tier.check_spec(model.spec)
    check_training(model, texts.tune, settings)
    with _held(run, recipe):
        distributed.on_main(partial(_record, recipe, run, model))
        cost = estimate_tuning(settings, model)
        watch.on_step(f"{cost}")
        check_costs([cost])
        tuned = _tune(recipe, run, model, tier, texts, watch)
        distributed.on_main(partial(run.write_text, run.factors(), dump_factors(tier)))
        distributed.on_main(partial(export, recipe, run, tuned, tier, texts, watch))
        watch.on_step(f"report: {distributed.on_main(partial(write_report, run))}")
    return tuned


def _tuning(recipe: Recipe) -> TuneRecipe:
    return replace(recipe.tune, window_tokens=recipe.tune.window_tokens or recipe.target_tokens)


def _tune(
    recipe: Recipe, run: RunDir, model: LanguageModel, tier: RescaleFactors, texts: Texts, watch: Watch
) -> LanguageModel:
    """The model with weights trained in the run directory itself."""
    given: dict[str, Any] = {"settings": _tuning(recipe), "run": run, "seed": recipe.seed, "on_step": watch.on_train}
    tuned = fine_tune(model, tier, texts.tune, **given)
    return replace(tuned, name=f"{model.name}{TUNED}at {run.path.name}")


def compare(recipe: Recipe, run: RunDir, watch: Watch | None = None) -> list[Score]:
    """Measure every method on the same windows: the original model, all baselines, and both LongRoPE searches.

    The last scores compare each of them with the best baseline, token by token and passkey by passkey.
    """
    watch = watch or Watch()
    distributed.on_main(partial(run.check, recipe))
    model, texts = _load(recipe, watch)
    with _held(run, recipe):
        distributed.on_main(partial(_record, recipe, run, model))
        searched = {method: _search(recipe, run, model, texts, method, watch) for method in ("evolution", "gradient")}
        original, *baselines = _subjects(recipe, run, model, texts, registry.baselines(), watch)
        subjects = [original, *baselines, *(name_subject(model, factors) for factors in searched.values())]
        evaluation = _evaluation(recipe, run, texts, original)
        scores = _measure(evaluation, subjects, watch)
        scores += _compare_with_best(evaluation, subjects, _best_baseline(evaluation, baselines, scores), watch)
        search_costs(run)
        watch.on_step(f"report: {distributed.on_main(partial(write_report, run))}")
    return scores


def search(recipe: Recipe, run: RunDir, watch: Watch | None = None) -> RescaleFactors:
    """Search alone: the factors of a recipe, in a run directory that is resumed if it was begun."""
    watch = watch or Watch()
    distributed.on_main(partial(run.check, recipe))
    model, texts = _load(recipe, watch)
    with _held(run, recipe):
        distributed.on_main(partial(_record, recipe, run, model))
        return _search_one(recipe, run, model, texts, watch)


def export(
    recipe: Recipe, run: RunDir, model: LanguageModel, factors: RescaleFactors, texts: Texts, watch: Watch
) -> None:
    """Write and check the checkpoint of a run unless it is there already."""
    if run.export_report.exists():
        return
    watch.on_step(f"export to {run.checkpoint}, reopen in plain transformers, compare")
    scores = _scores_of(run, factors)
    with run.replacing(run.checkpoint) as folder:
        report = export_hf(model, factors, folder, scores=scores, **_export_options(recipe, model, factors, texts))
    run.write_text(run.export_report, dump_report(report))


def _scores_of(run: RunDir, tier: RescaleFactors) -> list[Score]:
    """The scores of a run; those that this tier of its factors gave name the tier alone."""
    table = load_factors(run.factors())
    return [
        replace(score, factors_fingerprint=tier.fingerprint)
        if score.factors_fingerprint == table.fingerprint and table.choose(score.context_tokens) == tier
        else score
        for score in read_records(run.scores, Score)
    ]


def export_file(
    recipe: Recipe,
    run: RunDir,
    model: LanguageModel,
    factors: RescaleFactors,
    texts: Texts,
    watch: Watch,
    to: registry.Format,
) -> None:
    """Write and check a file of a run in another format than its checkpoint, with a report beside it."""
    path = run.exported(to.file)
    watch.on_step(f"export to {path}, open it again, compare")
    with run.replacing(path.parent) as folder:
        options = _export_options(recipe, model, factors, texts)
        report = registry.resolve(to.write)(model, factors, folder / path.name, **options)
        run.write_text(folder / "export.json", dump_report(report))


def _export_options(recipe: Recipe, model: LanguageModel, factors: RescaleFactors, texts: Texts) -> dict[str, Any]:
    """What both formats ask for; the measuring windows only where start tokens may be dropped."""
    windows = None
    if factors.start_tokens:
        windows = texts.measure.windows(recipe.target_tokens, recipe.measure.windows)
    origin = Origin(recipe.model, tuned=model.name != recipe.model, hub_name=recipe.export.base_model)
    return {"settings": recipe.export, "windows": windows, "origin": origin}


def measured_lengths(recipe: Recipe, model: LanguageModel) -> tuple[int, ...]:
    """The context windows of a recipe: those it names, else the trained window and the target."""
    return recipe.measure.lengths or tuple(sorted({model.spec.trained_window, recipe.target_tokens}))


def longest_window(recipe: Recipe, factors: Path | None = None) -> int:
    """The longest window of a run in tokens, by its recipe and a file of factors, without looking at the model."""
    lengths = recipe.measure.lengths
    if factors and not lengths:
        lengths = (load_factors(factors).tiers[-1].target_window,)
    return max((recipe.target_tokens, *lengths))


@contextmanager
def _held(run: RunDir, recipe: Recipe | None = None) -> Iterator[None]:
    """Hold the run directory, bound to the recipe if there is one: one process for all."""
    with ExitStack() as stack:

        def begin() -> None:
            stack.enter_context(run.locked())
            if recipe:
                run.bind(recipe)

        distributed.on_main(begin)
        yield


def _load(recipe: Recipe, watch: Watch) -> tuple[LanguageModel, Texts]:
    watch.on_step(f"load {recipe.model}")
    model = load_model(recipe.model, device=recipe.device, dtype=recipe.dtype, compiled=recipe.compiled)
    watch.on_step("; ".join(_choices(model)))
    watch.on_step(f"read {', '.join([*recipe.data, *recipe.measure_data])}")
    texts = load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data)
    for line in texts.report.lines():
        watch.on_step(line)
    return model, texts


def _choices(model: LanguageModel) -> tuple[str, ...]:
    return (*model.choices, *distributed.choices(), describe_pass(model))


def _record(recipe: Recipe, run: RunDir, model: LanguageModel) -> None:
    """Write what the report tells of a walk beside its records."""
    record_rope(run, model.spec, recipe.target_tokens)
    _record_walk(run, model)


def _record_walk(run: RunDir, model: LanguageModel) -> None:
    record_walk(run, device=describe_device(model), choices=_choices(model))


def _search(
    recipe: Recipe, run: RunDir, model: LanguageModel, texts: Texts, method: str, watch: Watch
) -> RescaleFactors:
    watch.on_step(f"search factors for {recipe.target_tokens:,} tokens by {method}")
    settings = replace(recipe.search, method=method)
    return find_factors(
        model,
        texts.search,
        recipe.target_tokens,
        run=run,
        settings=settings,
        seed=recipe.seed,
        on_trial=watch.on_trial,
    )


def _search_one(recipe: Recipe, run: RunDir, model: LanguageModel, texts: Texts, watch: Watch) -> RescaleFactors:
    """The factors by the recipe's own method, which become those of the run."""
    factors = _search(recipe, run, model, texts, recipe.search.method, watch)
    distributed.on_main(partial(run.write_text, run.factors(), dump_factors(factors)))
    return factors


def _evaluation(recipe: Recipe, run: RunDir, texts: Texts, original: Subject) -> Evaluation:
    """What all methods of a run are measured with."""
    settings = replace(recipe.measure, lengths=measured_lengths(recipe, original.model))
    return Evaluation(texts.measure, settings, original, SampleCache(run), recipe.seed)


def _subjects(
    recipe: Recipe, run: RunDir, model: LanguageModel, texts: Texts, names: Sequence[str], watch: Watch
) -> list[Subject]:
    """The original model, and baselines by name."""
    baselines = [name_subject(model, _baseline(recipe, run, model, texts, name, watch)) for name in names]
    return [Subject(model, None, "none"), *baselines]


def _baseline(
    recipe: Recipe, run: RunDir, model: LanguageModel, texts: Texts, name: str, watch: Watch
) -> FactorTable | RescaleFactors:
    """The factors of a baseline: by its formula, or scanned on the windows that the searches have."""
    row, target = registry.METHODS[name], recipe.target_tokens
    if row.formula:
        return closed_form(model.spec, name, target, measured_lengths(recipe, model))
    watch.on_step(f"scan factors for {target:,} tokens: {row.label}")
    given: dict[str, Any] = {"run": run, "settings": recipe.search, "seed": recipe.seed}
    given |= {"passes": recipe.measure.scan_passes, "on_trial": watch.on_trial, "on_message": watch.on_step}
    made: RescaleFactors = registry.resolve(row.make)(model, texts.search, target, **given)
    return made


def _measure(evaluation: Evaluation, subjects: Sequence[Subject], watch: Watch) -> list[Score]:
    scores = []
    for subject in subjects:
        watch.on_step(f"measure {subject.source.label}")
        scores += evaluation.measure(subject)
    return scores


def _compare_with_best(
    evaluation: Evaluation, subjects: Sequence[Subject], best: Subject | None, watch: Watch
) -> list[Score]:
    """How methods compare with the best baseline at the longest length.

    The best baseline is not compared with itself, but with the same factors where a search chose them.
    """
    scores = []
    for subject in subjects:
        if best and subject.source != best.source:
            watch.on_step(f"compare {subject.source.label} with {best.source.label} token by token")
            scores += evaluation.compare(subject, best)
    return scores


def _best_baseline(evaluation: Evaluation, baselines: Sequence[Subject], scores: Sequence[Score]) -> Subject | None:
    """The best baseline at the longest length; None without any, or where perplexity is not measured."""
    longest = max(evaluation.settings.lengths)
    values = {s.source: s.value for s in scores if (s.metric, s.context_tokens) == ("perplexity", longest)}
    measured = [subject for subject in baselines if subject.source in values]
    return min(measured, key=lambda subject: values[subject.source]) if measured else None


def search_costs(run: RunDir, tasks: Sequence[Task] = ()) -> list[SearchCost]:
    """What the searches of a run cost, or those of the stages of its walk, from the trials; also in ``costs.json``."""
    places = [(str(task.stage), task.folder / run.trials.name) for task in tasks] or [("", run.trials)]

    def keep() -> list[SearchCost]:
        costs = [cost for stage, path in places for cost in compare_costs(read_records(path, Trial), stage)]
        run.write_text(run.costs, json.dumps([asdict(cost) for cost in costs], indent=1) + "\n")
        return costs

    return distributed.on_main(keep)


def measure_only(
    recipe: Recipe, factors: Path | None, run: RunDir | None = None, watch: Watch | None = None
) -> list[Score]:
    """Measure a model with factors from a file, or as it is; the recipe's search and export are not used."""
    watch = watch or Watch()
    table = load_factors(factors) if factors else None
    model, texts = _load(recipe, watch)
    with _held(run) if run else nullcontext():
        if run:
            distributed.on_main(partial(_record_walk, run, model))
        evaluation = Evaluation(
            texts.measure, recipe.measure, Subject(model, None, "none"), SampleCache(run), recipe.seed
        )
        subject = name_subject(model, table)
        for line in evaluation.describe_windows(subject):
            watch.on_step(line)
        return evaluation.measure(subject)


def export_again(run: RunDir, settings: ExportRecipe, watch: Watch | None = None, *, to: str = "hf") -> None:
    """Export a finished run once more, with these settings, in a format of the registry.

    It has the run's longest factors, and its own weights if it has some.
    """
    watch = watch or Watch()
    recipe = replace(run.recipe(), export=settings)
    with run.locked():
        tier = load_factors(run.factors()).tiers[-1]  # before the model is loaded, for a run may have none
        model, texts = _load(recipe, watch)
        if tasks := plan_walk(recipe, run, model, texts):
            _check_finished(run, tasks)
            extended = walk(recipe, tasks, model, texts, watch)
            model, tier = extended.model, extended.longest
        elif run.tuning.exists():
            model = _tune(recipe, run, model, tier, texts, watch)
        if to != "hf":
            export_file(recipe, run, model, tier, texts, watch, registry.FORMATS[to])
            return
        run.export_report.unlink(missing_ok=True)
        export(recipe, run, model, tier, texts, watch)


def _check_finished(run: RunDir, tasks: Sequence[Task]) -> None:
    if left := [str(task.stage) for task in tasks if not task.done]:
        raise RunError(
            f"The walk in {run.path} is not finished: {', '.join(left)}.",
            "A finished one is needed.",
            f"Go on with `longrope extend --out {run.path}`.",
        )


def inspect(source: str, target_tokens: int | None = None) -> dict[str, Any]:
    """What a model's RoPE is, from its config alone, and the factors of each closed form for a target window."""
    spec = read_spec(load_config(source))
    return {"model": source, **describe_rope(spec, target_tokens or 8 * spec.trained_window)}
