"""Joining the processes of a torchrun launch, and leaving them."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from longrope.distributed.failures import ending_at_sigterm
from longrope.distributed.state import DistributedState, entered, refuse_nesting
from longrope.errors import RecipeError

SHARED_FROM_TOKENS = 2**18  # windows from this length on are shared by all processes, unless another number is given
PATIENCE = timedelta(days=1)  # an evaluation may take hours, and a process that died is noticed at once
LOCKSTEP = timedelta(hours=1)  # between processes that share a sequence and meet in every layer

_launches = itertools.count()


@contextmanager
def launched(context_ranks: int | None = None, *, longest_tokens: int = 0, device: str = "auto") -> Iterator[None]:
    """Be one of the processes of a torchrun launch in a block; without torchrun be the only one.

    Args:
        context_ranks: how many processes share a sequence. By default all of them if the longest window has 262,144
            tokens or more, else none.
        longest_tokens: the longest window of the run.
        device: as the model will be loaded. With ``cuda`` or ``auto`` each process takes the GPU of its local rank, and
            plain ``cuda`` then means that one.

    Raises:
        RecipeError: the processes cannot be grouped so, or there are more of them than GPUs.
        RuntimeError: within such a block.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    context, why = choose_context(ranks, context_ranks, longest_tokens)
    if ranks == 1:
        with entered(DistributedState()):
            yield
        return
    choice = f"{ranks} processes: {ranks // context} for windows and candidates x {context} for a sequence ({why})"
    on_gpu = device != "cpu" and torch.cuda.is_available()
    refuse_nesting()
    try:
        with entered(_join(ranks, context, choice, on_gpu=on_gpu)), ending_at_sigterm():
            yield
    finally:  # after the state has let go of its groups: gloo groups that are still referred to make exits abort
        if dist.is_initialized():
            dist.destroy_process_group()


def choose_context(ranks: int, asked: int | None, longest_tokens: int) -> tuple[int, str]:
    """How many of the processes share a sequence, and the reason (raises RecipeError if they cannot be grouped so)."""
    if asked is None:
        window = f"the longest window has {longest_tokens:,} tokens"
        if longest_tokens >= SHARED_FROM_TOKENS:
            return ranks, f"{window}, {SHARED_FROM_TOKENS:,} or more"
        return 1, f"{window}, fewer than {SHARED_FROM_TOKENS:,}"
    if asked < 1 or ranks % asked:
        raise RecipeError(
            f"{asked} processes are to share a sequence (--context-ranks), of {ranks} in all.",
            "Their number must divide that of all processes.",
            f"Give --context-ranks {ranks}, or start {max(asked, 2)} with torchrun --nproc-per-node {max(asked, 2)}.",
        )
    return asked, "as asked"


def _join(ranks: int, context: int, choice: str, *, on_gpu: bool) -> DistributedState:
    from torch.distributed.rendezvous import rendezvous  # not in every build of torch

    if on_gpu:
        _take_gpu()
    whole_store, rank, _ = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = f"longrope/{attempt}/{next(_launches)}"  # so that nothing there is left from an earlier launch
    store: Any = dist.PrefixStore(name, whole_store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
    group = _make_context_group(rank, ranks, context) if context > 1 else None
    return DistributedState(rank, ranks, context, group, choice, store.clone())


def _take_gpu() -> None:
    check_gpus(int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count())
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def check_gpus(processes: int, gpus: int) -> None:
    """Raise RecipeError where a machine has fewer GPUs than processes."""
    if processes > gpus:
        raise RecipeError(
            f"{processes} processes were started on a machine whose GPUs number {gpus}.",
            "Each process needs one of its own.",
            f"Start {gpus} with torchrun --nproc-per-node {gpus}, or use --device cpu.",
        )


def _make_context_group(rank: int, ranks: int, context: int) -> Any:
    """The group of this process's row; every process makes the groups of all rows, as torch asks."""
    rows = [range(first, first + context) for first in range(0, ranks, context)]
    groups = [dist.new_group(list(row), timeout=LOCKSTEP) for row in rows]
    return groups[rank // context]
