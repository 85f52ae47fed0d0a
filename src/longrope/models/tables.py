"""Where the rotary tables of a network are: the modules that hand cos and sin to its layers, and which layers use them.

They are found by asking the network. It is built without weights (on torch's ``meta`` device) and called once: rotary
modules hand over numbers that are marked, and each layer tells which of them reach its attention.
"""

import copy
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from longrope.errors import ModelError
from longrope.models.layouts import ask_module
from longrope.models.rotary import RescaledRotary
from longrope.rope import RotaryTable

MARKING = "longrope-marking"
TOKENS = 4
SUFFIX = "inv_freq"
LOCAL = ("sliding", "chunked", "local")  # what the types of layers that see a part of the window have in their names


@dataclass(frozen=True)
class Place:
    """One table of one rotary module: the module's dotted name, and the layer type if it holds several tables."""

    path: str
    layer_type: str | None = None


def find_places(network: nn.Module) -> list[Place]:
    """Every table of every rotary module of a network, used or not."""
    places = []
    for path, module in network.named_modules(remove_duplicate=False):
        buffers = module._buffers  # noqa: SLF001  # not those of modules below it
        if isinstance(module, RescaledRotary) or SUFFIX in buffers or "embed_positions" in buffers:
            places.append(Place(path))
            continue
        types = [name.removesuffix(f"_{SUFFIX}") for name in buffers if name.endswith(f"_{SUFFIX}")]
        types = [name for name in types if name != "original" and not name.endswith("_original")]
        places.extend(Place(path, name) for name in types)
    return places


def modules_of(network: nn.Module, table: RotaryTable) -> Iterator[tuple[nn.Module, str, Any]]:
    """(parent, name in it, rotary module) of each module that holds a table."""
    paths = (re.escape(path).replace(r"\*", r"\d+") for path in table.path.split(", "))
    pattern = re.compile("|".join(paths))
    for path, parent in network.named_modules(remove_duplicate=False):
        for name, child in parent.named_children():
            if pattern.fullmatch(f"{path}.{name}".lstrip(".")):
                yield parent, name, child


def make_alone(module: Any, config: Any) -> Any:
    """A rotary module like one of a network without weights, alone on the CPU, with its numbers."""
    return type(module)(config=copy.deepcopy(getattr(module, "config", None) or config))


def sliding_layers(config: Any) -> set[int]:
    """The layers that see a part of the window alone."""
    types = getattr(config, "layer_types", None)
    if types:
        return {i for i, kind in enumerate(types) if any(word in kind for word in LOCAL)}
    window = slides_over(config)
    longest = getattr(config, "max_position_embeddings", None) or window
    return set(range(config.num_hidden_layers)) if 0 < window <= longest else set()


def slides_over(config: Any) -> int:
    """The sliding window of all layers of a config in tokens, 0 if it states none, or the kind of each layer.

    It may be longer than the window that the model was made for (Phi-3-mini-128k, Phi-4-mini).
    """
    if getattr(config, "layer_types", None) or not getattr(config, "use_sliding_window", True):
        return 0
    return int(getattr(config, "sliding_window", None) or 0)


def choose_table(tables: tuple[RotaryTable, ...], name: str = "") -> RotaryTable:
    """The table that factors act on.

    Args:
        tables: of a model.
        name: of one of them; empty takes the one of the layers that see the whole window.

    Raises:
        ModelError: no table has that name, or several could be meant and none is named.
    """
    listed = "; ".join(describe_table(table) for table in tables)
    if name:
        named = [table for table in tables if table.name == name]
        if len(named) != 1:
            raise ModelError(
                f"The rotary table {name!r} was asked for.",
                f"The model has: {listed}.",
                f"Try --rope-table {tables[0].name}.",
            )
        return named[0]
    whole = [table for table in tables if not table.slides] or list(tables)
    if len(whole) != 1:
        raise ModelError(
            f"The model has {len(whole)} rotary tables that could be extended: {listed}.",
            "Factors act on one table.",
            f"Name it, such as with --rope-table {whole[0].name}.",
        )
    return whole[0]


def describe_choice(tables: tuple[RotaryTable, ...], table: RotaryTable, slides: int = 0) -> tuple[str, ...]:
    """What is to be said of the table that factors act on: it is one of several, or its layers see no long text."""
    several = (f"rotary table {describe_table(table)}",) if len(tables) > 1 else ()
    if slides and not table.slides:
        return (*several, f"attention slides over {slides:,} tokens, which factors do not widen")
    if not table.slides:
        return several
    return (*several, "every layer with RoPE sees a sliding window alone, which factors do not widen")


def describe_table(table: RotaryTable) -> str:
    """Its name, its base, and how many layers use it."""
    seen = "sliding" if table.slides else "whole window"
    return f"{table.name} (theta {table.geometry.theta:g}, {len(table.layers)} layers, {seen})"


