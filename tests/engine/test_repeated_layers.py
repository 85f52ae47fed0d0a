"""Caches of families whose layers are called several times, and of those whose own caches need care."""

from collections import Counter
from itertools import pairwise
from typing import Any

import families
import pytest
import torch
from long_passes import set_tile
from torch import Tensor, nn
from transformers import DynamicCache

from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache, decoder_layers
from longrope.engine.native_cache import cache_argument
from longrope.engine.passes import token_losses
from longrope.models import LanguageModel, read_tables

REPEATED = [family for family in ("dory", "hrm_text") if family in families.TYPES]  # older versions have one of them
TOKENS = torch.randint(1, families.VOCABULARY, (1, 48), generator=torch.Generator().manual_seed(3))
PIECES = (0, 5, 19, 20, 33, 34, 48)  # where the pieces begin that are read


def read(model: LanguageModel, cache: KeyValueCache, *ends: int) -> list[Tensor]:
    """Logits [V] at the end of each piece."""
    return [prefill(model, TOKENS[:, begin:end], cache)[0] for begin, end in pairwise(ends)]


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in REPEATED),
        ("minimax", {}),
        ("minimax", {"layer_types": ["linear_attention", "full_attention"] * 2, "num_hidden_layers": 4}),
    ],
)
def test_pieces_have_the_logits_of_the_whole(
    family: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In tiles that divide no piece, too, and after the cache has gone back."""
    set_tile(monkeypatch, 4)
    model = families.make_model(family, **changes)
    with torch.inference_mode():
        whole = model.network(TOKENS, use_cache=False).logits[0, [end - 1 for end in PIECES[1:]]]
    cache = KeyValueCache(model, 48)
    first = read(model, cache, *PIECES[:4])
    cache.rewind(20)
    rest = read(model, cache, *PIECES[3:])
    torch.testing.assert_close(torch.stack(first + rest), whole, rtol=1e-4, atol=1e-4)
    assert cache.tokens == 48
    cache.rewind(20)
    assert cache.tokens == 20
    torch.testing.assert_close(torch.stack(read(model, cache, *PIECES[3:])), whole[3:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", REPEATED)
def test_a_cache_has_the_keys_of_every_call(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a layer that works in tiles sees those of its own call alone."""
    set_tile(monkeypatch, 7)
    model, calls = families.make_model(family), Counter[nn.Module]()
    for layer in decoder_layers(model.network):
        layer.register_forward_pre_hook(lambda layer, _: calls.update([layer]))
    with torch.inference_mode():
        wanted = model.network(TOKENS, use_cache=False).logits[0, :-1].log_softmax(-1)
    cache, wanted_calls = KeyValueCache(model, 48), calls.total()
    assert max(calls.values()) > 1
    read(model, cache, 0, 48)
    assert len(cache.layers) == wanted_calls
    assert {keys.tokens for keys in cache.layers} == {48}
    losses = -wanted.gather(1, TOKENS[0, 1:, None])[:, 0]
    torch.testing.assert_close(token_losses(model, TOKENS)[0], losses, rtol=1e-4, atol=1e-4)


def test_single_tokens_have_the_least_time_step_of_a_whole_text() -> None:
    """Zamba2's own code limits time steps where it reads several tokens alone, which shows with a large limit."""
    network = families.build_network("zamba2", time_step_min=0.5)
    model = LanguageModel(network, None, read_tables(network.config), "zamba2")
    with torch.inference_mode():
        whole = network(TOKENS, use_cache=False).logits[0, 39:]
        cache = DynamicCache(config=network.config)
        spans = [(0, 40), *((n, n + 1) for n in range(40, 48))]
        given = {cache_argument(network): cache, "use_cache": True}
        own = [network(TOKENS[:, a:b], position_ids=torch.arange(a, b)[None], **given).logits[0, -1] for a, b in spans]
    assert (torch.stack(own) - whole).abs().max() > 0.1 * whole.std()
    found = read(model, KeyValueCache(model, 48), 0, *range(40, 49))
    torch.testing.assert_close(torch.stack(found), whole, rtol=1e-3, atol=1e-3)
