"""Methods that read near tokens exactly and far ones coarsely: a loaded model is read so inside a ``with`` block.

The formulas of their positions are those of ``rope.near_exact``. Layers that see a part of the window alone, and
layers without a rotary embedding, stay as they are. How a model rotates queries and keys is tried: a few tokens that
are turned on to other positions must have the losses that the model's own rotary module gives there.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from longrope.engine.context import ATTENTION
from longrope.engine.kv_cache import decoder_of
from longrope.engine.masks import INDEXED
from longrope.engine.parted import NEAR_EXACT, NearExact, Turning
from longrope.engine.passes import token_losses
from longrope.errors import ModelError
from longrope.models import LanguageModel, rescaled
from longrope.models.rotary import layout_of
from longrope.rope import RescaleFactors, unscaled
from longrope.rope.near_exact import Parts, dca_parts, jet_long_parts, self_extend_parts

TRIED_TOKENS, MOVED = 24, 16  # positions are multiplied, by which losses change much
NONE_WHOLE = "no layer with RoPE that sees the whole window"
MOST_ERROR, MOST_ERROR_IN_16_BITS = 0.01, 0.2  # shares of the change

_found: WeakKeyDictionary[Any, dict[str, Turning]] = WeakKeyDictionary()


def dca(model: LanguageModel, length: int, **settings: int) -> AbstractContextManager[None]:
    """Read sequences of a planned length by dual chunk attention (settings: see ``dca_parts``)."""
    return reading_in_parts(model, dca_parts(model.spec.trained_window, length, **settings))


def self_extend(model: LanguageModel, length: int, **settings: int) -> AbstractContextManager[None]:
    """Read sequences of a planned length by Self-Extend (settings: see ``self_extend_parts``)."""
    return reading_in_parts(model, self_extend_parts(model.spec.trained_window, length, **settings))


def jet_long(model: LanguageModel, length: int, **settings: int) -> AbstractContextManager[None]:
    """Read sequences of a planned length by Jet-Long (settings: see ``jet_long_parts``)."""
    return reading_in_parts(model, jet_long_parts(model.spec.trained_window, length, **settings))


def reading_in_parts(model: LanguageModel, parts: Parts | None) -> AbstractContextManager[None]:
    """Read with positions that depend on the distance, in the layers of the model's table that see the whole window.

    The model's own scaling is that of its trained window at every length. Passes of ours are changed; a call of the
    network itself is refused, for transformers' attention does not know of parts.

    Args:
        model: the model.
        parts: of the keys; None changes nothing, and gives a ``nullcontext``.

    Raises:
        ModelError: the model's attention is of a kind that this does not know.
    """
    return nullcontext() if parts is None else _reading_in_parts(model, parts)


@contextmanager
def _reading_in_parts(model: LanguageModel, parts: Parts) -> Iterator[None]:
    _refuse_unable(model)
    with rescaled(model, unscaled(model.spec)), _set(model, NearExact(parts, _turning_of(model), _layers(model))):
        handle = decoder_of(model.network).register_forward_pre_hook(partial(_refuse_others, model.network))
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def _set(model: LanguageModel, near: NearExact) -> Iterator[None]:
    if hasattr(model.network, NEAR_EXACT):
        raise RuntimeError("positions depend on the distance already, and such methods do not nest")
    setattr(model.network, NEAR_EXACT, near)
    try:
        yield
    finally:
        delattr(model.network, NEAR_EXACT)


def _refuse_others(network: Any, *_: Any) -> None:
    """Raise ModelError unless the decoder is called by a pass of ours."""
    if network.config._attn_implementation == ATTENTION:  # noqa: SLF001  # there is no public way to ask
        return
    raise ModelError(
        f"The network {type(network).__name__} is called itself while far keys have coarser positions.",
        "Passes of longrope's own attention alone know of them.",
        "Measure losses, passkeys, needles or RULER; benchmarks and transformers' own caches need a method of factors.",
    )


def _layers(model: LanguageModel) -> frozenset[int]:
    return frozenset(model.table.layers)


def _refuse_unable(model: LanguageModel) -> None:
    """Raise ModelError for attention of a kind that is not known here."""
    config = model.network.config
    kinds = set(getattr(config, "layer_types", None) or ())
    reasons = {
        "latent attention, which rotates a part of its own": getattr(config, "kv_lora_rank", None) is not None,
        "an indexer that chooses keys by their positions": INDEXED in kinds,
        "layers with compressed tokens": any("compressed" in kind for kind in kinds),
        NONE_WHOLE: model.table.slides,
    }
    for reason in (reason for reason, found in reasons.items() if found):
        raise _unable(model, reason)


def _unable(model: LanguageModel, reason: str) -> ModelError:
    return ModelError(
        f"The model type {model.network.config.model_type!r} has {reason}.",
        "Near tokens are exact and far ones coarse in layers that attend to all keys, rotated one by one.",
        "Use a method of factors.",
    )


def _turning_of(model: LanguageModel) -> Turning:
    """How the model's queries and keys turn, tried once for each table of a network."""
    found = _found.setdefault(model.network, {})
    if model.table.name not in found:
        found[model.table.name] = _find_turning(model)
    return found[model.table.name]


def _find_turning(model: LanguageModel) -> Turning:
    """How the model's queries and keys turn: by its table, in both orders of the entries of pairs and both directions.

    Raises:
        ModelError: no layer sees the whole window, or none of them gives the losses of the model's own rotary module at
            other positions.
    """
    spec, table = model.spec, model.table
    columns = (table.layout or layout_of(spec)).columns
    rates = [0.0 if pair < 0 else float(spec.frequencies[pair]) for pair in columns]
    tokens = (torch.arange(1, TRIED_TOKENS + 1) * 37 % min(model.network.config.vocab_size, 1000))[None]
    slower = RescaleFactors((1 / MOVED,) * spec.num_pairs, spec.trained_window, spec.fingerprint, relaxed=True)
    with rescaled(model, unscaled(spec)):
        plain = token_losses(model, tokens)
    with rescaled(model, slower):
        expected = token_losses(model, tokens)
    allowed = MOST_ERROR if model.network.dtype in (torch.float32, torch.float64) else MOST_ERROR_IN_16_BITS
    pairs, stated = _rates_of_pairs(rates, spec.num_pairs), spec.pairing == "interleaved"
    for interleaved, sign in ((stated, 1), (not stated, 1), (stated, -1), (not stated, -1)):
        turning = Turning(tuple(sign * rate for rate in pairs), interleaved)
        near = NearExact(None, turning, _layers(model), moved=lambda at: at * MOVED)
        with rescaled(model, unscaled(spec)), _set(model, near):
            found = token_losses(model, tokens)
        if not near.whole:
            raise _unable(model, NONE_WHOLE)
        if _change(found, expected) < allowed * _change(expected, plain):
            return turning
    raise ModelError(
        f"How the model type {model.network.config.model_type!r} rotates queries and keys is not known.",
        f"Turned to {MOVED} times their positions they must have the losses of its own rotary module there.",
        "Use a method of factors, and please report this model type.",
    )


def _change(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().mean())


def _rates_of_pairs(rates: list[float], num_pairs: int) -> tuple[float, ...]:
    """Radians per token of each pair of entries, from those of the columns of cos and sin."""
    if len(rates) == num_pairs:  # one column a pair
        return tuple(rates)
    repeated = rates[::2] == rates[1::2]  # pair after pair; otherwise all pairs, and all of them again
    return tuple(rates[::2] if repeated else rates[: len(rates) // 2])
