"""The progressive walk as data: search, tune, search again, recover.

What a stage makes depends on its settings, its text, and all stages before it. A hash of these is part of the name of
its directory, so a changed recipe does again just what it touches, and what was done before stays.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from longrope import distributed
from longrope.engine.memory import estimate_memory, estimate_training_memory, free_memory
from longrope.engine.passes import seconds_of_pass
from longrope.errors import RecipeError
from longrope.factors import (
    FactorTable,
    RescaleFactors,
    carried_on,
    compose,
    dump_factors,
    load_factors,
    relative_to,
    tuned_spec,
)
from longrope.lengths import format_tokens
from longrope.models import LanguageModel
from longrope.recipe import Recipe, Stage, TuneRecipe
from longrope.runs.records import TrainStep, Trial, read_records
from longrope.runs.run_dir import STAGE_FINISHED, RunDir
from longrope.search import find_factors, recover_window
from longrope.search.cost import count_passes, count_recovery_passes
from longrope.search.score import BACKWARD_PASSES
from longrope.texts import Texts, fingerprint
from longrope.tuning import fine_tune

TUNED = ", tuned "  # in the name of a model, before what its weights were made of
PROGRESSIVE_RATIO = 8  # a search reaches about so far without training (section 3.2)


@dataclass(frozen=True)
class Watch:
    """Who is told of progress: of each trial of a search, each step of a training, and of each new step of the walk."""

    on_trial: Callable[[Trial], None] = lambda _: None
    on_step: Callable[[str], None] = lambda _: None
    on_train: Callable[[TrainStep], None] = lambda _: None


@dataclass(frozen=True)
class Progress:
    """Where a walk stands.

    Attributes:
        model: with the weights as they are now; its name tells of its tunings.
        tiers: the factors by window, all for these weights.
        tuned_with: the factors that the weights were tuned with last.
        found: the factors of each stage so far, in order, whatever weights they are for.
    """

    model: LanguageModel
    tiers: tuple[RescaleFactors, ...] = ()
    tuned_with: RescaleFactors | None = None
    found: tuple[RescaleFactors, ...] = ()

    @property
    def table(self) -> FactorTable:
        """The tiers as a table."""
        return FactorTable(self.tiers)

    @property
    def longest(self) -> RescaleFactors:
        """The factors of the longest window."""
        return max(self.tiers, key=lambda tier: tier.target_window)

    def with_tier(self, tier: RescaleFactors) -> "Progress":
        """With one more tier, which replaces an older one of its window."""
        others = tuple(old for old in self.tiers if old.target_window != tier.target_window)
        return replace(self, tiers=(*others, tier), found=(*self.found, tier))

    def tuned(self, model: LanguageModel, tier: RescaleFactors) -> "Progress":
        """With weights that were trained with these factors, the only ones that are for them."""
        return Progress(model, (tier,), tier, (*self.found, tier))


def plan_stages(trained_window: int, target_tokens: int) -> tuple[Stage, ...]:
    """The stages that tune a model to a window: by ratios of at most eight, each searched first, then the short one."""
    windows, window = [], trained_window
    while window < target_tokens:
        window = min(PROGRESSIVE_RATIO * window, target_tokens)
        windows.append(window)
    walk = [stage for window in windows for stage in (Stage(search=window), Stage(tune=window))]
    return (*walk, Stage(recover=trained_window))


@dataclass(frozen=True)
class Task:
    """A stage of one walk.

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
        return _hash(self.inputs)

    @property
    def done(self) -> bool:
        """Whether it was finished before."""
        return distributed.on_main((self.folder / STAGE_FINISHED).exists)


