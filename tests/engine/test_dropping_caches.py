"""Caches that drop what lies outside of sliding windows: the same logits, less memory, and how far they go back."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pico
import pytest
import torch
from generating import DOCUMENT, PROMPT, SHORT, make_table
from long_passes import TOKENS, make_factors, set_tile
from torch import Tensor

from longrope.engine import kv_cache
from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache, LayerKeys
from longrope.errors import ModelError
from longrope.generation import generate
from longrope.models import LanguageModel, rescaled

MIXED: dict[str, Any] = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "head_dim": 16}
MODELS: dict[str, dict[str, Any]] = {
    "gemma3_text": MIXED,
    "gemma2": {"sliding_window": 8},
    "mistral": {"sliding_window": 8},
}
BACK = 5


def go_back_by(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many tokens can be taken back from a cache."""
    monkeypatch.setattr(kv_cache, "REWOUND_TOKENS", tokens)


@pytest.fixture(autouse=True)
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """They go back by few tokens."""
    go_back_by(BACK, monkeypatch)


def read_pieces(model: LanguageModel, cache: KeyValueCache, pieces: tuple[int, ...]) -> Tensor:
    """[pieces, V] logits at the end of each piece of the first 48 tokens."""
    ends = np.cumsum((0, *pieces))
    return torch.cat([prefill(model, TOKENS[:1, a:b], cache) for a, b in pairwise(ends)])


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("pieces", [(48,), (20, *(1,) * 28), (3, 30, 15), (1,) * 48], ids=len)
@pytest.mark.parametrize("tile", [7, 65536])
def test_logits_are_those_of_the_whole(
    family: str, pieces: tuple[int, ...], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pico.make_model(family, **MODELS[family])
    set_tile(monkeypatch, tile, rows=1)
    with rescaled(model, make_factors(model)), torch.no_grad():
        whole = model.network(TOKENS[:1], use_cache=False).logits[0, np.cumsum(pieces) - 1]
        cache = KeyValueCache(model, 48, drop=True)
        logits = read_pieces(model, cache, pieces)
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4 * whole.abs().max().item())
    assert cache.tokens == 48


def test_what_no_later_token_sees_takes_no_memory() -> None:
    """Of a layer that slides, no more than twice the window and what it goes back by."""
    model = pico.make_model("gemma3_text", **MIXED)
    caches = [KeyValueCache(model, 48, drop=drop) for drop in (False, True)]
    for cache in caches:
        read_pieces(model, cache, (30, *(1,) * 18))
    whole, less = (cache.layers[0].num_bytes for cache in caches)
    assert less <= whole * 2 * (8 - 1 + BACK) / 48
    assert caches[0].layers[1].num_bytes == caches[1].layers[1].num_bytes, "a layer that sees all"


def test_eight_bits_and_offloading_are_for_the_layers_that_see_all() -> None:
    model = pico.make_model("gemma3_text", **MIXED)
    full, small, away = (
        KeyValueCache(model, 48, drop=True, **how) for how in ({}, {"eight_bit": True}, {"offload": True})
    )
    expected, given, same = (read_pieces(model, cache, (30, *(1,) * 18)) for cache in (full, small, away))
    assert torch.equal(expected, same)
    assert 0 < (given - expected).abs().mean() < 0.05 * expected.std()
    assert small.layers[0].num_bytes == full.layers[0].num_bytes
    assert small.layers[1].num_bytes < full.layers[1].num_bytes


def test_it_goes_back_as_far_as_said_and_no_further() -> None:
    model = pico.make_model("gemma3_text", **MIXED)
    rewound, fresh = (KeyValueCache(model, 48, drop=True) for _ in range(2))
    for cache in (rewound, fresh):
        prefill(model, TOKENS[:1, :40], cache)
    for others in (TOKENS[1:2, 40 : 40 + BACK], TOKENS[1:2, 40:41]):
        prefill(model, others, rewound)
        rewound.rewind(40)
        assert [layer.tokens for layer in rewound.layers] == [40, 40]
    there, here = (prefill(model, TOKENS[:1, 40:48], cache) for cache in (rewound, fresh))
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="A cache of 48 tokens was to go back to 10"):
        rewound.rewind(10)


def test_a_cache_that_a_window_nearly_fills_keeps_all() -> None:
    new = torch.randn(1, 2, 4, 8)
    keys = LayerKeys(8 + BACK, drop=True)
    for _ in range(3):
        keys.begin_tile()
        (held,) = keys.update(new, window=8)
    assert held.shape[2] == 12


@pytest.mark.parametrize("how", [{}, {"eight_bit": True}, {"offload": True}], ids=str)
def test_answers_are_as_from_a_cache_that_keeps_all(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A document read in tiles, answered by a model of which one layer slides over a small part of it."""
    model, settings = pico.make_model("gemma3_text", **MIXED), replace(SHORT, **how)
    set_tile(monkeypatch, 32, rows=1)
    dropping = generate(model, make_table(model), DOCUMENT, PROMPT, settings=settings)
    go_back_by(10**9, monkeypatch)
    whole = generate(model, make_table(model), DOCUMENT, PROMPT, settings=settings)
    assert dropping.text == whole.text
    assert dropping.cache_bytes < 0.75 * whole.cache_bytes
