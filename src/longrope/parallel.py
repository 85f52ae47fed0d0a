"""Many processes: which of them share a sequence, and who takes which window or candidate. No other module knows ranks.

    torchrun --nproc-per-node 8 -m longrope extend MODEL --to 2048k --data books/

Without torchrun there is one process, and torch.distributed is not called. The processes of a launch stand in rows.
Those of a row hold parts of the same sequence (``Shard``); the rows take windows and candidates in turn (``spread``).
All of them walk the same way, for what decides it reaches them from one process, which alone writes files (``lead``).

Shape legend: B = batch, G = key/value heads, N = padded tokens of a window, n = those of one process, D = head
dimension.
"""

import copy
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from longrope.errors import LongRopeError, ProcessLostError, RecipeError

T = TypeVar("T")
R = TypeVar("R")

SHARED_FROM_TOKENS = 2**18  # windows from this length on are shared by all processes, unless told otherwise
PATIENCE = timedelta(days=1)  # an evaluation may take hours, and a process that died is noticed at once
LOCKSTEP = timedelta(hours=1)  # between processes that share a sequence and meet in every layer
SECONDS_TO_END = 5.0  # for the main thread to tell of an error, where SIGTERM comes meanwhile


@dataclass(frozen=True)
class Shard:
    """This process's part of each sequence: a chunk near its head and one near its tail, so that causal work is equal.

    A sequence is padded and cut into 2 * ranks chunks; process r holds chunk r and chunk 2 * ranks - 1 - r.

    Attributes:
        rank: of this process among those that share the sequence.
        ranks: how many share it.
        group: torch's process group of them.
    """

    rank: int
    ranks: int
    group: Any

    def padded(self, tokens: int) -> int:
        """The next length that divides into equal chunks."""
        return -(-tokens // (2 * self.ranks)) * 2 * self.ranks

    def positions(self, padded_tokens: int) -> Tensor:
        """[n] int64, on the CPU: where this process's tokens stand in a sequence of ``padded_tokens``."""
        return torch.arange(padded_tokens).view(2 * self.ranks, -1)[[self.rank, 2 * self.ranks - 1 - self.rank]].ravel()

    def gather(self, x: Tensor) -> Tensor:
        """[B, G, N, D] keys or values of all processes, in the order of the sequence, from this one's [B, G, n, D].

        The backward pass sums the gradients of all processes and gives each its part.
        """
        return _Gather.apply(x, self)  # type: ignore[no-any-return, no-untyped-call]

    def join(self, x: Tensor) -> Tensor:
        """[B, N, ...] results of all processes, in the order of the sequence, from [B, n, ...]; without gradients."""
        return self._ordered(x, dim=1)

    def total(self, x: Tensor) -> Tensor:
        """The sum of a tensor over the processes, the same bits in each of them; without gradients."""
        x = x.detach().clone(memory_format=torch.contiguous_format)
        with _noticing():
            dist.all_reduce(x, group=self.group)
        return x

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Give each parameter the sum of its gradients over the processes; one that has none counts as 0."""
        for parameter in parameters:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self.total(own)

    def _ordered(self, x: Tensor, dim: int) -> Tensor:
        parts = x.new_empty((self.ranks * x.shape[0], *x.shape[1:]))
        all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # torch 2.13 renamed it
        with _noticing():
            all_gather(parts, x.contiguous(), group=self.group)
        heads, tails = parts.view(self.ranks, *x.shape).chunk(2, dim=dim + 1)
        return torch.cat([*heads, *reversed(tails.unbind())], dim=dim)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        return shard._ordered(x, dim=2)  # noqa: SLF001  # its other half

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = ctx.shard.total(gradient)
        return whole[:, :, ctx.shard.positions(whole.shape[2]).to(whole.device)], None


@dataclass
class _Place:
    """This process among all of the launch.

    Attributes:
        rank, ranks: as torchrun counts them.
        shard: its part of each sequence; None if it has sequences whole.
        choice: what was chosen and why.
        within: who is at the same work now: all processes, those of a row, or this one alone.
        store: where processes agree on who tells of the end.
        wakeup: where signals are noted.
    """

    rank: int = 0
    ranks: int = 1
    shard: Shard | None = None
    choice: str = ""
    within: Literal["all", "row", "one"] = "all"
    store: Any = None
    wakeup: int = -1


_here = _Place()
_starts = itertools.count()
_ending = threading.Lock()  # held by the thread that brings this process to its end


def start(context_ranks: int | None = None, *, longest_tokens: int = 0, device: str = "auto") -> str:
    """Join the processes of a torchrun launch; in a single process do nothing.

    Args:
        context_ranks: how many processes share a sequence. By default all of them if the longest window has 262,144
            tokens or more, else none.
        longest_tokens: the longest window of the run.
        device: as the model will be loaded. With ``cuda`` or ``auto`` each process takes the GPU of its local rank, and
            plain ``cuda`` then means that one.

    Returns:
        What was chosen and why, in one line.

    Raises:
        RecipeError: the processes cannot be grouped so, or there are more of them than GPUs.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    context, why = _choose_context(ranks, context_ranks, longest_tokens)
    if ranks == 1:
        return "1 process"
    from torch.distributed.rendezvous import rendezvous  # not in every build of torch

    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _take_gpu()
    whole_store, rank, _ = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    name = f"longrope/{attempt}/{next(_starts)}"  # so that nothing there is left from an earlier start
    store: Any = dist.PrefixStore(name, whole_store)  # type: ignore[attr-defined]
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=PATIENCE)
    shard = _make_shard(rank, ranks, context) if context > 1 else None
    choice = f"{ranks} processes: {ranks // context} for windows and candidates x {context} for a sequence ({why})"
    vars(_here).update(vars(_Place(rank, ranks, shard, choice, "all", store.clone(), _watch_for_sigterm())))
    return choice


