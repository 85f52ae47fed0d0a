"""Passes of families that attend in ways of their own, against their eager attention with whole masks.

These have sinks, chunks, sliding windows, keys that layers share, a temperature that grows with the position, values
that are narrower than keys, or call no attention that can be replaced.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from attending import CHANGES, FAMILIES, HYBRIDS, TOKENS, as_model, eager_losses, gradients, make_network, sinks_of
from long_passes import compute_losses, hooked, set_tile
from torch import Tensor

from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.errors import ModelError
from longrope.models import LanguageModel

PIECES = (0, 5, 19, 20, 33, 34, 48)  # where the pieces of a window begin that are read into a cache
WEIGHTS = np.full((2, 47), 1 / 94)
ALL = {**FAMILIES, **HYBRIDS, "recurrent_gemma": {"lru_width": 64, "head_dim": 16, "num_key_value_heads": 1}}
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def model_of() -> Callable[[str], LanguageModel]:
    """Models that are made once and never changed."""
    made: dict[str, LanguageModel] = {}

    def get(family: str) -> LanguageModel:
        if family not in made:
            made[family] = as_model(make_network(family, **ALL[family]))
        return made[family]

    return get


@pytest.mark.parametrize("tile", [7, 1, 47, 48])
@pytest.mark.parametrize("family", ALL)
def test_losses_are_those_of_eager_attention(
    family: str, tile: int, model_of: Callable[[str], LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one piece and in tiles; those whose layers carry a state are read in one piece in any case."""
    set_tile(monkeypatch, tile, rows=2)
    model = model_of(family)
    losses = token_losses(model, TOKENS).double()
    torch.testing.assert_close(losses, eager_losses(model.network), rtol=1e-5, atol=5e-5)


@every_family
def test_tiles_reach_the_layers(
    family: str, model_of: Callable[[str], LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No layer of these sees more than a tile at once."""
    set_tile(monkeypatch, 7, rows=2)
    model, seen = model_of(family), set[int]()
    down = next(m for m in model.network.modules() if isinstance(m, torch.nn.Linear))
    with hooked(down, lambda _, args: seen.add(args[0].shape[-2])):
        token_losses(model, TOKENS)
    assert max(seen) <= 7


@pytest.mark.parametrize("family", CHANGES)
def test_what_a_family_attends_by_shows_in_its_losses(family: str, model_of: Callable[[str], LanguageModel]) -> None:
    """So that its absence is noticed by the tests above."""
    plain = eager_losses(make_network(family, **CHANGES[family]))
    assert (plain - eager_losses(model_of(family).network)).abs().max() > 0.05


@every_family
def test_a_cache_gives_the_logits_of_a_whole_pass(family: str, model_of: Callable[[str], LanguageModel]) -> None:
    """However the tokens are cut into pieces."""
    model = model_of(family)
    whole = model.network(TOKENS[:1], use_cache=False).logits[0]
    cache = KeyValueCache(model, 48)
    for begin, end in pairwise(PIECES):
        logits = prefill(model, TOKENS[:1, begin:end], cache)
        torch.testing.assert_close(logits[0], whole[end - 1], rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("recompute", [True, False])
@every_family
def test_gradients_are_those_of_eager_attention(family: str, recompute: bool) -> None:
    """Of the embedding, which all layers reach, and of the sinks."""
    network = make_network(family)
    wanted = [*sinks_of(network), network.get_input_embeddings().weight]
    for weight in wanted:
        weight.requires_grad_()
    ours = weighted_loss_with_graph(as_model(network), TOKENS, WEIGHTS, recompute=recompute)
    for found, expected in zip(gradients(ours, wanted), gradients(eager_losses(network).mean(), wanted), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_documents_keep_their_own_sinks() -> None:
    """Each document of a window has the losses that it has alone."""
    model = as_model(make_network("gpt_oss"))
    starts = (0, 5, 30)
    losses = token_losses(model, TOKENS[:1], documents=(starts,), positions=_restarting(starts)[None])[0]
    for begin, end in zip(starts, (*starts[1:], 48), strict=True):
        alone = eager_losses(model.network, TOKENS[:1, begin:end])[0]
        torch.testing.assert_close(losses[begin : end - 1].double(), alone, rtol=1e-5, atol=5e-5)


def _restarting(starts: tuple[int, ...]) -> Tensor:
    return torch.cat([torch.arange(b - a) for a, b in zip(starts, (*starts[1:], 48), strict=True)])


# What is refused


def test_attention_to_later_tokens_is_refused() -> None:
    """A config that turns causality off would be read as a causal one."""
    model = as_model(make_network("gemma3_text"))
    model.network.config.is_causal = False
    with pytest.raises(ModelError, match="'gemma3_text' asks for a mask with later tokens"):
        token_losses(model, TOKENS)


def test_adapted_modules_are_as_they_were() -> None:
    """After a pass, Falcon's own attention runs with its own config."""
    for family in ("falcon", "gpt_neox_japanese", "llama4_text"):
        model = as_model(make_network(family))
        before = [dict(module.__dict__) for module in model.network.modules()]
        expected = compute_losses(model.network, TOKENS)
        token_losses(model, TOKENS)
        assert [dict(module.__dict__) for module in model.network.modules()] == before
        assert torch.equal(compute_losses(model.network, TOKENS), expected)
