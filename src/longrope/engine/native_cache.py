"""transformers' own cache, for models whose layers carry recurrent states or convolutions beside keys and values.

Whether a family goes on right from its cache depends on its code in transformers, so it is tried on a few tokens first.
"""

import copy
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from longrope.errors import ModelError

PROBE_TOKENS, PROBE_PIECES = 24, (0, 9, 17, 18, 19, 23)  # long pieces and single tokens, as prompts and answers come
MOST_ERROR, MOST_ERROR_IN_16_BITS = 1e-3, 0.3  # of logits, by their standard deviation; roundings of 16 bits are large
REMEDY = "Decode with transformers' own `generate`, inside `longrope.rescaled`, if it is right there."


class NativeCache:
    """The states of all layers of one sequence."""

    def __init__(self, network: Any) -> None:
        """Be empty; raises ModelError for a family that does not go on right from its cache."""
        _check_continues(network)
        self.cache = DynamicCache(config=network.config)
        self.tokens = 0
        self._argument = cache_argument(network)
        self._kept: tuple[int, list[Any]] | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """What a decoder is to be given beside its tokens."""
        return {self._argument: self.cache, "use_cache": True}

    @property
    def num_bytes(self) -> int:
        """Bytes of all states."""
        return sum(x.nbytes for layer in self.cache.layers for x in _tensors(vars(layer)))

    def rewind(self, tokens: int) -> None:
        """Go back to where ``rewind`` was called before; called for all tokens, it keeps that place.

        Raises:
            ModelError: a place that was not kept, for states have no way back.
        """
        if tokens == self.tokens:
            self._kept = tokens, _copied(self.cache.layers)
        elif self._kept is not None and self._kept[0] == tokens:
            self.cache.layers = _copied(self._kept[1])
            self.tokens = tokens
        else:
            raise ModelError(
                f"A cache of {self.tokens:,} tokens is to go back to {tokens:,}, where nothing was kept.",
                "Recurrent states do not go back; `rewind` with all tokens keeps their place.",
                "Call rewind once before what is to be forgotten, or read into a new cache.",
            )


def cache_argument(network: Any) -> str:
    """The name by which a network takes transformers' cache; it was ``past_key_values`` once."""
    return "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _copied(layers: list[Any]) -> list[Any]:
    """Layers with states of their own; keys and values are shared, for new ones take their place when they grow."""
    shared = [[getattr(layer, name, None) for name in ("keys", "values")] for layer in layers]
    return [copy.deepcopy(layer, {id(x): x for x in own}) for layer, own in zip(layers, shared, strict=True)]


def _check_continues(network: Any) -> None:
    """Raise ModelError unless pieces read into a cache have the logits of one pass."""
    kind = network.config.model_type
    device = next(network.parameters()).device
    tokens = (torch.arange(PROBE_TOKENS, device=device) * 37 % network.config.vocab_size)[None]
    try:
        with torch.inference_mode():
            whole = network(tokens, use_cache=False).logits[0].double()
            pieces = torch.cat(list(_read_pieces(network, tokens)))
    except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        said, _, _ = str(error).partition("\n")
        raise ModelError(
            f"The model type {kind!r} cannot be decoded: {type(error).__name__}: {said}",
            "Its layers carry more than keys and values, so it must go on from transformers' DynamicCache.",
            REMEDY,
        ) from error
    ends = [end - 1 for _, end in _spans()]
    error_found = ((pieces - whole[ends]).abs().max() / whole.std()).item()
    exact = network.dtype.itemsize > 2 or hasattr(network, "_setup_cache")  # by which modules keep states themselves
    allowed = MOST_ERROR if exact else MOST_ERROR_IN_16_BITS
    if not error_found <= allowed:  # NaN, too
        raise ModelError(
            f"The model type {kind!r} does not go on right from a cache: its logits are off by {error_found:.2g} of "
            "their standard deviation.",
            f"Pieces of a text must have the logits of the whole, within {allowed:g}; its layers carry more than keys "
            "and values, and transformers does not keep all of it from piece to piece.",
            REMEDY,
        )


def _spans() -> list[tuple[int, int]]:
    return list(pairwise((*PROBE_PIECES, PROBE_TOKENS)))


def _read_pieces(network: Any, tokens: Tensor) -> Iterator[Tensor]:
    cache, name = DynamicCache(config=network.config), cache_argument(network)
    for begin, end in _spans():
        positions = torch.arange(begin, end, device=tokens.device)[None]
        given = {"position_ids": positions, name: cache, "use_cache": True}
        yield network(tokens[:, begin:end], **given).logits[:, -1].double()
