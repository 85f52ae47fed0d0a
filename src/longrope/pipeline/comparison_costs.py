"""What a command will take, estimated before it begins: searches, stages, scans, and each metric of each method."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from longrope import distributed, registry
from longrope.engine.decoding import read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.memory import estimate_memory, free_memory
from longrope.engine.pass_seconds import PassTimer
from longrope.engine.passes import token_losses
from longrope.errors import ModelError
from longrope.evaluation import Evaluation
from longrope.evaluation.metric import Reading, Subject
from longrope.models import LanguageModel
from longrope.pipeline.estimates import Cost, check_costs, estimate_search, estimate_stages
from longrope.pipeline.session import Session
from longrope.pipeline.stages import Task
from longrope.recipe import Recipe, Stage
from longrope.search.scan import count_scan_passes

COMPARED = ("evolution", "gradient")  # the searches of a comparison
STEP_TEXT, STEPS = 64, 8  # tokens
TUNED = "longrope-tuned"
SECONDS_WORTH_A_LINE = 60.0
ESTIMATING = "estimate time and memory, by short passes"
Reader = Callable[[LanguageModel, int], AbstractContextManager[None]] | None  # how a method changes attention


def report_costs(
    costs: Sequence[Cost], report: Callable[[str], None], *, unknown: Sequence[str] = (), always: bool = False
) -> None:
    """Report what a command will take, part by part and in all, if that is more than a minute.

    Args:
        costs: of its parts.
        report: takes each line.
        unknown: metrics whose part cannot be estimated, by name.
        always: report less than a minute, too.

    Raises:
        RecipeError: a part does not fit into memory.
    """
    costs = list(costs)
    whole = sum(cost.seconds for cost in costs)
    if len(costs) > 1:
        worst = max(costs, key=lambda cost: cost.bytes_needed)
        costs.append(replace(worst, stage="in all", seconds=whole))
    if always or whole >= SECONDS_WORTH_A_LINE:
        for cost in costs:
            report(f"{cost}")
        if unknown:
            report(f"without {', '.join(unknown)}, which cannot be estimated")
    check_costs(costs)


def report_run(session: Session, evaluation: Evaluation, tasks: Sequence[Task], *, always: bool) -> None:
    """Report what is left of a run: its stages or its search, the scans of its baselines, and measuring all methods.

    Args:
        session: of the run.
        evaluation: what all methods are measured with.
        tasks: the stages; without any the recipe's search is one.
        always: report less than a minute, too.

    Raises:
        RecipeError: a part does not fit into memory.
    """
    recipe, model = session.recipe, session.model
    method, searches = _search_of(session)
    names = [registry.ORIGINAL, *recipe.measure.baselines, TUNED if session.tunes else method]
    session.report(ESTIMATING)
    costs = estimate_stages(recipe, model, [task.stage for task in tasks if not task.done])
    costs += estimate_methods(session, evaluation, names, [] if tasks else searches)
    report_costs(costs, session.report, unknown=evaluation.unread(evaluation.original), always=always or bool(tasks))


def report_search(session: Session, *, always: bool) -> None:
    """Report what a search alone will take, as ``report_run`` does (raises RecipeError)."""
    _, searches = _search_of(session)
    session.report(ESTIMATING)
    costs = estimate_comparison(session.recipe, session.model, (), searches=searches, scans=0, methods=())
    report_costs(costs, session.report, always=always)


def _search_of(session: Session) -> tuple[str, list[str]]:
    """The method in the records of a recipe's own search, and the name of the search where it is still to be done."""
    run, name = session.run, session.recipe.search.method
    method = registry.searches().get(name, name)
    return method, [] if run.has(run.factors(method)) else [name]


def estimate_measuring(
    recipe: Recipe, model: LanguageModel, readings: Sequence[Reading], subject: Subject
) -> list[Cost]:
    """What measuring one method will take."""
    return estimate_comparison(recipe, model, readings, searches=(), scans=0, methods=[subject.attention])


