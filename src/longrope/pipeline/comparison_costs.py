"""What a command will take, estimated before it begins: searches, stages, scans, and each metric of each method."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from longrope import distributed, registry
from longrope.engine.decoding import read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.memory import estimate_memory, free_memory
from longrope.engine.pass_seconds import PassTimer
from longrope.engine.passes import token_losses
from longrope.engine.rows import MOST_ROWS, read_side_by_side, rows_beside
from longrope.errors import ModelError
from longrope.evaluation import Evaluation
from longrope.evaluation.metric import Reading, Subject
from longrope.lengths import counted
from longrope.models import LanguageModel
from longrope.pipeline.estimates import Cost, check_costs, estimate_search, estimate_stages, remedy_on
from longrope.pipeline.export_costs import SEARCH_ALONE, estimate_run_export
from longrope.pipeline.session import Session
from longrope.pipeline.shorter_runs import describe_shorter
from longrope.pipeline.stages import Task
from longrope.recipe import Recipe, Stage
from longrope.rope import RescaleFactors, load_factors
from longrope.runs.run_dir import RunDir
from longrope.search.scan import count_scan_passes

COMPARED = ("evolution", "gradient")  # the searches of a comparison
STEP_TEXT, STEPS = 64, 8  # tokens
SECONDS_WORTH_A_LINE = 60.0
ESTIMATING = "estimate time and memory, by short passes"
Reader = Callable[[LanguageModel, int], AbstractContextManager[None]] | None  # how a method changes attention


class Measured(NamedTuple):
    """A method that is to be measured: what it takes of the model, and what changes the attention, if anything."""

    readings: Sequence[Reading]
    attention: Reader = None


@dataclass
class Speeds:
    """How fast a model runs on this device; each thing is timed once.

    Attributes:
        model: that is run.
        clock: in seconds.
        passes: seconds of a plain pass, by its tokens.
    """

    model: LanguageModel
    clock: Callable[[], float] = time.perf_counter
    passes: PassTimer = field(init=False)
    _slowness: dict[tuple[Reader, int], float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Nothing is timed yet."""
        self.passes = PassTimer(self.model, clock=self.clock)

    @cached_property
    def step(self) -> float:
        """Seconds of one written token."""
        return seconds_of_step(self.model, self.clock)

    @cached_property
    def step_together(self) -> float:
        """Seconds in which each of ``MOST_ROWS`` texts goes on by a written token."""
        return seconds_of_step(self.model, self.clock, MOST_ROWS)

    def slowness(self, reader: Reader, tokens: int) -> float:
        """How many times the seconds of a plain pass one takes that a method changes; 0 where it cannot be used."""
        if reader is None:
            return 1.0
        if (reader, tokens) not in self._slowness:
            self._slowness[reader, tokens] = self._time(reader, tokens)
        return self._slowness[reader, tokens]

    def _time(self, reader: Callable[[LanguageModel, int], AbstractContextManager[None]], tokens: int) -> float:
        def run(network: LanguageModel, ids: Any) -> None:
            with reader(network, ids.shape[1]):
                token_losses(network, ids)

        try:
            return PassTimer(self.model, run=run, clock=self.clock)(tokens) / self.passes(tokens)
        except ModelError:  # it is left out of the comparison, which says so
            return 0.0


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


def report_run(session: Session, evaluation: Evaluation, tasks: Sequence[Task], *, exports: bool, always: bool) -> None:
    """Report what is left of a run: stages or a search, scans of baselines, measuring all methods, the export.

    Args:
        session: of the run.
        evaluation: what all methods are measured with.
        tasks: the stages; without any the recipe's search is one.
        exports: whether the checkpoint is still to be made.
        always: report less than a minute, too.

    Raises:
        RecipeError: a part does not fit into memory.
    """
    session.report(ESTIMATING)
    speeds = Speeds(session.model)
    costs = estimate_run(session, evaluation, [task.stage for task in tasks if not task.done], speeds)
    found, after = _found(session, tasks), list[Cost]()
    if exports:
        after.append(estimate_run_export(session, speeds.passes, found, remedy=SEARCH_ALONE))
    unknown = evaluation.unread(*_kinds(evaluation))
    report_costs([*costs, *after], session.report, unknown=unknown, always=always or bool(tasks))
    if session.model.device.type == "cpu" and not session.run.has(session.run.provenance):  # it keeps its recipe

        def seconds_of(recipe: Recipe) -> float:
            settings = replace(recipe.measure, lengths=evaluation.settings.lengths)
            other, measured = replace(session, recipe=recipe), replace(evaluation, settings=settings)
            costs = [*estimate_run(other, measured, recipe.stages, speeds), *after]
            return sum(cost.seconds for cost in costs)

        for line in describe_shorter(session.recipe, session.model.spec.trained_window, seconds_of):
            session.report(line)


def _found(session: Session, tasks: Sequence[Task]) -> RescaleFactors | None:
    """The factors of the longest window, if all stages, or the search of a run without stages, are finished."""
    method, searches = _search_of(session)
    if any(not task.done for task in tasks) or (searches and not tasks):
        return None
    files = [RunDir(task.folder).factors() for task in tasks] or [session.run.factors(method)]
    sets = [distributed.on_main(partial(load_factors, file)).factor_sets[-1] for file in files]
    return max(sets, key=lambda factor_set: factor_set.target_window)


