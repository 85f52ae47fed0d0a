"""The progressive walk as data: search, tune, search again, recover.

What a stage makes depends on its settings, its text, and all stages before it. A hash of these is part of the name of
its directory, so a changed recipe does again just what it touches, and what was done before stays.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from longrope import parallel
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
from longrope.forward import estimate_memory, estimate_training_memory, free_memory, seconds_of_pass
from longrope.models import LanguageModel
from longrope.recipe import Recipe, Stage, format_tokens
from longrope.records import TrainStep, Trial, read_records
from longrope.rundir import RunDir
from longrope.search import find_factors, recover_window
from longrope.search.cost import count_passes
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
        made_of: names everything that led here.
    """

    model: LanguageModel
    tiers: tuple[RescaleFactors, ...] = ()
    tuned_with: RescaleFactors | None = None
    made_of: str = ""

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
        return replace(self, tiers=(*others, tier))


def plan_stages(trained_window: int, target_tokens: int) -> tuple[Stage, ...]:
    """The stages that tune a model to a window: by ratios of at most eight, each searched first, then the short one."""
    windows, window = [], trained_window
    while window < target_tokens:
        window = min(PROGRESSIVE_RATIO * window, target_tokens)
        windows.append(window)
    walk = [stage for window in windows for stage in (Stage(search=window), Stage(tune=window))]
    return (*walk, Stage(recover=trained_window))


def walk(
    recipe: Recipe, stages: tuple[Stage, ...], run: RunDir, model: LanguageModel, texts: Texts, watch: Watch
) -> Progress:
    """Walk through all stages; those that are finished are only read.

    Args:
        recipe: settings of searches and trainings, and the seed.
        stages: in order.
        run: the stages stand below its folder ``stages``.
        model: trained in place.
        texts: searched and tuned on.
        watch: told of progress.

    Returns:
        The model with a tier for each window that its weights have one for.
    """
    progress = Progress(model, made_of=_hash({"model": model.name, "geometry": model.spec.fingerprint}))
    for number, stage in enumerate(stages, 1):
        inputs = {"stage": str(stage), "before": progress.made_of, **_inputs(stage, recipe, texts)}
        made_of = _hash(inputs)
        name = f"{number}-{stage.kind}-{format_tokens(stage.window_tokens)}-{made_of}"
        place = parallel.lead(partial(RunDir, run.stages / name))
        done = place.finished.exists()
        watch.on_step(f"stage {number} of {len(stages)}: {stage}{' (done before)' if done else ''}")
        progress = replace(_do(stage, progress, place, recipe, texts, watch), made_of=made_of)
        if not parallel.lead(place.finished.exists):
            parallel.lead(partial(_finish, place, stage, inputs, progress))
    return progress


def _finish(place: RunDir, stage: Stage, inputs: dict[str, str], progress: Progress) -> None:
    """Tell what a stage was made of and what it gave; written last."""
    trials, steps = read_records(place.trials, Trial), read_records(place.train, TrainStep)
    told = {
        "stage": str(stage),
        "inputs": inputs,
        "factors": progress.longest.fingerprint,
        "weights": progress.model.name.partition(TUNED)[2],
        "seconds": round(sum(x.seconds for x in trials) + sum(x.seconds for x in steps), 1),
    }
    place.write_text(place.finished, json.dumps(told, indent=1) + "\n")


def _do(stage: Stage, progress: Progress, place: RunDir, recipe: Recipe, texts: Texts, watch: Watch) -> Progress:
    """One stage; its training or search is resumed where it was begun."""
    if stage.kind == "tune":
        return _tune(stage, progress, place, recipe, texts, watch)
    if place.factors().exists():
        return progress.with_tier(load_factors(place.factors()).tiers[0])
    tier = _find_tier(stage, progress, place, recipe, texts, watch)
    parallel.lead(partial(place.write_text, place.factors(), dump_factors(tier)))
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


def _tune(stage: Stage, progress: Progress, place: RunDir, recipe: Recipe, texts: Texts, watch: Watch) -> Progress:
    """Train at a window with its tier, which alone is for the new weights."""
    tier = progress.table.choose(stage.window_tokens)
    settings = replace(recipe.tune, window_tokens=stage.window_tokens, steps=stage.steps or recipe.tune.steps)
    model = fine_tune(
        progress.model, tier, texts.tune, settings=settings, run=place, seed=recipe.seed, on_step=watch.on_train
    )
    parallel.lead(partial(place.write_text, place.factors(), dump_factors(tier)))
    named = replace(model, name=f"{model.name.partition(TUNED)[0]}{TUNED}{place.path.name[-8:]}")
    return replace(progress, model=named, tiers=(tier,), tuned_with=tier)


def _inputs(stage: Stage, recipe: Recipe, texts: Texts) -> dict[str, str]:
    """What a stage is made of beside the stages before it."""
    if stage.kind == "carry":
        return {}
    tunes = stage.kind == "tune"
    settings, text = (recipe.tune, texts.tune) if tunes else (recipe.search, texts.search)
    given = {"seed": str(recipe.seed), "text": fingerprint(text.tokens), "dtype": recipe.dtype}
    flat = json.dumps(asdict(settings), sort_keys=True)
    return {**given, "settings": flat}


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


def estimate_stages(recipe: Recipe, model: LanguageModel) -> list[Cost]:
    """What each stage will take, from the speed of two short passes on this device and the sizes of the model."""
    return [
        estimate_tuning(recipe, model, stage.window_tokens, stage.steps or recipe.tune.steps, str(stage))
        if stage.kind == "tune"
        else _estimate_search(recipe, model, stage)
        for stage in recipe.stages
    ]


def estimate_tuning(recipe: Recipe, model: LanguageModel, tokens: int, steps: int, name: str = "tune") -> Cost:
    """What a training at a window will take."""
    windows = steps * recipe.tune.batch_windows / parallel.workers()
    passes = windows * BACKWARD_PASSES * seconds_of_pass(model, tokens)
    return Cost(
        name, passes, estimate_training_memory(model, tokens, adapters=bool(recipe.tune.lora_rank)), free_memory(model)
    )


def _estimate_search(recipe: Recipe, model: LanguageModel, stage: Stage) -> Cost:
    """What a search will take; a short window's costs as much as the gradient's descent."""
    evaluations = 0 if stage.kind == "carry" else count_passes(recipe.search, stage.window_tokens)
    seconds = evaluations * seconds_of_pass(model, stage.window_tokens) / parallel.workers()
    return Cost(str(stage), seconds, estimate_memory(model, stage.window_tokens), free_memory(model))
