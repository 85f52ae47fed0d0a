"""Work that runs out of memory is done again in smaller tiles and batches, which gives the same numbers.

The first pass that does not fit limits all later ones of its model, on GPUs and CPUs. Where processes meet within a
pass, none of them may begin again alone: there the error ends the launch.
"""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from longrope import distributed
from longrope.engine.memory import FEWEST_TILE_TOKENS, choose_tile
from longrope.errors import is_out_of_memory
from longrope.models import LanguageModel

R = TypeVar("R")
LOGGER = logging.getLogger("longrope")
TIMES_SMALLER = 4


def retry_in_less_memory(
    model: LanguageModel, tokens: int, work: Callable[[], R], undo: Callable[[], bool] = lambda: True
) -> R:
    """Do some work, and again with a quarter of the tokens in a tile each time that memory does not suffice.

    Args:
        model: whose passes it makes; ``model.limits`` keeps what has been found.
        tokens: of all sequences that go through it at once.
        work: what makes the passes. Its outcome must not depend on how far it came before.
        undo: called before it begins again; takes back what it has left elsewhere, and returns whether that was
            possible.

    Raises:
        MemoryError, RuntimeError: torch's or numpy's own, where tiles cannot be smaller.
    """
    while True:
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            if not (is_out_of_memory(error) and may_shrink(model, tokens) and undo()):
                raise
        _shrink(model, tokens)
        gc.collect()  # frames of the failed work may be part of cycles
        if model.device.type == "cuda":
            torch.cuda.empty_cache()


def may_shrink(model: LanguageModel, tokens: int) -> bool:
    """Whether so many tokens can go through in smaller tiles, and no other process waits for this one meanwhile."""
    meets_others = distributed.shard() or any(map(distributed.is_dtensor, model.network.parameters()))
    return not meets_others and _at_once(model, tokens) > FEWEST_TILE_TOKENS


def share_limits(model: LanguageModel) -> None:
    """Limit the tiles of a model in all processes as in the one that found the least memory.

    Called before work in which processes meet within a pass, and so must divide windows alike.
    """
    found = distributed.map_ranks(range(distributed.ranks()), lambda _: model.limits.tile_tokens, alone=True)
    model.limits.tile_tokens = min(filter(None, found), default=0)


def _shrink(model: LanguageModel, tokens: int) -> None:
    first = not model.limits.tile_tokens
    model.limits.tile_tokens = max(FEWEST_TILE_TOKENS, _at_once(model, tokens) // TIMES_SMALLER)
    if first:
        LOGGER.warning(
            "memory does not suffice: from here on tiles of at most %d tokens, and with gradients one window at a time "
            "and activations made again; the results are the same",
            model.limits.tile_tokens,
        )


def _at_once(model: LanguageModel, tokens: int) -> int:
    return min(choose_tile(model)[0], tokens)