@dataclass
class _Marks:
    """Marked numbers that rotary modules have handed over, and the layers that use them."""

    made: dict[int, Place] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)  # so that no other tensor takes their place in memory
    users: dict[Place, set[int]] = field(default_factory=dict)

    def mark(self, place: Place, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        made = torch.zeros(shape, dtype=dtype, device="meta", requires_grad=True)
        self.made[id(made)] = place
        self.kept.append(made)
        return made

    def within(self, given: Any) -> set[Place]:
        if isinstance(given, Tensor):
            return {self.made[id(given)]} if id(given) in self.made else set()
        parts = given.values() if isinstance(given, dict) else given if isinstance(given, tuple | list) else ()
        return set().union(*(self.within(part) for part in parts))

    def alone(self, given: Any, place: Place) -> Any:
        """What a layer is given, in which the numbers of one place alone can be traced."""
        if isinstance(given, Tensor):
            return given if self.made.get(id(given)) in (None, place) else given.detach()
        if isinstance(given, dict):
            return {name: self.alone(part, place) for name, part in given.items()}
        return type(given)(self.alone(part, place) for part in given) if isinstance(given, tuple | list) else given


class _AllSeen(Exception):  # noqa: N818  # it ends a pass that has shown enough
    pass


def find_users(network: Any, places: list[Place]) -> dict[Place, set[int]]:
    """The layers that use each table; a table that no layer uses is left out.

    Args:
        network: built on the ``meta`` device; its forwards are changed for good.
        places: of its tables.
    """
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    marks = _Marks()
    within = tuple(f"{name}." for name, module in network.named_modules() if module in layers)
    inside = [place for place in places if place.path.startswith(within)]
    outside = [place for place in places if place not in inside]
    types = {place.layer_type for place in outside} - {None}
    for place in inside:  # called by their own layer alone
        number = int(next(part for part in place.path.split(".") if part.isdigit()))
        if place.layer_type not in types:  # else a table of that name is handed to layers, too, which shows its users
            marks.users.setdefault(place, set()).add(number)
    for path in {place.path for place in outside}:
        module = network.get_submodule(path)
        module.forward = _marking(marks, path, make_alone(module, network.config))
    recorded = [_recording(marks, layer, number, len(layers) - 1) for number, layer in enumerate(layers)]
    if outside:
        AttentionInterface.register(MARKING, _attend)
        network.config._attn_implementation = MARKING  # noqa: SLF001  # no mask is made for an unknown name
        _call(network, layers, recorded)
    return marks.users


def _call(network: Any, layers: Sequence[nn.Module], recorded: list[Callable[..., Tensor]]) -> None:
    """Call a network whose layers return their hidden states, alone or before others, as its own layers do."""
    tokens = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    for others in (0, 1, 2):
        for layer, forward in zip(layers, recorded, strict=True):
            layer.forward = _returning(forward, others)
        try:
            with suppress(_AllSeen), torch.enable_grad():
                network.requires_grad_(False)(tokens, use_cache=False)
        except ValueError:  # it unpacks more than it was given
            if others == 2:
                raise
        else:
            return


def _returning(forward: Callable[..., Tensor], others: int) -> Callable[..., Any]:
    """A layer's forward that returns so many others after the hidden states."""
    if not others:
        return forward
    return lambda *args, **kwargs: (forward(*args, **kwargs), *[None] * others)


def _marking(marks: _Marks, path: str, alone: Any) -> Callable[..., Any]:
    """A rotary module's forward that hands over marked numbers of the right shape."""

    def forward(_x: Tensor, *_given: Any, layer_type: str | None = None, **_: Any) -> Any:
        kind = next((value for value in _given if isinstance(value, str)), layer_type)
        cos, _sin, is_complex = ask_module(alone, kind, list(range(TOKENS)))
        place, shape = Place(path, kind), (1, *cos.shape)
        if is_complex:
            return marks.mark(place, shape, torch.complex64)
        return marks.mark(place, shape, cos.dtype), marks.mark(place, shape, cos.dtype)

    return forward


def _recording(marks: _Marks, layer: nn.Module, number: int, last: int) -> Callable[..., Any]:
    """A layer's forward that runs nothing but its attention, and notes whose angles reach it."""
    signature = inspect.signature(layer.forward)

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(hidden, *args, **kwargs).arguments
        given = {**bound.pop("kwargs", {}), **bound}
        for name, value in given.items():
            for place in marks.within(value):
                if _reaches_attention(layer, name, {**given, name: marks.alone(value, place)}, hidden):
                    marks.users.setdefault(place, set()).add(number)
        if number == last:
            raise _AllSeen
        return hidden

    return forward


def _reaches_attention(layer: nn.Module, name: str, given: dict[str, Any], hidden: Tensor) -> bool:
    """Whether the attention of a layer uses what it is given by some name: then its output depends on it."""
    takers = [module for module in layer.modules() if module is not layer and name in _parameters(module)]
    if not takers:
        return False
    wanted = _parameters(takers[0])
    first, *_ = wanted
    arguments = {key: value for key, value in given.items() if key in wanted and key != first}
    if hidden.ndim == 4:  # several states of a token, of which attention is given one
        hidden = hidden[:, :, 0] if hidden.shape[:2] == (1, TOKENS) else hidden[0]
    with suppress(Exception):  # an attention that cannot be called so is taken to use its angles
        output = takers[0](hidden, **arguments)
        return bool((output[0] if isinstance(output, tuple) else output).requires_grad)
    return True


def _parameters(module: nn.Module) -> list[str]:
    return list(inspect.signature(module.forward).parameters)


def _attend(_module: Any, query: Tensor, _key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
    """An output of attention's shape that depends on the query alone."""
    return query[..., :1].expand(*query.shape[:-1], value.shape[-1]).transpose(1, 2).contiguous(), None