def stop() -> None:
    """Leave the launch; from here on this is one process."""
    if _here.ranks == 1:
        return
    signal.set_wakeup_fd(-1)
    if not _ending.locked():  # else it has something to tell first
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.close(_here.wakeup)
    vars(_here).update(vars(_Place()))  # gloo groups that are still referred to make exits abort
    dist.destroy_process_group()


def ranks() -> int:
    """How many processes there are."""
    return _here.ranks


def workers() -> int:
    """How many items ``spread`` works on at the same time."""
    return _here.ranks // (_here.shard.ranks if _here.shard else 1) if _here.within == "all" else 1


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return _here.rank == 0


def choices() -> tuple[str, ...]:
    """The choice of ``start`` with its reason; nothing in a single process."""
    return (_here.choice,) if _here.choice else ()


def shard() -> Shard | None:
    """This process's part of each sequence; None where it has sequences whole."""
    return None if _here.within == "one" else _here.shard


def spread(items: Sequence[T], work: Callable[[T], R], *, alone: bool = False) -> list[R]:
    """Do some work for each item, divided among the rows of processes; all get all results.

    A single item is worked on by all of them, so that ``spread`` within that work has rows to divide among; within the
    work for one of several items it has none.

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
    if _here.ranks == 1 or _here.within != "all":
        assert not alone or shard() is None, "a process that shares a sequence cannot work alone"
        return [work(item) for item in items]
    rows = _here.ranks if alone else workers()
    per_row = _here.ranks // rows
    row, place = divmod(_here.rank, per_row)
    together = len(items) == 1 and not alone
    with _working("one" if alone else "all" if together else "row"):
        done, failure = _attempt(items if together else items[row::rows], work)
    all_done = _collect((done if place == 0 else [], failure))
    for _, failed in all_done:
        if failed:
            raise failed
    by_row = [results for results, _ in all_done[::per_row]]
    return [by_row[0 if together else i % rows][i // rows] for i in range(len(items))]


def row() -> int:
    """Which row of processes this one stands in, of ``workers()`` rows."""
    return _here.rank // (_here.shard.ranks if _here.shard else 1)


def total(x: Tensor) -> Tensor:
    """The sum of a tensor over all processes, the same bits in each of them; without gradients."""
    x = x.detach().clone(memory_format=torch.contiguous_format)
    if _here.ranks > 1:
        with _noticing():
            dist.all_reduce(x)
    return x


def divide_weights(network: Any, layers: Iterable[Any]) -> Any:
    """A copy of a network whose layers' weights are divided among all processes (FSDP2); alone the network itself.

    Each process holds its part of every layer, and a layer is whole while it works. Gradients of these weights come
    divided, too, as the mean over the processes. What is no part of a layer is whole everywhere.
    """
    if _here.ranks == 1:
        return network
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    places = {id(layer): at for at, layer in enumerate(network.modules())}
    wanted = {places[id(layer)] for layer in layers}
    copied = copy.deepcopy(network)
    kind = next(network.parameters()).device.type
    mesh = init_device_mesh(kind, (_here.ranks,))
    for at, layer in enumerate(copied.modules()):
        if at in wanted:
            fully_shard(layer, mesh=mesh)
    return copied


def is_divided(x: Tensor) -> bool:
    """Whether each process holds a part of this tensor alone."""
    return hasattr(x, "full_tensor")


def own_part(x: Tensor) -> Tensor:
    """This process's part of a divided tensor; any other one as it is."""
    return x.to_local() if is_divided(x) else x  # type: ignore[attr-defined]


