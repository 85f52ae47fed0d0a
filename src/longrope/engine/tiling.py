"""Layers, norms and MLPs that work on tiles of tokens, so that a pass holds the activations of a tile alone.

Shape legend: B = batch, N = tokens of a window, H = hidden size.
"""

from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longrope.engine import compiling
from longrope.engine.context import Forwards, active_context
from longrope.engine.kv_cache import KeyValueCache, LayerKeys, decoder_layers, decoder_of, mlps_of
from longrope.errors import ModelError
from longrope.models import LanguageModel

LayerChange = Callable[[Callable[..., Any], int], Callable[..., Any]]
"""(forward of a layer, its index) -> what to call instead."""


def changed_layers(network: Any, change: LayerChange) -> Forwards:
    """Other forwards of the decoder's layers."""
    return {layer: change(layer.forward, index) for index, layer in enumerate(decoder_layers(network))}


def norms_in_tiles(network: Any, tile: int) -> Forwards:
    """Forwards of the decoder's last norm that work on tiles.

    transformers has no base class for norms or MLPs and gives them no common attribute; what its families share are the
    names of their classes (``LlamaRMSNorm``, ``LlamaMLP``). A module of another name works on all tokens at once, which
    takes more memory and gives the same numbers.
    """
    norms = [child for child in decoder_of(network).children() if "Norm" in type(child).__name__]
    return {norm: partial(_norm_in_tiles, norm.forward, tile) for norm in norms}


def mlps_in_tiles(network: Any, tile: int) -> Forwards:
    """Forwards of the layers' MLPs that work on tiles; they are found as norms are."""
    return {mlp: partial(_mlp_in_tiles, mlp.forward, tile) for mlp in mlps_of(network)}


def layer_in_tiles(
    model: LanguageModel, forward: Any, index: int, *, tile: int, cache: KeyValueCache | None
) -> Callable[..., Any]:
    """A layer that takes tiles of tokens in turn and puts its output in the place of its input.

    Our attention keeps its keys and values, so each tile sees those of the tiles before.
    """
    if model.compiled:
        forward = partial(compiling.compiled(forward.__func__), forward.__self__)

    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        # several states of each token stand before the rows in Gemma-3n, and after the tokens in HY-V4
        axis = 1 if hidden.shape[:2] == active_context().given else hidden.ndim - 2
        tokens = hidden.shape[axis]
        if cache is None and tokens <= tile:
            return forward(hidden, *args, **kwargs)
        keys = cache.keys_of(index) if cache else LayerKeys(tokens)
        others, in_tuple = [], False
        with active_context().caching(keys):
            for first in range(0, tokens, tile):
                cut = slice(first, min(first + tile, tokens))
                keys.begin_tile()
                given = {name: _cut(value, cut, tokens) for name, value in kwargs.items()}
                part = hidden.narrow(axis, first, cut.stop - first)
                output = forward(part, *(_cut(value, cut, tokens) for value in args), **given)
                in_tuple = isinstance(output, tuple)
                part.copy_(output[0] if in_tuple else output)
                others.append(output[1:] if in_tuple else ())
                del output  # the next tile has its space
        if cache is None:
            check_keys(model.network, keys, tokens)
        return (hidden, *map(_joined, zip(*others, strict=True))) if in_tuple else hidden

    return run


def _joined(parts: tuple[Any, ...]) -> Any:
    """What a layer returns for its tiles beside hidden states: later layers are given what an indexer chose."""
    last = parts[-1]
    return torch.cat(parts, dim=1) if isinstance(last, Tensor) and last.dtype == torch.int32 else last


def check_keys(network: Any, keys: LayerKeys, tokens: int) -> None:
    """Raise ModelError unless a layer has handed over the keys of just so many tokens."""
    if keys.tokens != tokens:
        raise ModelError(
            f"A layer of the model type {network.config.model_type!r} has read {tokens:,} tokens and kept the keys of "
            f"{keys.tokens:,}.",
            "Tiles and caches need layers that carry keys and values alone.",
            "Read shorter texts, and please report this model type.",
        )


def _cut(value: Any, cut: slice, tokens: int) -> Any:
    """The part of an argument of a layer that belongs to a tile.

    Tensors [B, N, ...] and [B, 1, N, ...] are cut, alone or in tuples. Layers that share keys and values hand them over
    in a dict. Each tile has one of its own, kept in the dict that all layers are given.
    """
    if isinstance(value, MutableMapping) and cut != slice(0, tokens):
        return value.setdefault(cut.start, type(value)())
    if isinstance(value, tuple):
        return tuple(_cut(part, cut, tokens) for part in value)
    if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == tokens:
        return value[:, cut]
    if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1:3] == (1, tokens):  # of queries of all heads
        return value[:, :, cut]
    return value


def _norm_in_tiles(forward: Any, tile: int, hidden: Tensor) -> Tensor:
    """The last norm of a decoder, in place where nothing needs its input again."""
    if hidden.shape[1] <= tile or torch.is_grad_enabled():
        return forward(hidden)  # type: ignore[no-any-return]
    for part in hidden.split(tile, dim=1):
        part.copy_(forward(part))
    return hidden


def _mlp_in_tiles(forward: Any, tile: int, hidden: Tensor, *others: Any) -> Any:
    if hidden.ndim < 3 or hidden.shape[1] <= tile:
        return forward(hidden, *others)
    if any(isinstance(x, Tensor) for x in others):
        raise ModelError(
            "An MLP of the model takes other tensors beside the hidden states.",
            "Which of their rows belong to a tile of tokens is not known.",
            "Give shorter windows; this model type is not supported in tiles.",
        )
    work = (lambda part: forward(part, *others)) if others else forward
    if torch.is_grad_enabled():
        work = partial(checkpoint, work, use_reentrant=False)
    found = [work(part) for part in hidden.split(tile, dim=1)]
    if isinstance(found[0], tuple):  # GPT-OSS gives its router's scores beside them, which its layers leave
        return (torch.cat([part[0] for part in found], dim=1), *found[-1][1:])
    return torch.cat(found, dim=1)