def estimate_methods(
    session: Session, evaluation: Evaluation, names: Sequence[str], searches: Sequence[str]
) -> list[Cost]:
    """What searches, scans and measurements are left of some methods, by their names in the records."""
    run, longest = session.run, max(evaluation.settings.lengths)
    measured = {score.source.known_as for score in run.read_scores() if score.context_tokens == longest}
    rows = [registry.METHODS[name] for name in names if name in registry.baselines()]
    attention = {row.name: registry.resolve(row.make) for row in rows if row.kind == "attention"}
    scanned = [row.name for row in rows if row.kind == "factors" and not row.formula]
    return estimate_comparison(
        session.recipe,
        session.model,
        evaluation.readings(evaluation.original),
        searches=searches,
        scans=sum(not run.has(run.factors(name)) for name in scanned),
        methods=[attention.get(name) for name in names if name not in measured],
    )


def report_comparison(session: Session, evaluation: Evaluation, given: Sequence[str]) -> None:
    """Report what is left of a comparison, part by part and in all.

    Args:
        session: of the comparison.
        evaluation: what all methods are measured with.
        given: names of factors from elsewhere, which are measured, too.

    Raises:
        RecipeError: a part does not fit into memory.
    """
    run, found = session.run, [registry.searches()[name] for name in COMPARED]
    names = [registry.ORIGINAL, *registry.baselines(), *found, *given]
    searches = [name for name, method in zip(COMPARED, found, strict=True) if not run.has(run.factors(method))]
    session.report(ESTIMATING)
    costs = estimate_methods(session, evaluation, names, searches)
    report_costs(costs, session.report, unknown=evaluation.unread(evaluation.original), always=bool(costs))


def estimate_comparison(
    recipe: Recipe,
    model: LanguageModel,
    readings: Sequence[Reading],
    *,
    searches: Sequence[str],
    scans: int,
    methods: Sequence[Reader],
    clock: Callable[[], float] = time.perf_counter,
) -> list[Cost]:
    """What a comparison will take: its searches, its scans, and measuring every method.

    Args:
        recipe: of the comparison.
        model: that is measured.
        readings: what measuring one method takes of it.
        searches: those that are still to be done, by their names in ``search.method``.
        scans: baselines that are still to be scanned.
        methods: those that are still to be measured: each None, or what changes the attention.
        clock: in seconds.
    """
    passes = PassTimer(model, clock=clock)
    costs = []
    for name in searches:
        settings = replace(recipe, search=replace(recipe.search, method=name))
        cost = estimate_search(settings, model, Stage(search=recipe.target_tokens), passes)
        costs.append(replace(cost, stage=f"search by {name}"))
    longest = max([recipe.target_tokens, *(reading.tokens for reading in readings)])
    memory = estimate_memory(model, longest), free_memory(model)
    if scans:
        seconds = scans * count_scan_passes(model.spec, recipe) * passes(recipe.target_tokens)
        costs.append(Cost("scan of base and attention factor", seconds / distributed.workers(), *memory))
    if methods and readings:
        step = seconds_of_step(model, clock) if any(reading.written for reading in readings) else 0.0
        each, once = (
            sum(r.passes * passes(r.tokens) + r.written * step for r in readings if r.once == together)
            for together in (False, True)
        )
        seconds = once + each * sum(_slowness(model, method, longest, passes, clock) for method in methods)
        costs.append(
            Cost(f"measure {len(methods)} method{'s' * (len(methods) > 1)}", seconds / distributed.workers(), *memory)
        )
    return costs


def seconds_of_step(model: LanguageModel, clock: Callable[[], float] = time.perf_counter) -> float:
    """About how long one written token takes, by a few after a short text."""
    cached = KeyValueCache(model, STEP_TEXT + STEPS)
    logits = read_prompt(model, np.arange(STEP_TEXT) % model.network.config.vocab_size, cached)
    seconds = []
    for _ in range(STEPS):
        began = clock()
        logits = read_prompt(model, [int(logits.argmax())], cached)
        seconds.append(clock() - began)
    return float(np.median(seconds))


def _slowness(model: LanguageModel, reader: Reader, tokens: int, plain: PassTimer, clock: Callable[[], float]) -> float:
    """How many times the seconds of a plain pass one takes that a method changes; 0 where the model is none for it."""
    if reader is None:
        return 1.0

    def run(network: LanguageModel, ids: Any) -> None:
        with reader(network, ids.shape[1]):
            token_losses(network, ids)

    try:
        return PassTimer(model, run=run, clock=clock)(tokens) / plain(tokens)
    except ModelError:  # it is left out of the comparison, which says so
        return 0.0