def whole(x: Tensor) -> Tensor:
    """All of a divided tensor, in every process; any other one as it is."""
    if not is_divided(x):
        return x
    with _noticing():
        return x.full_tensor()  # type: ignore[attr-defined, no-any-return]


def scatter(x: Tensor | None, like: Tensor) -> Tensor:
    """The first process's tensor in all of them, divided as another one is; alone the tensor itself."""
    filled = (
        torch.empty(like.shape, dtype=like.dtype, device=like.device) if x is None else x.to(like.device, like.dtype)
    )
    if _here.ranks == 1:
        assert x is not None
        return filled
    with _noticing():
        if is_divided(like):
            from torch.distributed.tensor import distribute_tensor

            return distribute_tensor(filled, like.device_mesh, like.placements)  # type: ignore[attr-defined]
        dist.broadcast(filled, src=0)
    return filled


def lead(work: Callable[[], R]) -> R:
    """Let one process do some work while the others wait; its result, or its LongRopeError, is that of all."""
    if _here.ranks == 1 or _here.within == "one":
        return work()
    assert _here.within == "all", "rows that do different work cannot follow one process"
    box: list[Any] = [None]
    if is_main():
        with _working("one"):
            box[0] = _attempt([None], lambda _: work())
    with _noticing():
        dist.broadcast_object_list(box, src=0)
    done, failure = box[0]
    if failure:
        raise failure
    return done[0]  # type: ignore[no-any-return]


def broadcast(value: T) -> T:
    """The first process's value, which can be pickled, in all processes."""
    return lead(lambda: value)


def speaks() -> bool:
    """Whether this process may tell why the launch ends: it is the first to ask. Ask once, when ending."""
    if _here.store is None:
        return os.environ.get("LOCAL_RANK", "0") == "0"
    _ending.acquire(timeout=SECONDS_TO_END)  # never released: what ends the process goes on to the end
    with suppress(RuntimeError):  # the store went with its process
        return int(_here.store.add("told", 1)) == 1
    return True


def _choose_context(ranks: int, asked: int | None, longest_tokens: int) -> tuple[int, str]:
    """How many processes share a sequence, and the reason."""
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


def _take_gpu() -> None:
    here, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if here > gpus:
        raise RecipeError(
            f"{here} processes were started on a machine whose GPUs number {gpus}.",
            "Each process needs one of its own.",
            f"Start {gpus} with torchrun --nproc-per-node {gpus}, or use --device cpu.",
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _make_shard(rank: int, ranks: int, context: int) -> Shard:
    """The part of this process; every process makes the groups of all rows, as torch asks."""
    rows = [range(first, first + context) for first in range(0, ranks, context)]
    groups = [dist.new_group(list(row), timeout=LOCKSTEP) for row in rows]
    return Shard(rank % context, context, groups[rank // context])


@contextmanager
def _working(within: Literal["all", "row", "one"]) -> Iterator[None]:
    before, _here.within = _here.within, within
    try:
        yield
    finally:
        _here.within = before


def _attempt(items: Sequence[T], work: Callable[[T], R]) -> tuple[list[R], LongRopeError | None]:
    """The results, or the error that tells of bad input."""
    try:
        return [work(item) for item in items], None
    except ProcessLostError:
        raise
    except LongRopeError as error:
        return [], error


def _collect(value: T) -> list[T]:
    everything: list[Any] = [None] * _here.ranks
    with _noticing():
        dist.all_gather_object(everything, value)
    return everything


@contextmanager
def _noticing() -> Iterator[None]:
    """Tell a lost process from a fault of our own."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo/" in str(error):  # it names the file of gloo that noticed
            sign = re.sub(r"^\[\S*\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
            raise _lost(f"A process of this launch was lost ({sign}).") from error
        raise


def _lost(found: str) -> ProcessLostError:
    return ProcessLostError(
        found,
        "All of its processes are needed; what the run directory holds is kept.",
        "Look for the cause in torchrun's report; the same command then goes on where it was.",
    )


def _watch_for_sigterm() -> int:
    """Tell of SIGTERM, by which torchrun ends those that are left, and end; return where signals are noted.

    A thread does it, since the main one may wait for ever in a collective on GPUs with a process that is gone.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # so that it is noted
    threading.Thread(target=_end_at_sigterm, args=(reader,), daemon=True).start()
    return writer


def _end_at_sigterm(reader: int) -> None:
    with os.fdopen(reader, "rb", buffering=0) as signals:
        while noted := signals.read(1):
            if noted[0] == signal.SIGTERM:
                _end()


def _end() -> NoReturn:
    try:
        if speaks():
            error = _lost("This launch was told to end (SIGTERM), as torchrun does when one of its processes is lost.")
            sys.stderr.write(f"longrope: {error}\n")
            sys.stderr.flush()
    finally:  # even where nobody listens any more
        os._exit(1)
