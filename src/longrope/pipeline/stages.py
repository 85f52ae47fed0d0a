"""The stages of a run, done in order: search, tune, search again, extrapolate, search short factors.

What a stage makes depends on its settings, its text, and all stages before it. A hash of these is part of the name of
its directory, so a changed recipe does again just what it touches, and what was done before stays.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from longrope import registry
from longrope.data import Texts, fingerprint
from longrope.distributed import on_main
from longrope.errors import RunError
from longrope.lengths import format_tokens
from longrope.models import LanguageModel, load_config, read_spec
from longrope.pipeline.session import Session
from longrope.recipe import Recipe, Stage, TuneRecipe
from longrope.rope import (
    FactorTable,
    RescaleFactors,
    compose,
    counted_from,
    extrapolate,
    relative_to,
    tuned_spec,
    unscaled,
)
from longrope.runs.identity import hash_inputs, tuned_name, weights_of
from longrope.runs.run_dir import RunDir, is_finished
from longrope.search import check_scannable, check_search, check_short_search, find_factors, search_short_window
from longrope.tuning import check_training, fine_tune

HASH_DIGITS = 8  # of the inputs of a stage, in the name of its folder
YOUNGER = (  # settings that the stages of earlier versions did not have
    *("choose_by", "starts", "start_tokens", "attention_factor"),
    *("needle_kinds", "recompute_layers", "offload"),
)
PROGRESSIVE_RATIO = 8  # a search reaches about so far without training (section 3.2)


@dataclass(frozen=True)
class Progress:
    """What the stages so far have made.

    Attributes:
        model: with its current weights; its name lists its tunings.
        factor_sets: the factors by window, all for these weights.
        tuned_with: the factors that the weights were tuned with last.
        found: the factors of each stage so far, in order, whatever weights they are for.
    """

    model: LanguageModel
    factor_sets: tuple[RescaleFactors, ...] = ()
    tuned_with: RescaleFactors | None = None
    found: tuple[RescaleFactors, ...] = ()

    @property
    def table(self) -> FactorTable:
        """The factor sets as a table."""
        return FactorTable(self.factor_sets)

    @property
    def longest(self) -> RescaleFactors:
        """The factors of the longest window."""
        return max(self.factor_sets, key=lambda factor_set: factor_set.target_window)

    def with_factors(self, factor_set: RescaleFactors) -> "Progress":
        """With one more factor set, which replaces an older one of its window."""
        others = tuple(old for old in self.factor_sets if old.target_window != factor_set.target_window)
        return replace(self, factor_sets=(*others, factor_set), found=(*self.found, factor_set))

    def tuned(self, model: LanguageModel, factor_set: RescaleFactors) -> "Progress":
        """With weights that were trained with these factors, the only ones that are for them."""
        return Progress(model, (factor_set,), factor_set, (*self.found, factor_set))


def plan_stages(trained_window: int, target_tokens: int, tuned_tokens: int = 0) -> tuple[Stage, ...]:
    """The stages that tune a model to a window: by ratios of at most eight, each searched first, then the short one.

    They train in windows of the length that is searched, or of ``tuned_tokens`` where that is shorter and not 0.
    """
    windows, window = [], trained_window
    while window < target_tokens:
        window = min(PROGRESSIVE_RATIO * window, target_tokens)
        windows.append(window)
    tuned = [min(window, tuned_tokens or window) for window in windows]
    long = [
        stage for window, read in zip(windows, tuned, strict=True) for stage in (Stage(search=window), Stage(tune=read))
    ]
    return (*long, Stage(short=trained_window))


def with_tuning(recipe: Recipe) -> Recipe:
    """The recipe with stages that tune, where it lists no stages; the model's config is read."""
    spec = read_spec(load_config(recipe.model), recipe.rope_table)
    window = recipe.trained_window or spec.trained_window
    stages = recipe.stages or plan_stages(window, recipe.target_tokens, recipe.tune.window_tokens)
    return replace(recipe, stages=stages)


