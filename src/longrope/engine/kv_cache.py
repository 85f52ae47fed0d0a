"""Keys and values that layers have made, kept by our attention.

Shape legend: B = batch, G = key/value heads, n = new tokens, D = head dimension.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from longrope.engine.native_cache import NativeCache
from longrope.errors import ModelError
from longrope.models import LanguageModel

REWOUND_TOKENS = 4096  # that a cache which drops what no later token sees can forget again
KEEPING_KEYS = set("full_attention sliding_attention chunked_attention indexed_attention minimax_m3_sparse".split())


def decoder_layers(network: Any) -> list[nn.Module]:
    """The decoder's layers in their order."""
    lists = [list(part) for part in decoder_of(network).children() if isinstance(part, nn.ModuleList)]
    for parts in ([layer for part in lists for layer in part], network.modules()):
        if layers := [part for part in parts if isinstance(part, GradientCheckpointingLayer)]:
            return list[nn.Module](layers)
    count = network.config.num_hidden_layers  # older families have layers without a class of transformers
    return next((part for part in lists if len(part) == count), [])


def decoder_of(network: Any) -> Any:
    """The network without its head: its base model, also where its class names another attribute (Llama 4)."""
    return network.model if network.base_model is network else network.base_model


def mlps_of(network: Any) -> list[nn.Module]:
    """Its MLPs, by the names of their classes; mixtures of experts have others."""
    return [module for module in network.modules() if type(module).__name__.endswith("MLP")]


def remembers_keys_alone(network: Any) -> bool:
    """Whether its layers carry nothing from token to token but keys and values: no recurrence, no convolution."""
    kinds = set(getattr(network.config, "layer_types", None) or ())
    return not network._is_stateful and kinds <= KEEPING_KEYS  # noqa: SLF001


def describe_others(network: Any) -> str:
    """What a network has besides layers that carry keys and values alone."""
    kinds = getattr(network.config, "layer_types", None) or ()
    return "layers with compressed tokens" if any("compressed" in kind for kind in kinds) else "recurrent layers"


