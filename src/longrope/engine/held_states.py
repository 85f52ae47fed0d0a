"""How the hidden states before recomputed layers are held: all, every n-th, or in the CPU's memory.

torch hands what a checkpointed layer needs again to hooks. Here they put the layer's hidden state aside: as it is, as a
copy in the CPU's memory, or as the way to make it again from the state before it, by the layers between.

Shape legend: B = batch, n = tokens of one process, H = hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.weak import TensorWeakRef

Again = Callable[[Tensor], Any]
"""The hidden state before a layer -> its output, as in the layer's first run."""


@dataclass(frozen=True)
class Holding:
    """How hidden states are held.

    Attributes:
        every: of so many layers one state; those of the others are made again from it.
        offload: those of a GPU in the CPU's memory.
    """

    every: int = 1
    offload: bool = False


EVERY_STATE = Holding()


@dataclass
class HeldStates:
    """The hidden states of one pass, layer by layer."""

    holding: Holding
    _last: "_State | None" = None
    _output: Callable[[], Tensor | None] = lambda: None  # weakly: an output's graph holds what holds this object
    _copy: "_HostCopy | None" = None

    @contextmanager
    def before(self, hidden: Tensor, again: Again | None) -> Iterator[None]:
        """Hold a state [B, n, H] that a checkpoint in this block keeps for its layer.

        Args:
            hidden: the state.
            again: makes the layer's output again; None if it cannot be called a third time.
        """
        if self.holding == EVERY_STATE:
            yield
            return
        last = self._last if hidden is self._output() else None  # nothing but the layer has worked on it since
        if last is None or last.again is None or last.depth + 1 >= self.holding.every:
            state = _State(again, held=self._put(hidden))
        else:
            state = _State(again, source=last)
        state.graded, state.autocast = hidden.requires_grad, _autocast_of(hidden.device.type)
        at, shape = hidden.data_ptr(), hidden.shape
        self._last = state

        def pack(x: Tensor) -> "Tensor | _State":
            return state if x.data_ptr() == at and x.shape == shape else x

        with saved_tensors_hooks(pack, lambda x: x.take() if isinstance(x, _State) else x):
            yield

    def after(self, output: Any) -> None:
        """Know the output of the layer, by which the next one is seen to follow it."""
        if self.holding != EVERY_STATE:  # torch's own reference: a plain one to a tensor that C++ alone holds is unsafe
            self._output = TensorWeakRef(output[0] if isinstance(output, tuple) else output)

    def end(self) -> None:
        """Let go of the states: from here on the graph alone holds them."""
        self._last = self._copy = None

    def _put(self, hidden: Tensor) -> "Tensor | _HostCopy":
        if not (self.holding.offload and hidden.is_cuda):
            return hidden.detach()
        self._copy = _HostCopy(hidden.detach(), self._copy)
        return self._copy


@dataclass
class _State:
    """A state before a layer, or the state and layer before it."""

    again: Again | None
    held: "Tensor | _HostCopy | None" = None
    source: "_State | None" = None
    made: Tensor | None = None
    graded: bool = False
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    def depth(self) -> int:
        """How many layers lie between it and the state that is held."""
        return self.source.depth + 1 if self.source else 0

    def make(self) -> Tensor:
        """The state, which is then there until it is taken."""
        if self.made is None:
            if self.source is None:
                self.made = self.held.fetch() if isinstance(self.held, _HostCopy) else self.held
            else:
                self.made = self.source.output()
        assert self.made is not None
        return self.made

    def output(self) -> Tensor:
        """What the layer after it makes of it, by the very operations of its first run; their graph is not kept."""
        assert self.again is not None
        state = self.make().detach().requires_grad_(self.graded)
        with torch.enable_grad(), saved_tensors_hooks(lambda _: None, _nothing_left), self.autocast():
            output = self.again(state)
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found.detach()

    def take(self) -> Tensor:
        """The state, of which nothing more is left than was held."""
        found, self.made = self.make(), None
        return found


@dataclass
class _HostCopy:
    """A copy in the CPU's memory, made and fetched on a stream of its own while layers work."""

    given: Tensor
    before: "_HostCopy | None"
    host: Tensor = field(init=False)
    coming: Tensor | None = None

    def __post_init__(self) -> None:
        """Begin to copy; the GPU's memory is free again when that is done."""
        given, stream = self.given, _stream(self.given.device)
        del self.given
        self.device = given.device
        self.host = torch.empty(given.shape, dtype=given.dtype, pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(given.device))
        with torch.cuda.stream(stream):
            self.host.copy_(given, non_blocking=True)
        given.record_stream(stream)

    def fetch(self) -> Tensor:
        """The state on its device; that of the layers before it, which is wanted next, is on its way then, too."""
        self._begin()
        found, self.coming = self.coming, None
        assert found is not None
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(_stream(self.device))
        found.record_stream(current)
        if self.before:
            self.before._begin()  # noqa: SLF001  # of the same class
        return found

    def _begin(self) -> None:
        if self.coming is None:
            with torch.cuda.stream(_stream(self.device)):
                self.coming = self.host.to(self.device, non_blocking=True)


def _autocast_of(kind: str) -> Callable[[], AbstractContextManager[Any]]:
    """The autocast that is in force for a kind of device, to be entered again."""
    enabled = torch.is_autocast_enabled(kind)
    return partial(torch.autocast, kind, torch.get_autocast_dtype(kind), enabled)


def _nothing_left(_: Any) -> Tensor:
    raise RuntimeError("a layer that was run again for its output has no gradients")


_streams: dict[torch.device, Any] = {}


def _stream(device: torch.device) -> Any:
    """The stream of copies between a GPU and the CPU."""
    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)
    return _streams[device]
