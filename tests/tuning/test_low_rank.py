"""Adapted matrices as one operation: against the formula in float64, and against peft's own layers."""

from collections.abc import Mapping
from typing import Any

import pico
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from longrope.recipe import TuneRecipe
from longrope.tuning.adapters import adapted
from longrope.tuning.low_rank import adapted_linear, fuse_adapters

TOKENS = torch.randint(1, 320, (2, 40), generator=torch.Generator().manual_seed(1))
MATRICES = 7  # of a layer of Llama


def make_inputs(*, bias: bool, dtype: torch.dtype = torch.float64) -> list[Any]:
    """A given [2, 5, 6], a weight [4, 6] and its bias, and matrices of an adapter of rank 3."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, 5, 6), (4, 6), (4,), (3, 6), (4, 3))
    made = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    for at in (0, 3, 4):
        made[at].requires_grad_()
    return made if bias else [*made[:2], None, *made[3:]]


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradients_are_those_of_the_sum_of_the_matrices(bias: bool) -> None:
    given, weight, shift, first, second = make_inputs(bias=bias)
    output = adapted_linear(given, weight, shift, first, second, 1.7)
    expected = given @ (weight + 1.7 * second @ first).T + (0 if shift is None else shift)
    torch.testing.assert_close(output, expected, rtol=1e-13, atol=1e-13)
    leaves = [given, first, second]
    toward = torch.randn(output.shape, dtype=torch.float64)
    for found, wanted in zip(*(torch.autograd.grad(x, leaves, toward) for x in (output, expected)), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_gradients_of_an_input_are_left_out_where_nothing_asks_for_them() -> None:
    """As below the first layer that is trained."""
    given, weight, shift, first, second = make_inputs(bias=False)
    found, expected = (
        torch.autograd.grad(adapted_linear(x, weight, shift, first, second, 1.0).sum(), (first, second))
        for x in (given.detach(), given)
    )
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def loss_and_gradients(network: Any, weights: Mapping[str, Tensor], *, narrow: bool = False) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        loss = network(TOKENS, labels=TOKENS, use_cache=False).loss
    return [loss.detach(), *torch.autograd.grad(loss, list(weights.values()))]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_network_learns_as_with_pefts_layers(family: str) -> None:
    """Loss and gradients in float64, and in bfloat16 by autocast over float32 adapters."""
    network = pico.make_network(family).double()
    with adapted(network, TuneRecipe(lora_rank=3), seed=1) as weights:
        for name, weight in weights.items():
            weight.requires_grad_(True)
            if ".lora_B." in name:
                torch.nn.init.normal_(weight, std=0.2)
        layers = [module for module in network.modules() if "forward" in vars(module)]
        assert len(layers) == MATRICES * network.config.num_hidden_layers
        ours = loss_and_gradients(network, weights)
        fused = {layer: layer.__dict__.pop("forward") for layer in layers}
        pefts = loss_and_gradients(network, weights)
        for layer, forward in fused.items():
            layer.__dict__["forward"] = forward
        with_narrow = loss_and_gradients(network.float(), weights, narrow=True)
        for found, wanted in zip(ours, pefts, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        assert all(x.dtype is torch.float32 for x in with_narrow[1:])
        for found, wanted in zip(with_narrow, pefts, strict=True):
            assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_what_is_no_plain_adapter_of_a_plain_matrix_stays_as_it_is() -> None:
    """Dropout, DoRA, and the Conv1D layers of GPT-2."""
    for family, settings in (
        ("llama", {"lora_dropout": 0.1}),
        ("llama", {"use_dora": True}),
        ("llama", {"lora_bias": True}),
        ("gpt2", {"fan_in_fan_out": True}),
    ):
        if family == "gpt2":
            from transformers import GPT2Config, GPT2LMHeadModel

            network: Any = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=8))
        else:
            network = pico.make_network(family)
        get_peft_model(network, LoraConfig(r=2, target_modules="all-linear", **settings))
        assert fuse_adapters(network) == 0, settings
