"""Layers of short passes as CUDA graphs: a GPU that is given one launch a layer does not wait for Python.

A layer of 8,192 tokens has some forty operations that take a GPU less time than Python takes to launch them. In the
third pass over windows of one shape they are recorded, and from then on replayed. What a layer is given is copied to
where the recorded operations read it; its output takes the place of its input. Whatever else they depend on is looked
at before each replay: the layer's modules, their settings and weights, and the arguments that are no tensors.

Shape legend: B = batch, N = tokens of a window, H = hidden size.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from longrope import distributed
from longrope.engine.context import ForwardContext, active_context
from longrope.engine.native_cache import tensors_in
from longrope.models import LanguageModel, modules_in_layers

LOGGER = logging.getLogger("longrope")
MOST_TOKENS = 16384  # of all rows of a pass; the layers of longer ones keep a GPU at work
MOST_SHAPES = 4  # of windows that came twice, whose recordings are kept
MOST_TIMES = 8  # that a layer is recorded for one shape; one that changes more often runs as it is
MOST_SEEN = 4096  # shapes of all layers that are known
SIMPLE = ("Attention", "MLP", "Norm", "Dropout")  # how the names of a layer's parts end that always do the same work
ROUTED = ("expert", "router", "moe")  # in the names of parts whose work depends on the numbers
PLAIN = (bool, int, float, str)  # settings of modules
Replay = Callable[[], object]
Record = Callable[[Callable[[], None], "Recordings"], Replay]
"""(work, recordings that it is to be one of) -> what does it again, with the tensors where they are."""


@dataclass
class Recorded:
    """A layer's recording for one shape.

    Attributes:
        replay: does the layer's work again.
        inputs: where it reads tensors.
        calls: of our attention.
        state: all else that the recording depends on.
    """

    replay: Replay
    inputs: tuple[Tensor, ...]
    calls: int
    state: "LayerState"

    def fits(self, inputs: tuple[Tensor, ...]) -> bool:
        """Whether all is as it was."""
        return all(a is b for a, b in zip(self.inputs, inputs, strict=True)) and self.state.holds()


class LayerState:
    """What a layer's work depends on beside its arguments: its modules, their forwards, settings and weights."""

    def __init__(self, layer: nn.Module) -> None:
        """As it is now; the layer's own forward is the one that replays."""
        parts = list(layer.modules())
        self._forwards = [(vars(part), vars(part).get("forward")) for part in parts[1:]]
        self._children = [(part._modules, name, child) for part in parts for name, child in part._modules.items()]  # noqa: SLF001
        self._settings = [
            (vars(part), name, x) for part in parts for name, x in vars(part).items() if isinstance(x, PLAIN)
        ]
        self._weights = [
            (own, name, x.data_ptr())
            for part in parts
            for own in (part._parameters, part._buffers)  # noqa: SLF001  # their names take longer than a launch
            for name, x in own.items()
            if x is not None
        ]

    def holds(self) -> bool:
        """Whether it is so still."""
        return (
            all(own.get("forward") is forward for own, forward in self._forwards)
            and all(own.get(name) is child for own, name, child in self._children)
            and all(own.get(name) == x for own, name, x in self._settings)
            and all((x := own.get(name)) is not None and x.data_ptr() == at for own, name, at in self._weights)
        )


@dataclass
class Recordings:
    """What is kept of one network between passes.

    Attributes:
        seen: of each layer and shape how often it came, until it is recorded; -1 where it cannot be.
        recorded: by layer and shape.
        buffers: where recordings read tensors, by their order in a pass, shape and number format.
        pool: the memory of a GPU that they share, for they run one after the other.
    """

    seen: dict[Any, int] = field(default_factory=dict)
    recorded: dict[Any, Recorded] = field(default_factory=dict)
    buffers: dict[Any, Tensor] = field(default_factory=dict)
    pool: Any = None

    def clear(self) -> None:
        """Begin anew; torch refuses a pool whose last recording is gone."""
        self.seen, self.recorded, self.buffers, self.pool = {}, {}, {}, None


_kept: "WeakKeyDictionary[nn.Module, Recordings]" = WeakKeyDictionary()


def recordings_of(network: nn.Module) -> Recordings:
    """Those of a network; they end with it."""
    return _kept.setdefault(network, Recordings())


def forget(network: nn.Module) -> None:
    """Give the memory of a network's recordings back."""
    _kept.pop(network, None)


