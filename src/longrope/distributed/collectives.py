"""Work that is divided among processes, or done by one of them for all; alone a process does all of it itself."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from longrope.distributed.context_parallel import shard
from longrope.distributed.failures import detecting_lost_processes
from longrope.distributed.fsdp import is_dtensor
from longrope.distributed.state import current, is_main, ranks, workers, working
from longrope.errors import LongRopeError, ProcessLostError

T = TypeVar("T")
R = TypeVar("R")


def map_ranks(items: Sequence[T], work: Callable[[T], R], *, alone: bool = False) -> list[R]:
    """Do some work for each item, divided among the rows of processes; all get all results.

    A single item is worked on by all of them, so that ``map_ranks`` within that work has rows to divide among; within
    the work for one of several items it has none.

    Args:
        items: the same in all processes.
        work: what to do for one of them; its result can be pickled.
        alone: one process works on each item, even where several share a sequence. Decoding needs it: a cache holds the
            keys of the whole sequence.

    Returns:
        The results in the order of the items, the same in every process.

    Raises:
        LongRopeError: the work of some process raised it; all processes raise it.
        ProcessLostError: another process has died.
    """
    state = current()
    if state.ranks == 1 or state.scope != "all":
        assert not alone or shard() is None, "a process that shares a sequence cannot work alone"
        return [work(item) for item in items]
    rows = state.ranks if alone else workers()
    per_row = state.ranks // rows
    row, place = divmod(state.rank, per_row)
    together = len(items) == 1 and not alone
    with working("one" if alone else "all" if together else "row"):
        done, failure = _attempt(items if together else items[row::rows], work)
    all_done = _collect((done if place == 0 else [], failure))
    for _, failed in all_done:
        if failed:
            raise failed
    by_row = [results for results, _ in all_done[::per_row]]
    return [by_row[0 if together else i % rows][i // rows] for i in range(len(items))]


def on_main(work: Callable[[], R]) -> R:
    """Let the main process do some work while the others wait; its result, or its LongRopeError, is that of all."""
    state = current()
    if state.ranks == 1 or state.scope == "one":
        return work()
    assert state.scope == "all", "rows that do different work cannot wait for one process"
    box: list[Any] = [None]
    if is_main():
        with working("one"):
            box[0] = _attempt([None], lambda _: work())
    with detecting_lost_processes():
        dist.broadcast_object_list(box, src=0)
    done, failure = box[0]
    if failure:
        raise failure
    return done[0]  # type: ignore[no-any-return]


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, the same bits in each of them; without gradients."""
    x = x.detach().clone(memory_format=torch.contiguous_format)
    if ranks() > 1:
        with detecting_lost_processes():
            dist.all_reduce(x)
    return x


def scatter(x: Tensor | None, like: Tensor) -> Tensor:
    """The main process's tensor in all of them, divided as another one is; alone the tensor itself."""
    filled = (
        torch.empty(like.shape, dtype=like.dtype, device=like.device) if x is None else x.to(like.device, like.dtype)
    )
    if ranks() == 1:
        assert x is not None
        return filled
    with detecting_lost_processes():
        if is_dtensor(like):
            from torch.distributed.tensor import distribute_tensor

            return distribute_tensor(filled, like.device_mesh, like.placements)  # type: ignore[attr-defined]
        dist.broadcast(filled, src=0)
    return filled


def _attempt(items: Sequence[T], work: Callable[[T], R]) -> tuple[list[R], LongRopeError | None]:
    """The results, or the error about bad input."""
    try:
        return [work(item) for item in items], None
    except ProcessLostError:
        raise
    except LongRopeError as error:
        return [], error


def _collect(value: T) -> list[T]:
    everything: list[Any] = [None] * ranks()
    with detecting_lost_processes():
        dist.all_gather_object(everything, value)
    return everything
