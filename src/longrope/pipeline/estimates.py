"""What the stages of a run will take, estimated before they begin, and what its searches have taken."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from longrope import distributed
from longrope.engine.memory import estimate_memory, estimate_training_memory, free_memory
from longrope.engine.pass_seconds import PassTimer
from longrope.errors import RecipeError
from longrope.models import LanguageModel
from longrope.pipeline.progress import describe_seconds
from longrope.pipeline.stages import Task
from longrope.recipe import Recipe, Stage, TuneRecipe
from longrope.runs.records import Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.search.cost import SearchCost, compare_costs, count_choice_passes, count_passes, count_short_passes
from longrope.search.score import BACKWARD_PASSES
from longrope.search.short_context import count_short
from longrope.tuning.training import choose_windows_at_once, holding_of


@dataclass(frozen=True)
class Cost:
    """What a stage is estimated to take: seconds, and bytes of the device's memory, of those that are free.

    ``remedy`` says what to do where they are not enough.
    """

    stage: str
    seconds: float
    bytes_needed: int
    bytes_free: int
    remedy: str

    def __str__(self) -> str:
        """As one line."""
        needed, free = (f"{number / 2**30:.1f}" for number in (self.bytes_needed, self.bytes_free))
        return f"{self.stage}: about {describe_seconds(self.seconds)}, {needed} GiB at the peak ({free} GiB are free)"

    def check(self) -> None:
        """Raise RecipeError if the stage does not fit into memory."""
        if self.bytes_needed > self.bytes_free:
            raise RecipeError(f"{self}.", "It must fit.", self.remedy)


def remedy_on(device: str, *, trains: bool) -> str:
    """What to do where a stage does not fit into the memory of a device.

    Args:
        device: its type, ``cuda`` or ``cpu``.
        trains: whether the stage trains weights; settings of a training help no search.
    """
    on_gpu = device == "cuda"
    settings = (("tune.offload, " if on_gpu else "") + "tune.parameters or tune.lora_rank") if trains else ""
    machine = "more GPUs with torchrun" if on_gpu else "a machine with more memory"
    return f"Take {', '.join(filter(None, (machine, settings)))}, or a shorter window."


def check_costs(costs: Sequence[Cost]) -> None:
    """Raise RecipeError, in all processes, if one of them has too little memory for a stage."""

    def check(_: int) -> None:
        for cost in costs:
            cost.check()

    distributed.map_ranks(range(distributed.ranks()), check, alone=True)


def estimate_stages(
    recipe: Recipe, model: LanguageModel, stages: Iterable[Stage], seconds: Callable[[int], float] | None = None
) -> list[Cost]:
    """What stages will take, from the sizes of the model and the speed of short passes on this device.

    ``seconds`` gives those of a pass by its tokens, if they are known.
    """
    passes = seconds or PassTimer(model)
    return [
        estimate_tuning(recipe.tuning(stage), model, passes, stage.label)
        if stage.kind == "tune"
        else estimate_search(recipe, model, stage, passes)
        for stage in stages
    ]


def estimate_tuning(
    settings: TuneRecipe, model: LanguageModel, seconds: Callable[[int], float] | None = None, name: str = "tune"
) -> Cost:
    """What a training will take; ``seconds`` gives those of a pass by its tokens, if they are known."""
    tokens, windows = settings.window_tokens, settings.steps * settings.batch_windows / distributed.workers()
    timer, short = seconds or PassTimer(model), min(model.spec.trained_window, settings.window_tokens)
    of_pass = (1 - settings.short_share) * timer(tokens)
    if settings.short_share:  # these windows are read as short ones
        of_pass += settings.short_share * timer(short) * (tokens // short)
    together = tokens * choose_windows_at_once(model, settings, tokens)
    how: dict[str, Any] = {"recompute": settings.recompute, "holding": holding_of(settings)}
    peak = estimate_training_memory(model, together, adapters=settings.trains_few, **how)
    remedy = remedy_on(model.device.type, trains=True)
    return Cost(name, windows * BACKWARD_PASSES * of_pass, peak, free_memory(model), remedy)


def estimate_search(recipe: Recipe, model: LanguageModel, stage: Stage, seconds: Callable[[int], float]) -> Cost:
    """What a search will take, for a long window or a short one."""
    tokens, free, remedy = stage.window_tokens, free_memory(model), remedy_on(model.device.type, trains=False)
    if stage.kind == "extrapolate":
        return Cost(stage.label, 0.0, 0, free, remedy)
    settings = recipe.searching(stage)
    evaluations, together = count_passes(settings, tokens) + count_choice_passes(settings), tokens
    if stage.kind == "short":
        evaluations = count_short_passes(settings, tokens, recipe.target_tokens)
        together = tokens * count_short(tokens, recipe.target_tokens)
    peak = estimate_memory(model, tokens)
    if settings.method == "gradient" or stage.kind == "short":
        peak = max(peak, estimate_training_memory(model, together, adapters=True))
    return Cost(stage.label, evaluations * seconds(tokens) / distributed.workers(), peak, free, remedy)


def search_costs(run: RunDir, tasks: Sequence[Task] = ()) -> list[SearchCost]:
    """What the searches of a run cost, or those of its stages, from the trials; also in ``costs.json``."""
    places = [(str(task.stage), task.folder / run.trials.name) for task in tasks] or [("", run.trials)]
    costs = [cost for stage, path in places for cost in compare_costs(read_records(path, Trial), stage)]
    run.write_text(run.costs, json.dumps([asdict(cost) for cost in costs], indent=1) + "\n")
    return costs
