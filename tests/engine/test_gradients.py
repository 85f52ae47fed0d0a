"""The loss with a graph and its gradients against plain autograd."""

from collections.abc import Callable

import pico
import pytest
import torch
from long_passes import (
    TOKENS,
    VOCABULARY,
    compute_losses,
    every_family,
    get_gradients,
    make_factors,
    mean_loss_with_graph,
    set_chunk,
    set_tile,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from longrope.engine.passes import token_losses
from longrope.models import LanguageModel, rescaled


@every_family
@pytest.mark.parametrize("tail_tokens", [0, 10])
def test_loss_and_gradients_are_those_of_plain_autograd(
    family: str, tail_tokens: int, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints and chunks change neither the loss nor what reaches lambda and the attention factor."""
    model = make(family)
    set_chunk(monkeypatch)
    with rescaled(model, make_factors(model), learnable=True) as module:
        reference = compute_losses(model.network, TOKENS)[:, -tail_tokens:].mean()
        reference.backward()
        expected = get_gradients(module)
    with rescaled(model, make_factors(model), learnable=True) as module:
        loss = mean_loss_with_graph(model, TOKENS, tail_tokens)
        loss.backward()
        given = get_gradients(module)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert expected[0].abs() > 1e-4
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


@every_family
@pytest.mark.parametrize("recompute", [True, False])
def test_gradients_in_tiles(
    family: str, recompute: bool, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLPs in tiles, activations recomputed or kept: lambda gets the same gradients."""
    model = make(family)
    with rescaled(model, make_factors(model), learnable=True) as module:
        compute_losses(model.network, TOKENS).mean().backward()
        expected = get_gradients(module)
    set_tile(monkeypatch, 7)
    with rescaled(model, make_factors(model), learnable=True) as module:
        mean_loss_with_graph(model, TOKENS, recompute=recompute).backward()
        given = get_gradients(module)
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("tile", [7, 48])
@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2"])
def test_gradients_of_weights(family: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight of a network that is tuned gets the gradient of plain autograd."""
    set_chunk(monkeypatch)
    set_tile(monkeypatch, tile)
    gradients = []
    for plainly in (True, False):
        model = pico.make_model(family)
        model.network.requires_grad_(True)
        loss = compute_losses(model.network, TOKENS).mean() if plainly else mean_loss_with_graph(model, TOKENS)
        loss.backward()
        gradients.append({name: weight.grad for name, weight in model.network.named_parameters()})
    plain, ours = gradients
    for name, expected in plain.items():
        assert ours[name] is not None, name
        assert expected.abs().max() > 0, name
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("tail_tokens", [1, 46, 47, 48, 1000])
def test_tail_counts_exactly_the_last_tokens(tail_tokens: int, make: Callable[..., LanguageModel]) -> None:
    """The mean is over so many last tokens of each window, over all of them where there are no more."""
    model = make("llama")
    expected = compute_losses(model.network, TOKENS)[:, -tail_tokens:].mean().item()
    assert mean_loss_with_graph(model, TOKENS, tail_tokens).item() == pytest.approx(expected, rel=1e-5)


def test_layers_are_recomputed_and_then_as_before(make: Callable[..., LanguageModel]) -> None:
    """Each layer runs once forwards and once more in the backward pass; afterwards its own forward is back."""
    model, runs = make("llama"), []
    layers = [m for m in model.network.modules() if isinstance(m, GradientCheckpointingLayer)]
    assert len(layers) == 2
    hooks = [
        layer.get_submodule("input_layernorm").register_forward_pre_hook(lambda *_, at=at: runs.append(at))
        for at, layer in enumerate(layers)
    ]
    try:
        with rescaled(model, make_factors(model), learnable=True):
            loss = mean_loss_with_graph(model, TOKENS)
            assert runs == [0, 1]
            assert all("forward" not in vars(layer) for layer in layers)
            loss.backward()
        assert runs == [0, 1, 1, 0]
    finally:
        for hook in hooks:
            hook.remove()


def test_layers_are_as_before_after_an_exception(make: Callable[..., LanguageModel]) -> None:
    """A failed pass leaves no checkpointed layer behind."""
    model = make("llama")
    layers = [m for m in model.network.modules() if isinstance(m, GradientCheckpointingLayer)]
    before = token_losses(model, TOKENS)
    with pytest.raises(IndexError):
        mean_loss_with_graph(model, TOKENS + VOCABULARY)  # ids beyond the vocabulary
    assert all("forward" not in vars(layer) for layer in layers)
    assert torch.equal(token_losses(model, TOKENS), before)