def check_stages(session: Session) -> None:
    """Raise LongRopeError, before anything takes time, if a search or a training could not begin."""
    recipe, model, texts = session.recipe, session.model, session.texts
    for at in recipe.standings():
        stage, window = at.stage, at.stage.window_tokens
        if stage.kind == "search":
            check_scannable(recipe.searching(stage).method, tuned=at.tuned > 0)
            trained = at.tuned or model.spec.trained_window
            check_search(model, texts.search, window, trained_window=trained, settings=recipe.searching(stage))
        elif stage.kind == "short":
            check_short_search(texts.search, window, max(at.windows), recipe.searching(stage))
        elif stage.kind == "tune":
            check_training(model, texts.tune, recipe.tuning(stage))


@dataclass(frozen=True)
class Task:
    """A stage of one run.

    Attributes:
        stage: what is to be done.
        inputs: what its result depends on, by name; ``before`` stands for all stages before it, ``factors of stage`` is
            the number of the one that a tuning names.
        folder: where it is done; its name holds a hash of the inputs.
    """

    stage: Stage
    inputs: dict[str, str]
    folder: Path

    @property
    def made_of(self) -> str:
        """A hash of the inputs."""
        return hash_inputs(self.inputs, HASH_DIGITS)

    @property
    def done(self) -> bool:
        """Whether it was finished before (raises RunError where a file that it made is gone)."""
        if not is_finished(self.folder):
            return False
        run = RunDir(self.folder)
        made = run.tuning if self.stage.kind == "tune" else run.factors()
        if on_main(made.exists):
            return True
        raise RunError(
            f"{made} is gone, though the stage {self.stage.label!r} was finished.",
            "The stages after it and the export begin with what it made.",
            f"Put the file back, or delete {self.folder} and the folders of later stages to do them again.",
        )


def plan_tasks(session: Session) -> list[Task]:
    """The stages of a recipe with their places below the run directory; nothing is done yet."""
    tasks: list[Task] = []
    original = {"model": session.model.name, "geometry": session.model.spec.fingerprint}
    before = hash_inputs(original, HASH_DIGITS)
    for number, stage in enumerate(session.recipe.stages, 1):
        inputs = {"kind": stage.recorded_kind, "window": str(stage.window_tokens), "before": before}
        if stage.factors_of:
            inputs["factors of stage"] = str(stage.factors_of)
        inputs |= _inputs(stage, session.recipe, session.texts)
        before = hash_inputs(inputs, HASH_DIGITS)
        name = f"{number}-{stage.recorded_kind}-{format_tokens(stage.window_tokens)}-{before}"
        tasks.append(Task(stage, inputs, session.run.stages / name))
    return tasks


def run_tasks(
    session: Session, tasks: Sequence[Task], before_training: Callable[[RescaleFactors], object] = lambda _: None
) -> Progress:
    """Do the stages in order; those that are finished are only read.

    Args:
        session: settings, seed and texts; its model is trained in place.
        tasks: of ``plan_tasks``.
        before_training: called before each training that no later search follows, with the factors of the longest
            window, which will be measured; what it raises ends the run before the training takes time.

    Returns:
        The model with factors for each window that its weights have some for.
    """
    progress = Progress(session.model)
    searched = max((number for number, task in enumerate(tasks, 1) if task.stage.kind == "search"), default=0)
    for number, task in enumerate(tasks, 1):
        done = task.done
        if task.stage.kind == "tune" and not done and number > searched and progress.factor_sets:
            before_training(progress.longest)
        session.report(f"stage {number} of {len(tasks)}: {task.stage.label}{' (done before)' if done else ''}")
        stage_run = RunDir(task.folder)
        progress = _do(replace(session, run=stage_run, model=progress.model), task, progress)
        if not done:
            _finish(stage_run, task, progress)
    return progress


def _finish(run: RunDir, task: Task, progress: Progress) -> None:
    """Write the inputs and the result of a stage; written last."""
    seconds = [x.seconds for x in run.read_trials()] + [x.seconds for x in run.read_steps()]
    content = {
        "stage": str(task.stage),
        "inputs": task.inputs,
        "factors": progress.found[-1].fingerprint,
        "weights": weights_of(progress.model.name),
        "seconds": round(sum(seconds), 1),
    }
    run.write_text(run.finished, json.dumps(content, indent=1) + "\n")


