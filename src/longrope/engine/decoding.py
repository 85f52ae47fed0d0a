"""Decoding: a prompt is read into a cache of keys and values, then the answer is written token by token."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longrope.engine.compiling import many_variants
from longrope.engine.context import ForwardContext, run_decoder
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.loss import logits_of
from longrope.engine.memory import choose_tile
from longrope.engine.passes import Tokens
from longrope.engine.shrinking import retry_in_less_memory
from longrope.engine.tiling import changed_layers, check_keys, layer_in_tiles, mlps_in_tiles, norms_in_tiles
from longrope.errors import LongRopeError, ModelError, describe_error
from longrope.models import LanguageModel, at_length

PROBE_TOKENS, PROBE_PIECES = 24, (0, 9, 17, 18, 19, 23)  # long pieces and single tokens, as prompts and answers come
MOST_ERROR, MOST_ERROR_IN_16_BITS = 1e-3, 0.3  # of logits, by their standard deviation; roundings of 16 bits are large
REMEDY = "Decode with transformers' own `generate`, inside `longrope.rescaled`, if it is right there."


def prefill(model: LanguageModel, tokens: Tokens, cache: KeyValueCache) -> Tensor:
    """Read tokens [1, n] after those in the cache, in tiles, and keep their keys and values there.

    Processes that share sequences elsewhere have this one whole each.

    Returns:
        [1, V] float32 logits of what follows the last one.

    Raises:
        ModelError: the cache has no space for them, or is transformers' own and the model does not go on right from it.
    """
    return read_all(model, tokens, cache, 1)[:, 0]


def read_all(model: LanguageModel, tokens: Tokens, cache: KeyValueCache, last: int) -> Tensor:
    """Read tokens [1, n] into a cache, as ``prefill`` does; the logits [1, last, V] after each of the last ones.

    A cache that is ``forgetting`` takes tokens [B, n], of B texts that each follow what is in it.
    """
    if cache.native and not cache.native.checked:
        check_continues(model)
        cache.native.checked = True
    count = tokens.shape[1]
    end = cache.tokens + count
    if end > cache.capacity:
        raise ModelError(
            f"{count:,} tokens are to follow {cache.tokens:,} in a cache of {cache.capacity:,}.",
            "A cache holds as many tokens as it was made for.",
            "Make a larger one.",
        )
    begun = cache.tokens
    work, undo = partial(_read_all, model, tokens, cache, last, begun), partial(cache.take_back, begun)
    return retry_in_less_memory(model, tokens.shape[0] * count, work, undo)


def _read_all(model: LanguageModel, tokens: Tokens, cache: KeyValueCache, last: int, begun: int) -> Tensor:
    rows, count = tokens.shape
    end = begun + count
    tile = count if cache.forgets else choose_tile(model)[0]
    cache.begin_pass()
    with torch.inference_mode(), many_variants(compiled=model.compiled), at_length(model, cache.capacity):
        given: dict[str, Any] = {
            "input_ids": torch.as_tensor(tokens, dtype=torch.long).to(model.device),
            "position_ids": torch.arange(begun, end, device=model.device).expand(rows, -1),
        }
        if cache.native:
            given |= cache.native.inputs
            forwards = mlps_in_tiles(model.network, tile)
        else:
            forwards = changed_layers(model.network, partial(layer_in_tiles, model, tile=tile, cache=cache))
        forwards |= norms_in_tiles(model.network, tile)
        hidden = run_decoder(ForwardContext(model.network, forwards), given)
        if cache.native:
            cache.native.tokens = end
        for keys in cache.layers:
            check_keys(model.network, keys, begun if cache.forgets else end)
        return logits_of(model.network, hidden[:, -last:]).float()


def read_prompt(
    model: LanguageModel,
    tokens: Sequence[int] | NDArray[np.integer[Any]],
    cache: KeyValueCache,
    on_read: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """Read a prompt after what is in the cache, tile by tile, so that memory holds the hidden states of one tile.

    Args:
        model: run in its current state.
        tokens: of the prompt, one or more.
        cache: with space for them.
        on_read: called after each tile with the number of tokens in the cache.

    Returns:
        [V] float32 logits of the token that follows.

    Raises:
        ModelError: the cache has no space for them.
    """
    tile = choose_tile(model)[0]
    for first in range(0, len(tokens), tile):
        logits = prefill(model, np.asarray([tokens[first : first + tile]]), cache)
        on_read(cache.tokens)
    return logits[0]


def decode(
    model: LanguageModel, logits: Tensor, cache: KeyValueCache, choose: Callable[[Tensor], int], most_tokens: int
) -> Iterator[int]:
    """Write an answer token by token, until the model ends it or it is full.

    A token enters the cache when the next one is asked for, so the caller may stop after any token.

    Args:
        model: run in its current state.
        logits: [V] of the first token, by ``read_prompt``.
        cache: what was read; with space for all tokens of the answer but the last.
        choose: takes the next token from its logits [V].
        most_tokens: of the answer.

    Yields:
        The tokens of the answer; an end token is no part of it. Fewer than ``most_tokens`` if the model ended it.
    """
    ends = model.end_tokens
    for count in range(1, most_tokens + 1):
        token = choose(logits)
        if token in ends:
            return
        yield token
        if count < most_tokens:
            logits = prefill(model, np.asarray([[token]]), cache)[0]


def check_continues(model: LanguageModel) -> None:
    """Raise ModelError unless pieces of a text that are read into transformers' own cache have the logits of one pass.

    For models whose layers carry more than keys and values. Tried on a few tokens, with the factors at work.
    """
    network, kind = model.network, model.network.config.model_type
    tokens = (torch.arange(PROBE_TOKENS, device=model.device) * 37 % network.config.vocab_size)[None]
    try:
        with torch.inference_mode(), at_length(model, PROBE_TOKENS):
            whole = network(tokens, use_cache=False).logits[0].double()
        pieces = torch.cat(list(_read_pieces(model, tokens)))
    except LongRopeError:
        raise
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"The model type {kind!r} cannot be decoded: {describe_error(error)}.",
            "Its layers carry more than keys and values, so it must go on from transformers' own cache.",
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


def _read_pieces(model: LanguageModel, tokens: Tensor) -> Iterator[Tensor]:
    cache = KeyValueCache(model, PROBE_TOKENS)
    assert cache.native
    cache.native.checked = True
    for begin, end in _spans():
        yield prefill(model, tokens[:, begin:end], cache).double()