def plan_walk(recipe: Recipe, run: RunDir, model: LanguageModel, texts: Texts) -> list[Task]:
    """The stages of a recipe with their places below a run directory; nothing is done yet."""
    tasks: list[Task] = []
    before = _hash({"model": model.name, "geometry": model.spec.fingerprint})
    for number, stage in enumerate(recipe.stages, 1):
        inputs = {"kind": stage.kind, "window": str(stage.window_tokens), "before": before}
        if stage.factors_of:
            inputs["factors of stage"] = str(stage.factors_of)
        inputs |= _inputs(stage, recipe, texts)
        before = _hash(inputs)
        name = f"{number}-{stage.kind}-{format_tokens(stage.window_tokens)}-{before}"
        tasks.append(Task(stage, inputs, run.stages / name))
    return tasks


def walk(recipe: Recipe, tasks: Sequence[Task], model: LanguageModel, texts: Texts, watch: Watch) -> Progress:
    """Walk through all stages; those that are finished are only read.

    Args:
        recipe: settings of searches and trainings, and the seed.
        tasks: of ``plan_walk``.
        model: trained in place.
        texts: searched and tuned on.
        watch: told of progress.

    Returns:
        The model with a tier for each window that its weights have one for.
    """
    progress = Progress(model)
    for number, task in enumerate(tasks, 1):
        done = task.done
        watch.on_step(f"stage {number} of {len(tasks)}: {task.stage}{' (done before)' if done else ''}")
        place = distributed.on_main(partial(RunDir, task.folder))
        progress = _do(task, progress, place, recipe, texts, watch)
        if not done:
            distributed.on_main(partial(_finish, place, task, progress))
    return progress


def _finish(place: RunDir, task: Task, progress: Progress) -> None:
    """Tell what a stage was made of and what it gave; written last."""
    trials, steps = read_records(place.trials, Trial), read_records(place.train, TrainStep)
    told = {
        "stage": str(task.stage),
        "inputs": task.inputs,
        "factors": load_factors(place.factors()).fingerprint,
        "weights": progress.model.name.partition(TUNED)[2],
        "seconds": round(sum(x.seconds for x in trials) + sum(x.seconds for x in steps), 1),
    }
    place.write_text(place.finished, json.dumps(told, indent=1) + "\n")


def _do(task: Task, progress: Progress, place: RunDir, recipe: Recipe, texts: Texts, watch: Watch) -> Progress:
    """One stage; its training or search is resumed where it was begun."""
    if task.stage.kind == "tune":
        return _tune(task, progress, place, recipe, texts, watch)
    if distributed.on_main(place.factors().exists):
        return progress.with_tier(load_factors(place.factors()).tiers[0])
    tier = _find_tier(task.stage, progress, place, recipe, texts, watch)
    distributed.on_main(partial(place.write_text, place.factors(), dump_factors(tier)))
    return progress.with_tier(tier)


def _find_tier(
    stage: Stage, progress: Progress, place: RunDir, recipe: Recipe, texts: Texts, watch: Watch
) -> RescaleFactors:
    given: dict[str, Any] = {"run": place, "settings": recipe.search, "seed": recipe.seed, "on_trial": watch.on_trial}
    model, window = progress.model, stage.window_tokens
    if stage.kind == "search":
        return find_factors(model, texts.search, window, tuned_with=progress.tuned_with, **given)
    if stage.kind == "recover":
        return recover_window(model, texts.search, window, progress.longest, **given)
    tuned_with, longest = progress.tuned_with, progress.longest
    if tuned_with and longest.target_window <= tuned_with.target_window:
        tuned_with = None  # nothing was found beyond the tuning, so the rule goes on from the first factors
    carried = carried_on(relative_to(tuned_with, longest), tuned_spec(model.spec, tuned_with), window)
    return compose(tuned_with, carried)


