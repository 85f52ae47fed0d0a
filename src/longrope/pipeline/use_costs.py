"""What using a model will take, estimated before it begins: an answer, checks in other runtimes."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.engine.decoding import read_prompt
from longrope.engine.kv_cache import REWOUND_TOKENS, KeyValueCache
from longrope.engine.memory import choose_tile, estimate_memory, free_memory, weight_bytes
from longrope.engine.pass_seconds import PassTimer
from longrope.errors import DryRunEnd
from longrope.generation import AnswerPlan, GenerationSettings
from longrope.models import LanguageModel
from longrope.models.fitting import available_memory
from longrope.models.tables import sliding_layers
from longrope.pipeline.comparison_costs import STEP_TEXT, report_costs, seconds_of_step
from longrope.pipeline.estimates import Cost
from longrope.pipeline.export_costs import LARGER_MACHINE

READ_SHARE = 16  # of a prompt, what the estimate may read of it beforehand
SHORTER = "Take a shorter document, --eight-bit-cache, --offload-cache or a narrower --dtype."


def report_answer(
    model: LanguageModel,
    plan: AnswerPlan,
    settings: GenerationSettings,
    report: Callable[[str], None],
    *,
    always: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Report what an answer will take, if that is more than a minute.

    Args:
        model: that is asked.
        plan: of the answer.
        settings: of it; it may have as many tokens as they allow.
        report: takes each line.
        always: report less than a minute, too.
        clock: in seconds.

    Raises:
        RecipeError: the model with keys and values does not fit into memory.
    """
    report_costs(estimate_answer(model, plan, settings, clock), report, always=always)


def estimate_answer(
    model: LanguageModel,
    plan: AnswerPlan,
    settings: GenerationSettings,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Cost]:
    """What an answer will take: reading all that is not saved, and writing as many tokens as may follow.

    A step of decoding reads all weights and all keys and values once, which is what takes its time.
    """
    saved, most = len(plan.saved.tokens) if plan.saved else 0, settings.max_new_tokens
    unread = max(1, len(plan.tokens) - saved)
    kept = cache_bytes(model, len(plan.tokens) + most, settings, drop=plan.file is None)
    step = seconds_of_step(model, clock) * (1 + kept / weight_bytes(model))
    timer = PassTimer(model, run=_read, clock=clock, longest=unread // READ_SHARE)
    seconds = timer(unread) + most * step
    name = f"read {unread:,} tokens and write up to {most:,}"
    needed = estimate_memory(model, min(unread, choose_tile(model)[0]))
    if settings.offload and model.device.type != "cpu":
        apart = Cost("keys and values in the CPU's memory", 0.0, kept, available_memory(), SHORTER)
        return [Cost(name, seconds, needed, free_memory(model), SHORTER), apart]
    return [Cost(name, seconds, needed + kept, free_memory(model), SHORTER)]


def cache_bytes(model: LanguageModel, tokens: int, settings: GenerationSettings, *, drop: bool) -> int:
    """About how many bytes keys and values of so many tokens take, by those of two short texts.

    Args:
        model: that makes them.
        tokens: of prompt and answer.
        settings: of the answer.
        drop: whether layers that see the last tokens alone forget the others.
    """
    short, longer = (_bytes_after(model, count, settings) for count in (STEP_TEXT, 2 * STEP_TEXT))
    per_token = (longer - short) / STEP_TEXT
    config, sliding = model.network.config, sliding_layers(model.network.config)
    window = getattr(config, "sliding_window", None)
    held = min(tokens, window + REWOUND_TOKENS) if drop and sliding and window else tokens
    share = len(sliding) / config.num_hidden_layers
    return int(short - STEP_TEXT * per_token + per_token * (share * held + (1 - share) * tokens))


def report_checks(
    model: LanguageModel,
    passes: Mapping[str, Sequence[int]],
    loading_seconds: float,
    *,
    report: Callable[[str], None],
    dry_run: bool = False,
) -> None:
    """Report what checks of a checkpoint in other runtimes will take, if that is more than a minute.

    Args:
        model: the checkpoint, loaded.
        passes: of each runtime the tokens of all passes, its own and ours.
        loading_seconds: that it took to load; each runtime loads it again, one after the other.
        report: takes each line.
        dry_run: report less than a minute, too, and raise DryRunEnd.

    Raises:
        RecipeError: the checkpoint, loaded a second time, does not fit into memory.
    """
    of_pass = PassTimer(model)
    every = [tokens for own in passes.values() for tokens in own]
    seconds = len(passes) * loading_seconds + sum(map(of_pass, every))
    needed = estimate_memory(model, max(every)) + weight_bytes(model)
    cost = Cost(f"check in {', '.join(passes)}", seconds, needed, free_memory(model), LARGER_MACHINE)
    report_costs([cost], report, always=dry_run)
    if dry_run:
        raise DryRunEnd


def _bytes_after(model: LanguageModel, tokens: int, settings: GenerationSettings) -> int:
    """Of keys and values, and of states where there are some, after a text of so many tokens."""
    kept = KeyValueCache(model, tokens, eight_bit=settings.eight_bit)
    read_prompt(model, np.arange(tokens) % model.network.config.vocab_size, kept)
    return kept.num_bytes


def _read(model: LanguageModel, tokens: NDArray[np.integer[Any]]) -> None:
    """Read token ids [1, N] as a prompt is read."""
    read_prompt(model, tokens[0], KeyValueCache(model, tokens.shape[1]))