class LayerKeys:
    """Keys and values of one layer, of each call of attention that it makes for a tile, and the keys of its indexer.

    Args:
        capacity: tokens that will come at most.
        eight_bit: keep them as 8-bit integers with one scale a token and head.
        offload: keep them in the CPU's memory.
        drop: drop those that lie outside of the window of every later token. The others of such calls are kept in their
            own number format on the device, no state can be taken, and ``rewind`` goes back by ``REWOUND_TOKENS``.
    """

    def __init__(self, capacity: int, *, eight_bit: bool = False, offload: bool = False, drop: bool = False) -> None:
        """Allocate memory when the first tokens come."""
        self.capacity, self._drop = capacity, drop
        self._make = partial(_Store, capacity, eight_bit=eight_bit, offload=offload)
        self.calls: list[list[_Store]] = []
        self.forgets = False  # what comes: it is seen with all that is kept, and not kept
        self._next = 0

    @property
    def tokens(self) -> int:
        """How many tokens are in it."""
        return self.calls[0][0].seen if self.calls else 0

    @property
    def num_bytes(self) -> int:
        """Bytes of the memory that was allocated, scales included."""
        stores = (store for call in self.calls for store in call)
        return sum(x.nbytes for store in stores for x in (store.buffer, store.scales) if x is not None)

    def begin_tile(self) -> None:
        """Expect the first call for new tokens."""
        self._next = 0

    def update(self, *new: Tensor, window: int | None = None) -> tuple[Tensor, ...]:
        """Take those of new tokens [B, G, n, D] at the next call; return those of all tokens so far.

        Args:
            new: of the tokens.
            window: how many positions a query of this call sees, its own included; None for all. Where others are
                dropped, those that the new tokens see are returned alone, the last ones of all.
        """
        if self._next == len(self.calls):
            dropping = self._drop and window is not None and window + REWOUND_TOKENS < self.capacity
            self.calls.append([_LastTokens(window) if dropping and window else self._make() for _ in new])
        stores = self.calls[self._next]
        self._next += 1
        if self.forgets:
            return tuple(store.followed_by(part) for store, part in zip(stores, new, strict=True))
        return tuple(store.extended(part) for store, part in zip(stores, new, strict=True))

    def rewind(self, tokens: int) -> None:
        """Forget those of all tokens after the first ones; the next tokens take their place."""
        assert 0 <= tokens <= self.tokens
        for store in (store for call in self.calls for store in call):
            store.rewind(tokens)

    def state(self) -> dict[str, Tensor]:
        """What is kept of all tokens, by the number of the call and the place in it: ``0.1``, ``0.1.scales``."""
        state: dict[str, Tensor] = {}
        for number, call in enumerate(self.calls):
            for place, store in enumerate(call):
                tensors = {f"{number}.{place}": store.buffer, f"{number}.{place}.scales": store.scales}
                state |= {name: x[:, :, : store.seen] for name, x in tensors.items() if x is not None}
        return state

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take what ``state`` gave, of the same settings, into an empty cache of a model on this device."""
        assert not self.calls
        while (call := f"{len(self.calls)}.") + "0" in state:
            kept = [name for name in state if name.startswith(call) and not name.endswith("scales")]
            self.calls.append([self._make() for _ in kept])
            for place, store in enumerate(self.calls[-1]):
                store.restore(state[f"{call}{place}"], state.get(f"{call}{place}.scales"), device)


class SeveralKeys:
    """Keys and values of one layer of several texts, a row of each pass for each of them."""

    def __init__(self, rows: Sequence[LayerKeys]) -> None:
        """Take those of each text; they expect their first call for new tokens."""
        self.rows, self.capacity = rows, rows[0].capacity
        for row in rows:
            row.begin_tile()

    def update(self, *new: Tensor, window: int | None = None) -> list[tuple[Tensor, ...]]:
        """Take those of new tokens [B, G, n, D]; return those of all tokens of each text so far, [1, G, S, D]."""
        parts = (tuple(x[i : i + 1] for x in new) for i in range(len(self.rows)))
        return [row.update(*part, window=window) for row, part in zip(self.rows, parts, strict=True)]


class _Store:
    def __init__(self, capacity: int, *, eight_bit: bool, offload: bool) -> None:
        self.capacity, self.eight_bit, self.offload = capacity, eight_bit, offload
        self.seen = 0
        self.buffer: Tensor | None = None
        self.scales: Tensor | None = None

    def restore(self, kept: Tensor, scales: Tensor | None, device: torch.device) -> None:
        self.seen = kept.shape[2]
        self.buffer = self._space(kept, kept.shape[-1], kept.dtype, device)
        self.buffer[:, :, : self.seen] = kept
        if scales is not None:
            self.scales = self._space(scales, 1, scales.dtype, device)
            self.scales[:, :, : self.seen] = scales

    def rewind(self, tokens: int) -> None:
        self.seen = tokens

    def followed_by(self, new: Tensor) -> Tensor:
        """[B, G, seen + n, D]: what is kept, of one text, and after it new tokens [B, G, n, D], which are not kept."""
        assert self.buffer is not None
        assert self.scales is None
        return _joined(self.buffer[:, :, : self.seen], new)

    def extended(self, new: Tensor) -> Tensor:
        if self.buffer is None:
            buffer = self._space(new, new.shape[-1], torch.int8 if self.eight_bit else new.dtype, new.device)
            self.scales = self._space(new, 1, torch.float32, new.device) if self.eight_bit else None
            self.buffer = buffer  # when there was memory for both
        cut = slice(self.seen, self.seen + new.shape[2])
        self.seen = cut.stop
        if self.scales is None:
            self.buffer[:, :, cut] = new
            return self.buffer[:, :, : self.seen].to(new.device, non_blocking=True)
        scales = (new.abs().amax(-1, keepdim=True).float() / 127).clamp(min=1e-12)
        self.buffer[:, :, cut] = (new / scales).round().to(torch.int8)
        self.scales[:, :, cut] = scales
        whole, sizes = (x[:, :, : self.seen].to(new.device, non_blocking=True) for x in (self.buffer, self.scales))
        return torch.mul(whole, sizes, out=torch.empty_like(whole, dtype=new.dtype))  # scaled in float32

    def _space(self, like: Tensor, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        shape = (*like.shape[:2], self.capacity, width)
        if self.offload:
            return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
        return torch.empty(shape, dtype=dtype, device=device)


class _LastTokens(_Store):
    """Keys or values of the last tokens, as many as later ones see in their window, and some more to go back to."""

    def __init__(self, window: int) -> None:
        super().__init__(0, eight_bit=False, offload=False)
        self.window = window

    def rewind(self, tokens: int) -> None:
        held = self.buffer.shape[2] if self.buffer is not None else 0
        left = held - (self.seen - tokens)
        if left < min(tokens, self.window - 1):
            raise ModelError(
                f"A cache of {self.seen:,} tokens was to go back to {tokens:,}, and some layers hold {held:,}.",
                f"It goes back by {REWOUND_TOKENS:,} tokens at least, as far as they see {self.window:,} of them.",
                "Make the cache without drop.",
            )
        self.seen = tokens
        self.buffer = self.buffer[:, :, :left] if self.buffer is not None else None

    def followed_by(self, new: Tensor) -> Tensor:
        assert self.buffer is not None
        return _joined(self.buffer[:, :, max(0, self.buffer.shape[2] - self.window + 1) :], new)

    def extended(self, new: Tensor) -> Tensor:
        whole = new if self.buffer is None else torch.cat((self.buffer, new), dim=2)
        keep = self.window - 1 + REWOUND_TOKENS
        self.buffer = whole[:, :, -keep:].clone() if whole.shape[2] > 2 * keep else whole
        self.seen += new.shape[2]
        return whole[:, :, max(0, whole.shape[2] - new.shape[2] - self.window + 1) :]


def _joined(kept: Tensor, new: Tensor) -> Tensor:
    """New tokens [B, G, n, D] after those [1, G, S, D] that are kept, in each row."""
    return torch.cat((kept.to(new.device).expand(len(new), -1, -1, -1), new), dim=2)


class KeyValueCache:
    """Keys and values of all layers of one sequence, made with one set of factors; see ``LayerKeys``.

    Layers that a pass calls several times (Dory, HRM) have keys and values of each time. Models whose layers carry more
    than those have transformers' own cache in it (``native``).
    """

    def __init__(
        self, model: LanguageModel, capacity: int, *, eight_bit: bool = False, offload: bool = False, drop: bool = False
    ) -> None:
        """Reserve ``capacity`` tokens of memory, taken as layers first use it.

        Args:
            model: that fills it.
            capacity: in tokens.
            eight_bit: see ``LayerKeys``.
            offload: see ``LayerKeys``.
            drop: drop what lies outside of sliding windows, most of it in models whose layers mostly slide.

        Raises:
            ModelError: a model with recurrent layers whose states are to be kept as 8-bit integers or in the CPU's
                memory.
        """
        self.capacity, self.eight_bit, self._drop, self.forgets = capacity, eight_bit, drop, False
        self.native: NativeCache | None = None
        self._make = partial(LayerKeys, capacity, eight_bit=eight_bit, offload=offload, drop=drop)
        self._calls: dict[int, list[LayerKeys]] = {}
        self._called = Counter[int]()
        if remembers_keys_alone(model.network):
            return
        if eight_bit or offload:
            raise ModelError(
                f"The model type {model.network.config.model_type!r} has {describe_others(model.network)}.",
                "Only keys and values can be kept as 8-bit integers or in the CPU's memory.",
                "Leave that setting out.",
            )
        self.native = NativeCache(model.network)

    @property
    def layers(self) -> list[LayerKeys]:
        """Of every layer, and of each time that a pass calls it."""
        return [keys for calls in self._calls.values() for keys in calls]

    @property
    def tokens(self) -> int:
        """How many tokens are in it."""
        if self.native:
            return self.native.tokens
        return self.layers[0].tokens if self._calls else 0

    def begin_pass(self) -> None:
        """Expect the first call of every layer."""
        self._called.clear()

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """See new tokens [B, n] in each of B rows after all that is kept, and keep nothing of them, in this block.

        For caches of layers with keys and values alone, as they are; all layers have read the text before.
        """
        assert not self.native
        places: list[Any] = [self, *self.layers]
        for place in places:
            place.forgets = True
        try:
            yield
        finally:
            for place in places:
                place.forgets = False

    def keys_of(self, layer: int) -> LayerKeys:
        """Those of the next call of a layer."""
        calls, number = self._calls.setdefault(layer, []), self._called[layer]
        self._called[layer] += 1
        if number == len(calls):
            calls.append(self._make())
        return calls[number]

    def state(self) -> dict[str, Tensor]:
        """What is kept of all tokens, by the number of the layer and of its call, then as ``LayerKeys.state``."""
        return {
            f"{layer}.{time}.{name}": x
            for layer, calls in self._calls.items()
            for time, keys in enumerate(calls)
            for name, x in keys.state().items()
        }

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Take what ``state`` gave, of the same settings, into an empty cache of a model on this device."""
        by_call: dict[tuple[int, int], dict[str, Tensor]] = {}
        for name, x in state.items():
            number, time, own = name.split(".", 2)
            by_call.setdefault((int(number), int(time)), {})[own] = x
        self.begin_pass()
        for at in sorted(by_call):
            self.keys_of(at[0]).restore(by_call[at], device)

    def rewind(self, tokens: int) -> None:
        """Forget all but the first ``tokens``, so that another text can follow them.

        Recurrent states go back only to where this was called before with all tokens (raises ModelError).
        """
        if self.native:
            self.native.rewind(tokens)
        for layer in self.layers:
            layer.rewind(tokens)

    def take_back(self, tokens: int) -> bool:
        """Forget what a pass that failed has left after the first ``tokens``; whether that is possible."""
        if self.native or (self._drop and tokens):
            return False
        if tokens:
            self.rewind(tokens)
        else:
            self._calls.clear()
        return True

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes, on the device or (offloaded) in the CPU's memory."""
        return self.native.num_bytes if self.native else sum(layer.num_bytes for layer in self.layers)
