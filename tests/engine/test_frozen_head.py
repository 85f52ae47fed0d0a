"""The loss of a frozen head, whose gradient is worked out at once: to the bit that of a head that is run again."""

from collections.abc import Callable

import pico
import pytest
import torch
from long_passes import TOKENS, get_gradients, make_factors, mean_loss_with_graph, set_chunk
from torch import Tensor

from longrope.engine.loss import is_frozen
from longrope.models import LanguageModel, rescaled


def head_runs(model: LanguageModel) -> list[int]:
    """Grows by one each time that the head makes logits."""
    runs: list[int] = []
    model.network.lm_head.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


def run(model: LanguageModel, train: Callable[[LanguageModel], list[Tensor]], scale: float) -> list[Tensor]:
    """Loss and gradients of a loss that is scaled afterwards, as several processes scale it."""
    leaves = train(model)
    loss = mean_loss_with_graph(model, TOKENS, recompute=True)
    (scale * loss).backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def first_layer(model: LanguageModel) -> list[Tensor]:
    return [weight.requires_grad_(True) for weight in model.network.model.layers[0].parameters()]


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere"])  # caps and scales of logits among them
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_loss_and_gradients_are_those_of_a_head_that_is_run_again(
    family: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_chunk(monkeypatch)
    once, again = pico.make_model(family), pico.make_model(family)
    counted, twice = head_runs(once), head_runs(again)
    ours = run(once, first_layer, scale)
    again.network.model.norm.weight.requires_grad_(True)  # so its head is not frozen
    plain = run(again, first_layer, scale)
    assert len(ours) == len(plain) > 5
    for found, expected in zip(ours, plain, strict=True):
        assert torch.equal(found, expected)
    assert len(twice) == 2 * len(counted) > 2


def test_factors_get_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    set_chunk(monkeypatch)
    found = []
    for frozen in (True, False):
        model = pico.make_model("llama")
        model.network.model.norm.weight.requires_grad_(not frozen)
        with rescaled(model, make_factors(model), learnable=True) as module:
            mean_loss_with_graph(model, TOKENS, recompute=True).backward()
            found.append(get_gradients(module))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["embed_tokens", "norm", "lm_head"])
def test_a_head_that_is_trained_is_not_frozen(name: str) -> None:
    model = pico.make_model("llama")
    assert is_frozen(model.network)
    first_layer(model)
    assert is_frozen(model.network)
    for part, weight in model.network.named_parameters():
        if part.split(".")[-2] == name:
            weight.requires_grad_(True)
    assert not is_frozen(model.network)
