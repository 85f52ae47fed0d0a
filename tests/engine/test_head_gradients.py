"""The loss whose gradients are worked out at once, against the same head with a graph by torch."""

from collections.abc import Callable

import pico
import pytest
import torch
from long_passes import TOKENS, get_gradients, make_factors, mean_loss_with_graph, set_chunk
from torch import Tensor

from longrope.engine.loss import trained_outside_layers
from longrope.models import LanguageModel, rescaled


def head_runs(model: LanguageModel) -> list[int]:
    """Grows by one each time that the head makes logits."""
    runs: list[int] = []
    model.network.lm_head.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


def first_layer(model: LanguageModel) -> list[Tensor]:
    return [weight.requires_grad_(True) for weight in model.network.model.layers[0].parameters()]


def all_weights(model: LanguageModel) -> list[Tensor]:
    return list(model.network.requires_grad_(True).parameters())


def head_alone(model: LanguageModel) -> list[Tensor]:
    return [model.network.lm_head.weight.requires_grad_(True)]


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere"])  # caps and scales of logits, tied weights among them
@pytest.mark.parametrize("train", [first_layer, all_weights, head_alone])
@pytest.mark.parametrize("scale", [1.0, 2.0])  # of the loss afterwards, as several processes scale it
def test_loss_and_gradients_are_those_of_a_graph(
    family: str, train: Callable[[LanguageModel], list[Tensor]], scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk(monkeypatch)
    found, counts = [], []
    for at_once in (True, False):
        model = pico.make_model(family)
        counted, leaves = head_runs(model), train(model)
        loss = mean_loss_with_graph(model, TOKENS, recompute=at_once)
        (scale * loss).backward()
        found.append([loss.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
        counts.append(len(counted))
    assert counts[0] == counts[1] > 1  # no logits are made again
    assert len(found[0]) == len(found[1]) == 1 + len(leaves)
    for ours, plain in zip(*found, strict=True):
        assert plain.abs().max() > 0
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-7)


def test_gradients_come_a_second_time_from_a_kept_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunk(monkeypatch)
    model = pico.make_model("llama")
    weight = head_alone(model)[0]
    loss = mean_loss_with_graph(model, TOKENS)
    first, second = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_factors_get_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunk(monkeypatch)
    found = []
    for at_once in (True, False):
        model = pico.make_model("llama")
        with rescaled(model, make_factors(model), learnable=True) as module:
            mean_loss_with_graph(model, TOKENS, recompute=at_once).backward()
            found.append(get_gradients(module))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def test_a_loss_without_gradients_has_no_graph() -> None:
    model = pico.make_model("llama")
    assert not mean_loss_with_graph(model, TOKENS).requires_grad


@pytest.mark.parametrize("name", ["embed_tokens", "norm", "lm_head"])
def test_weights_outside_layers_are_known(name: str) -> None:
    model = pico.make_model("llama")
    first_layer(model)
    assert trained_outside_layers(model.network) == []
    for part, weight in model.network.named_parameters():
        if part.split(".")[-2] == name:
            weight.requires_grad_(True)
            assert trained_outside_layers(model.network)[0] is weight
