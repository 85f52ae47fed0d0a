"""Models that the long pass refuses, and models whose layers must see the whole text."""

from collections.abc import Callable
from typing import Any

import pico
import pytest
import torch
from long_passes import TOKENS, compute_losses, get_state, hooked, mean_loss_with_graph, set_tile
from torch import Tensor

from longrope.engine import context
from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses
from longrope.errors import ModelError

# What the pass refuses


@pytest.mark.parametrize("way", [token_losses, mean_loss_with_graph])
def test_a_model_that_does_not_call_our_attention_is_refused(way: Callable[..., Tensor]) -> None:
    """One that mixes tokens in its own way would not be causal without a mask."""
    model = pico.make_model("llama")
    for layer in model.network.model.layers:
        layer.self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(ModelError, match="'llama' does not call the attention that it is given"):
        way(model, TOKENS)
    with pytest.raises(ModelError, match="'llama' does not call the attention that it is given"):
        prefill(model, TOKENS[:1], KeyValueCache(model, 48))


def test_one_layer_that_does_not_call_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tiles or a cache would cut what it remembers by other means."""
    model = pico.make_model("llama")
    model.network.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    for read in (token_losses, lambda model, tokens: prefill(model, tokens[:1], KeyValueCache(model, 48))):
        set_tile(monkeypatch, 7)
        with pytest.raises(ModelError, match="has read 48 tokens and kept the keys of 0"):
            read(model, TOKENS)


def test_a_family_with_an_attention_of_its_own_is_refused() -> None:
    """It would want a mask, which is never made; it is refused before anything runs."""
    model = pico.make_model("llama")
    model.network._can_set_attn_implementation = lambda: False
    native = get_state(model)
    with pytest.raises(ModelError, match="'llama' does not call the attention that it is given"):
        token_losses(model, TOKENS)
    with pytest.raises(ModelError, match="'llama' does not call the attention that it is given"):
        prefill(model, TOKENS[:1], KeyValueCache(model, 48))
    assert get_state(model) == native


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"attention_mask": torch.ones(1, 1, 3, 3)}, "attention_mask"),
        ({"dropout": 0.1}, "dropout"),
        ({"position_bias": torch.zeros(2)}, "position_bias"),
    ],
)
def test_what_our_attention_cannot_do_is_refused_by_name(given: dict[str, Any], name: str) -> None:
    query = torch.randn(1, 2, 3, 8)
    plain: dict[str, Any] = {"attention_mask": None, "dropout": 0.0}
    with context.ForwardContext(pico.make_model("llama").network, {}).active():
        output, weights = context.attend_in_context(torch.nn.Identity(), query, query, query, **plain)
        with pytest.raises(ModelError, match=f"Identity asks for attention with {name}"):
            context.attend_in_context(torch.nn.Identity(), query, query, query, **{**plain, **given})
    assert output.shape == (1, 3, 2, 8)
    assert output.is_contiguous()
    assert weights is None


def test_a_network_that_drops_states_at_random_is_refused_in_training() -> None:
    """transformers' Trainer leaves it in that mode; without dropout it reads the same in both."""
    model = pico.make_model("phi3", resid_pdrop=0.1)
    losses = token_losses(model, TOKENS)
    model.network.train()
    with pytest.raises(ModelError, match=r"training mode and has dropout\. .*network\.eval\(\)"):
        token_losses(model, TOKENS)
    model.network.eval()
    assert torch.equal(token_losses(model, TOKENS), losses)
    plain = pico.make_model("llama")
    losses = token_losses(plain, TOKENS)
    plain.network.train()
    assert torch.equal(token_losses(plain, TOKENS), losses)


def test_families_that_ask_for_more_are_refused() -> None:
    """A model in training mode asks for its dropout."""
    model = pico.make_model("llama", attention_dropout=0.1)
    token_losses(model, TOKENS)
    model.network.train()
    with pytest.raises(ModelError, match="LlamaAttention asks for attention with dropout"):
        token_losses(model, TOKENS)


# Layers that carry more than keys and values


@pytest.mark.parametrize("family", ["lfm2", "minimax"])
def test_layers_that_remember_more_see_the_whole_text(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution or linear attention would begin anew at each tile."""
    kinds: dict[str, dict[str, Any]] = {
        "lfm2": {"layer_types": ["conv", "full_attention"]},
        "minimax": {"num_local_experts": 4},
    }
    model = pico.make_model(family, **kinds[family])
    set_tile(monkeypatch, 7)
    losses = token_losses(model, TOKENS)
    torch.testing.assert_close(losses.double(), compute_losses(model.network, TOKENS), rtol=1e-5, atol=1e-5)


def test_a_model_that_calls_itself_stateful_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """By transformers' own flag, where the config tells nothing of its layers."""
    model, seen = pico.make_model("llama"), []
    model.network._is_stateful = True
    set_tile(monkeypatch, 7)
    with hooked(model.network.model.layers[0].self_attn.q_proj, lambda _, args: seen.append(args[0].shape[1])):
        token_losses(model, TOKENS)
    assert seen == [48]
    assert KeyValueCache(model, 48).native