def _tune(task: Task, progress: Progress, place: RunDir, recipe: Recipe, texts: Texts, watch: Watch) -> Progress:
    """Train with the factors of the stage that is named, or the longest; they alone are for the new weights."""
    settings, named = recipe.tuning(task.stage), task.stage.factors_of
    tier = progress.found[named - 1] if named else progress.longest
    model = fine_tune(
        progress.model, tier, texts.tune, settings=settings, run=place, seed=recipe.seed, on_step=watch.on_train
    )
    distributed.on_main(partial(place.write_text, place.factors(), dump_factors(tier)))
    model = replace(model, name=f"{model.name.partition(TUNED)[0]}{TUNED}{task.made_of}")
    return progress.tuned(model, tier)


def _inputs(stage: Stage, recipe: Recipe, texts: Texts) -> dict[str, str]:
    """What a stage is made of beside the stages before it."""
    if stage.kind == "carry":
        return {}
    text = texts.tune if stage.kind == "tune" else texts.search
    settings = asdict(recipe.tuning(stage) if stage.kind == "tune" else recipe.search)
    flat = json.dumps(settings, sort_keys=True)
    return {"seed": str(recipe.seed), "text": fingerprint(text.tokens), "dtype": recipe.dtype, "settings": flat}


def _hash(inputs: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Cost:
    """What a stage is estimated to take: seconds, and bytes of the device's memory, of those that are free."""

    stage: str
    seconds: float
    bytes_needed: int
    bytes_free: int

    def __str__(self) -> str:
        """As one line."""
        needed, free = (f"{number / 2**30:.1f}" for number in (self.bytes_needed, self.bytes_free))
        return f"{self.stage}: about {self.seconds / 60:,.1f} min, {needed} GiB at the peak ({free} GiB are free)"

    def check(self) -> None:
        """Raise RecipeError if the stage does not fit into memory."""
        if self.bytes_needed > self.bytes_free:
            raise RecipeError(
                f"{self}.",
                "It must fit.",
                "Take more GPUs with torchrun, tune.lora_rank, or a shorter window.",
            )


def check_costs(costs: Sequence[Cost]) -> None:
    """Raise RecipeError, in all processes, if one of them has too little memory for a stage."""

    def check(_: int) -> None:
        for cost in costs:
            cost.check()

    distributed.map_ranks(range(distributed.ranks()), check, alone=True)


def estimate_stages(recipe: Recipe, model: LanguageModel, stages: Iterable[Stage]) -> list[Cost]:
    """What stages will take, from the speed of short passes on this device and the sizes of the model."""
    passes = cache(partial(seconds_of_pass, model))
    return [
        estimate_tuning(recipe.tuning(stage), model, passes, str(stage))
        if stage.kind == "tune"
        else _estimate_search(recipe, model, stage, passes)
        for stage in stages
    ]


def estimate_tuning(
    settings: TuneRecipe, model: LanguageModel, seconds: Callable[[int], float] | None = None, name: str = "tune"
) -> Cost:
    """What a training will take; ``seconds`` gives those of a pass by its tokens, if they are known."""
    tokens, windows = settings.window_tokens, settings.steps * settings.batch_windows / distributed.workers()
    of_pass = seconds(tokens) if seconds else seconds_of_pass(model, tokens)
    peak = estimate_training_memory(model, tokens, adapters=bool(settings.lora_rank))
    return Cost(name, windows * BACKWARD_PASSES * of_pass, peak, free_memory(model))


def _estimate_search(recipe: Recipe, model: LanguageModel, stage: Stage, seconds: Callable[[int], float]) -> Cost:
    """What a search will take, for a long window or a short one."""
    tokens = stage.window_tokens
    if stage.kind == "carry":
        return Cost(str(stage), 0.0, 0, free_memory(model))
    evaluations = count_passes(recipe.search, tokens)
    if stage.kind == "recover":
        evaluations = count_recovery_passes(recipe.search, tokens, recipe.target_tokens)
    peak = estimate_memory(model, tokens)
    if recipe.search.method == "gradient" or stage.kind == "recover":
        peak = max(peak, estimate_training_memory(model, tokens, adapters=True))
    return Cost(str(stage), evaluations * seconds(tokens) / distributed.workers(), peak, free_memory(model))