class ReplayedPass:
    """One pass, whose layers are recorded or replayed."""

    def __init__(self, kept: Recordings, record: Record) -> None:
        """Begin a pass.

        Args:
            kept: of the network; begun anew when it has those of too many shapes.
            record: makes a recording.
        """
        if sum(name == "hidden" for name, *_ in kept.buffers) > MOST_SHAPES or len(kept.seen) > MOST_SEEN:
            kept.clear()
        self._kept, self._record = kept, record
        self._static: dict[int, tuple[Tensor, Tensor]] = {}  # what came in this pass, and where it was copied to

    def change(self, forward: Callable[..., Any], layer: nn.Module, index: int) -> Callable[..., Any]:
        """What to call in the place of a layer's forward, which gives hidden states [B, N, H] alone."""
        if not _is_simple(layer):
            return forward

        def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            if _has_hooks(layer):
                return forward(hidden, *args, **kwargs)
            shape = _shape_of((hidden, args, kwargs))
            key, count = (index, shape), self._kept.seen.get((index, shape), 0)
            if count < 1 or shape is None:  # the first pass
                self._kept.seen[key] = count or 1
                return forward(hidden, *args, **kwargs)
            place = self._hidden(hidden)
            inputs = place, *(self._copied(x) for x in tensors_in((args, kwargs)))
            args, kwargs = self._placed(args), self._placed(kwargs)
            if count < 2:  # the second one, after which nothing is compiled or chosen any more
                self._kept.seen[key] = 2
                return forward(place, *args, **kwargs)
            found = self._kept.recorded.get(key)
            if found is None or not found.fits(inputs):
                self._kept.seen[key] = count + 1
                work = partial(forward, place, *args, **kwargs)
                found = self._recording(work, layer, inputs) if count < 2 + MOST_TIMES else None
            if found is None:
                self._kept.seen[key] = -1
                self._kept.recorded.pop(key, None)
                return forward(place, *args, **kwargs)
            self._kept.recorded[key] = found
            found.replay()
            active_context().attention_calls += found.calls
            return place

        return run

    def _recording(self, forward: Callable[[], Any], layer: nn.Module, inputs: tuple[Tensor, ...]) -> Recorded | None:
        """A recording of a layer; None if it cannot be recorded."""
        context = active_context()
        before = context.attention_calls

        def work() -> None:
            output = forward()
            if not isinstance(output, Tensor):
                raise TypeError("a layer that gives more than hidden states is not recorded")
            inputs[0].copy_(output)

        try:
            replay = self._record(work, self._kept)
        except (RuntimeError, TypeError) as error:
            LOGGER.debug("a %s is not recorded and runs without a CUDA graph: %s", type(layer).__name__, error)
            return None
        finally:
            calls, context.attention_calls = context.attention_calls - before, before
        return Recorded(replay, inputs, calls, LayerState(layer))

    def _hidden(self, hidden: Tensor) -> Tensor:
        """Where layers read and write hidden states; they are there already after another layer."""
        place = self._buffer("hidden", hidden)
        return place if hidden is place else place.copy_(hidden)

    def _copied(self, x: Tensor) -> Tensor:
        """Where layers read another tensor, which is copied there once a pass."""
        if id(x) not in self._static:
            self._static[id(x)] = x, self._buffer(len(self._static), x).copy_(x)
        return self._static[id(x)][1]

    def _placed(self, given: Any) -> Any:
        """The same with the copies of its tensors."""
        if isinstance(given, Tensor):
            return self._copied(given)
        if isinstance(given, dict):
            return {name: self._placed(x) for name, x in given.items()}
        return type(given)(map(self._placed, given)) if isinstance(given, tuple | list) else given

    def _buffer(self, name: Any, like: Tensor) -> Tensor:
        key = name, tuple(like.shape), like.dtype
        if key not in self._kept.buffers:
            self._kept.buffers[key] = torch.empty_like(like, memory_format=torch.contiguous_format)
        return self._kept.buffers[key]


def replayed_pass(model: LanguageModel, shape: Sequence[int], context: ForwardContext) -> ReplayedPass | None:
    """What records and replays the layers of a pass over windows [B, N]; None where they are run as they are.

    That is without gradients on one GPU, where layers have nothing to look at but what they are given.
    """
    if model.limits.tile_tokens:  # memory did not suffice
        forget(model.network)
    apart = context.documents or context.shard or context.near or context.adapted or context.choosing
    if apart or distributed.ranks() > 1 or model.quantized or model.limits.tile_tokens or modules_in_layers(model):
        return None
    whole = model.device.type == "cuda" and torch.is_inference_mode_enabled() and shape[0] * shape[1] <= MOST_TOKENS
    return ReplayedPass(recordings_of(model.network), record_on_gpu) if whole else None


def record_on_gpu(work: Callable[[], None], kept: Recordings) -> Replay:
    """A CUDA graph of the work, which is not done yet."""
    device = torch.device("cuda", torch.cuda.current_device())
    stream = _streams.setdefault(device, torch.cuda.Stream(device))
    kept.pool = kept.pool or torch.cuda.graph_pool_handle()
    graph = torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=kept.pool, capture_error_mode="thread_local")
        try:
            work()
        finally:
            graph.capture_end()
    torch.cuda.current_stream(device).wait_stream(stream)
    return graph.replay


_streams: dict[torch.device, Any] = {}


def _has_hooks(layer: nn.Module) -> bool:
    """Whether somebody looks at what parts of a layer are given or give."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in layer.modules())  # noqa: SLF001


def _is_simple(layer: nn.Module) -> bool:
    """Whether a layer gives a GPU the same work whatever the numbers are, by the names of its parts."""
    names = [type(part).__name__ for part in layer.modules()]
    routed = any(word in name.lower() for name in names for word in ROUTED)
    return not routed and all(type(part).__name__.endswith(SIMPLE) for part in layer.children())


def _shape_of(given: Any) -> Any:
    """All that is given but the numbers in tensors; None where something of it is neither that nor a plain value."""
    if isinstance(given, Tensor):
        return tuple(given.shape), given.dtype
    if isinstance(given, dict):
        given = tuple(given.items())
    if isinstance(given, tuple | list):
        parts = tuple(_shape_of(x) for x in given)
        return None if any(x is None for x in parts) else parts
    plain = given is None or isinstance(given, bool | int | float | str)
    return (type(given).__name__, given) if plain else None
