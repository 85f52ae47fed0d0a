"""The one context of a pass: who reads it, that it does not nest, and what it leaves behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pico
import pytest
import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoConfig

from longrope.engine.context import ATTENTION, ForwardContext, active_context, attend_in_context, run_decoder
from longrope.engine.passes import token_losses
from longrope.errors import ModelError

TOKENS = torch.arange(1, 49)[None]


@contextmanager
def calling(module: Any, work: Any) -> Iterator[None]:
    """Do some work whenever a module is called."""
    hook = module.register_forward_pre_hook(lambda *_: work())
    try:
        yield
    finally:
        hook.remove()


def test_passes_do_not_nest() -> None:
    """Not of one model, nor of two; the pass that was refused leaves no trace, and the next one works."""
    model, other = pico.make_model(), pico.make_model("gemma2")
    native = [each.network.config._attn_implementation for each in (model, other)]
    expected = token_losses(model, TOKENS)
    for inner in (model, other):

        def begin_another(inner: Any = inner) -> None:
            token_losses(inner, TOKENS)

        with (
            calling(model.network.model.layers[1], begin_another),
            pytest.raises(RuntimeError, match="a pass is running already"),
        ):
            token_losses(model, TOKENS)
        assert [each.network.config._attn_implementation for each in (model, other)] == native
    assert torch.equal(token_losses(model, TOKENS), expected)


def test_without_a_pass_there_is_no_context() -> None:
    """Attention that is called by mistake after a pass is refused, not computed with what was left of it."""
    with pytest.raises(RuntimeError, match="no pass is running"):
        active_context()
    query = torch.randn(1, 2, 3, 8)
    with pytest.raises(RuntimeError, match="no pass is running"):
        attend_in_context(torch.nn.Identity(), query, query, query, None)
    with ForwardContext(pico.make_model().network, {}).active():
        attend_in_context(torch.nn.Identity(), query, query, query, None)
    with pytest.raises(RuntimeError, match="no pass is running"):
        active_context()


def test_a_context_is_active_again_in_its_backward_pass() -> None:
    """With its documents, where a part of the pass is recomputed; and nothing is active in the parts between."""
    context, seen = ForwardContext(pico.make_model().network, {}, documents=((0, 5),)), list[Any]()

    def work(x: torch.Tensor) -> torch.Tensor:
        with context.resumed():
            seen.append(active_context())
            return x.sin()

    x = torch.ones(3, requires_grad=True)
    with context.active():
        y = checkpoint(work, x, use_reentrant=False)
        assert active_context() is context
    with pytest.raises(RuntimeError, match="no pass is running"):
        active_context()
    y.sum().backward()
    assert [each is context for each in seen] == [True, True]
    with pytest.raises(RuntimeError, match="no pass is running"):
        active_context()


def test_each_sub_config_gets_its_own_attention_back() -> None:
    """Models of text and images keep one attention for each."""
    config = AutoConfig.for_model("gemma3")
    config._attn_implementation = {"": "eager", "text_config": "sdpa", "vision_config": "flex_attention"}

    def attentions() -> tuple[str, ...]:
        return tuple(each._attn_implementation for each in (config, config.text_config, config.vision_config))

    native = attentions()
    assert native == ("eager", "sdpa", "flex_attention")
    network: Any = SimpleNamespace(config=config, _can_set_attn_implementation=lambda: True)
    with ForwardContext(network, {}).active():
        assert attentions() == (ATTENTION,) * 3
    assert attentions() == native


def test_our_attention_is_registered_by_the_first_pass() -> None:
    """And calls are counted, for a decoder that makes none is refused."""
    model = pico.make_model()
    context = ForwardContext(model.network, {})
    hidden = run_decoder(context, {"input_ids": TOKENS})
    assert hidden.shape == (1, 48, 32)
    assert context.attention_calls == model.network.config.num_hidden_layers
    assert ATTENTION in AttentionInterface().valid_keys()
    for layer in model.network.model.layers:
        layer.self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(ModelError, match="'llama' does not call the attention"):
        run_decoder(ForwardContext(model.network, {}), {"input_ids": TOKENS})
