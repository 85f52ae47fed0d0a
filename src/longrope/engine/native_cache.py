"""transformers' own cache, for models whose layers carry recurrent states or convolutions beside keys and values.

Whether a family goes on right from its cache depends on its code in transformers (see ``decoding.check_continues``).
"""

import copy
import sys
from collections.abc import Iterator
from inspect import signature
from typing import Any

from torch import Tensor
from transformers import DynamicCache

from longrope.errors import ModelError


class NativeCache:
    """The states of all layers of one sequence."""

    def __init__(self, network: Any) -> None:
        """Be empty."""
        self.cache = _make_cache(network)
        self.tokens = 0
        self.checked = False  # whether pieces that are read into it have been seen to give the logits of a whole text
        self._argument = cache_argument(network)
        self._kept: tuple[int, Any] | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """What a decoder is to be given beside its tokens."""
        return {self._argument: self.cache, "use_cache": True}

    @property
    def num_bytes(self) -> int:
        """Bytes of all states."""
        return sum(x.nbytes for part in (self.cache, *self.cache.layers) for x in tensors_in(vars(part)))

    def rewind(self, tokens: int) -> None:
        """Go back to where ``rewind`` was called before; called for all tokens, it keeps that place.

        Raises:
            ModelError: a place that was not kept, for states have no way back.
        """
        if tokens == self.tokens:
            self._kept = tokens, _copied(self.cache)
        elif self._kept is not None and self._kept[0] == tokens:
            self.cache = _copied(self._kept[1])
            self.tokens = tokens
        else:
            raise ModelError(
                f"A cache of {self.tokens:,} tokens is to go back to {tokens:,}, where nothing was kept.",
                "Recurrent states do not go back; `rewind` with all tokens keeps their place.",
                "Call rewind once before what is to be forgotten, or read into a new cache.",
            )


def cache_argument(network: Any) -> str:
    """The name by which a network takes transformers' cache; ``past_key_values`` before 5.24."""
    return "cache" if "cache" in signature(network.forward).parameters else "past_key_values"


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | tuple | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)


def _make_cache(network: Any) -> Any:
    """An empty cache of transformers, of the family's own class where it has one (MiniMax)."""
    module = type(network).__module__
    kinds = [kind for kind in vars(sys.modules[module]).values() if isinstance(kind, type)]
    own = [kind for kind in kinds if issubclass(kind, DynamicCache) and kind.__module__ == module]
    return own[0]() if own else DynamicCache(config=network.config)


def _copied(cache: Any) -> Any:
    """A cache with states of its own; keys and values are shared, for new ones take their place when they grow."""
    shared = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return copy.deepcopy(cache, {id(x): x for x in shared})