def _do(session: Session, task: Task, progress: Progress) -> Progress:
    """One stage in its own directory, the run of the session; its training or search is resumed where it was begun."""
    if task.stage.kind == "tune":
        return _tune(session, task, progress)
    if table := session.run.read_factors():
        return progress.with_factors(table.factor_sets[0])
    factor_set = _find_factors(session, task.stage, progress)
    session.run.write_factors(factor_set)
    return progress.with_factors(factor_set)


def _find_factors(session: Session, stage: Stage, progress: Progress) -> RescaleFactors:
    recipe, model, text, window = session.recipe, session.model, session.texts.search, stage.window_tokens
    given: dict[str, Any] = {"run": session.run, "settings": recipe.searching(stage), "seed": recipe.seed}
    given["on_trial"] = session.callbacks.on_trial
    if stage.kind == "search":
        return find_factors(model, text, window, tuned_with=progress.tuned_with, **given)
    if stage.kind == "short" and given["settings"].method in registry.one_set_formulas():
        return replace(unscaled(model.spec, window), table=progress.longest.table)
    if stage.kind == "short":
        return search_short_window(model, text, window, progress.longest, **given)
    tuned_with, longest = progress.tuned_with, progress.longest
    if tuned_with and longest.target_window <= tuned_with.target_window:
        tuned_with = None  # nothing was found beyond the tuning, so the rule goes on from the first factors
    base = counted_from(model.spec, tuned_with)
    longer = extrapolate(relative_to(base, longest, model.spec), tuned_spec(model.spec, tuned_with), window)
    return compose(base, longer, model.spec)


def _tune(session: Session, task: Task, progress: Progress) -> Progress:
    """Train with the factors of the stage that is named, or the longest; they alone are for the new weights."""
    named = task.stage.factors_of
    factor_set = progress.found[named - 1] if named else progress.longest
    model = _train(session, factor_set, session.recipe.tuning(task.stage), task.made_of)
    session.run.write_factors(factor_set)
    return progress.tuned(model, factor_set)


def tune_at_target(session: Session, factor_set: RescaleFactors) -> LanguageModel:
    """The model with weights trained at the target window, in the run directory itself; a finished one is read."""
    return _train(session, factor_set, target_tuning(session.recipe), f"at {session.run.path.name}")


def target_tuning(recipe: Recipe) -> TuneRecipe:
    """The settings of a training at the target window, where they name no other window."""
    return replace(recipe.tune, window_tokens=recipe.tune.window_tokens or recipe.target_tokens)


def _train(session: Session, factor_set: RescaleFactors, settings: TuneRecipe, made_of: str) -> LanguageModel:
    model = fine_tune(
        session.model,
        factor_set,
        session.texts.tune,
        settings=settings,
        run=session.run,
        seed=session.recipe.seed,
        on_step=session.callbacks.on_train,
    )
    return replace(model, name=tuned_name(model.name, made_of))


def _inputs(stage: Stage, recipe: Recipe, texts: Texts) -> dict[str, str]:
    """What a stage is made of beside the stages before it."""
    if stage.kind == "extrapolate":
        return {}
    text = texts.tune if stage.kind == "tune" else texts.search
    settings = recipe.tuning(stage) if stage.kind == "tune" else recipe.searching(stage)
    flat = json.dumps(_named(asdict(settings), asdict(type(settings)())), sort_keys=True)
    return {"seed": str(recipe.seed), "text": fingerprint(text.tokens), "dtype": recipe.dtype, "settings": flat}


def _named(settings: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """The settings that name a stage: younger ones only where they are not the default, so that old stages stay."""
    kept = {key: value for key, value in settings.items() if key not in YOUNGER or value != default[key]}
    return {k: _named(value, default[k]) if isinstance(value, dict) else value for k, value in kept.items()}