def estimate_run(session: Session, evaluation: Evaluation, stages: Sequence[Stage], speeds: Speeds) -> list[Cost]:
    """What is left of a run before its export.

    Some stages, or the recipe's own search where it has none, and measuring all methods.
    """
    recipe = session.recipe
    method, searches = _search_of(session)
    names = [registry.ORIGINAL, *recipe.measure.baselines, registry.TUNED if session.tunes else method]
    costs = estimate_stages(recipe, session.model, stages, speeds.passes)
    return costs + estimate_methods(session, evaluation, names, [] if recipe.stages else searches, speeds)


def report_search(session: Session, *, always: bool) -> None:
    """Report what a search alone will take, as ``report_run`` does (raises RecipeError)."""
    _, searches = _search_of(session)
    session.report(ESTIMATING)
    costs = estimate_comparison(session.recipe, session.model, searches=searches, scans=0, methods=())
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
    methods = [Measured(readings, subject.attention)] if readings else []
    return estimate_comparison(recipe, model, searches=(), scans=0, methods=methods)


def estimate_methods(
    session: Session,
    evaluation: Evaluation,
    names: Sequence[str],
    searches: Sequence[str],
    speeds: Speeds | None = None,
) -> list[Cost]:
    """What searches, scans and measurements are left of some methods, by their names in the records."""
    run, (original, other) = session.run, _kinds(evaluation)
    kinds = {name: original if name == registry.ORIGINAL else other for name in names}
    kept: dict[str, set[tuple[str, int]]] = {name: set() for name in names}
    for score in run.read_scores():
        kept.setdefault(score.source.known_as, set()).add((score.metric, score.context_tokens))
    wanted = {kind.method: evaluation.wanted(kind) for kind in (original, other)}
    left = [name for name in names if not wanted[kinds[name].method] <= kept[name]]
    rows = [registry.METHODS[name] for name in names if name in registry.baselines()]
    attention = {row.name: registry.resolve(row.make) for row in rows if row.kind == "attention"}
    scanned = [row.name for row in rows if row.kind == "factors" and not row.formula]
    return estimate_comparison(
        session.recipe,
        session.model,
        searches=searches,
        scans=sum(not run.has(run.factors(name)) for name in scanned),
        methods=[Measured(evaluation.readings(kinds[name], kept[name]), attention.get(name)) for name in left],
        speeds=speeds,
    )


def _kinds(evaluation: Evaluation) -> tuple[Subject, Subject]:
    """The original, which may be measured at fewer lengths, and what stands for all other methods."""
    return evaluation.original, replace(evaluation.original, method="other")


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
    report_costs(costs, session.report, unknown=evaluation.unread(*_kinds(evaluation)), always=bool(costs))


def estimate_comparison(
    recipe: Recipe,
    model: LanguageModel,
    *,
    searches: Sequence[str],
    scans: int,
    methods: Sequence[Measured],
    speeds: Speeds | None = None,
) -> list[Cost]:
    """What a comparison will take: its searches, its scans, and measuring every method.

    Args:
        recipe: of the comparison.
        model: that is measured.
        searches: those that are still to be done, by their names in ``search.method``.
        scans: baselines that are still to be scanned.
        methods: those that are still to be measured.
        speeds: of the model, where some are known.
    """
    speeds = speeds or Speeds(model)
    passes, costs = speeds.passes, []
    readings = [reading for method in methods for reading in method.readings]
    for name in searches:
        settings = replace(recipe, search=replace(recipe.search, method=name))
        cost = estimate_search(settings, model, Stage(search=recipe.target_tokens), passes)
        costs.append(replace(cost, stage=f"search by {name}"))
    longest = max([recipe.target_tokens, *(reading.tokens for reading in readings)])
    remedy = remedy_on(model.device.type, trains=False)
    memory = estimate_memory(model, longest), free_memory(model), remedy
    if scans:
        seconds = scans * count_scan_passes(model.spec, recipe) * passes(recipe.target_tokens)
        costs.append(Cost("scan of base and attention factor", seconds / distributed.workers(), *memory))
    if readings:
        step = speeds.step if any(reading.written for reading in readings) else 0.0
        together = speeds.step_together if any(reading.together for reading in readings) else 0.0
        shared = dict.fromkeys(reading for reading in readings if reading.once)

        def seconds_of(some: Iterable[Reading]) -> float:
            read = sum(r.passes * passes.beside(r.tokens, r.beside) for r in some)
            return read + sum(r.written * step + r.together * together for r in some)

        seconds = seconds_of(shared)
        for method in methods:
            own = [reading for reading in method.readings if not reading.once]
            seconds += seconds_of(own) * speeds.slowness(method.attention, longest)
        costs.append(Cost(f"measure {counted(len(methods), 'method')}", seconds / distributed.workers(), *memory))
    return costs


def seconds_of_step(model: LanguageModel, clock: Callable[[], float] = time.perf_counter, texts: int = 1) -> float:
    """About how long it takes to write one token of each of several texts, by a few after short ones."""
    caches = [KeyValueCache(model, STEP_TEXT + STEPS) for _ in range(texts)]
    for cache in caches:
        read_prompt(model, np.arange(STEP_TEXT) % model.network.config.vocab_size, cache)
    if texts > 1 and (model.spec.by_length or rows_beside(model, caches[0]) == 1):
        return texts * seconds_of_step(model, clock)
    written, seconds = [[0]] * texts, []
    for _ in range(STEPS):
        began = clock()
        written = read_side_by_side(model, written, caches)
        seconds.append(clock() - began)
    return float(np.median(seconds))
