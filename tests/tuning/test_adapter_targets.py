"""Which modules get adapters: what cannot have one is left out, refused before a search, and leaves nothing behind."""

import sys
from dataclasses import replace

import families
import peft
import pico
import pytest
import torch
from trainings import QUICK, TEXT

from longrope.errors import RecipeError
from longrope.recipe import TuneRecipe
from longrope.tuning import check_training
from longrope.tuning.adapters import adapted, choose_matrices

LORA = TuneRecipe(window_tokens=48, steps=2, warmup_steps=0, batch_windows=2, lora_rank=2)


@pytest.mark.parametrize("family", ["llama4_text", "phimoe", "deepseek_v4", "falcon_h1"])
def test_families_with_modules_that_peft_cannot_adapt_have_adapters_elsewhere(family: str) -> None:
    network = families.build_network(family)
    tokens = torch.arange(1, 25)[None]
    with adapted(network, LORA, seed=0) as weights:
        assert weights
        assert all(".lora_" in name for name in weights)
        network(tokens, use_cache=False).logits.sum().backward()
        assert any(weight.grad is not None for weight in weights.values())


@pytest.mark.parametrize(("family", "experts"), [("mixtral", 8), ("qwen3_moe", 8)])
def test_experts_have_adapters_where_peft_knows_how(family: str, experts: int) -> None:
    with adapted(families.build_network(family), LORA, seed=0) as weights:
        assert sum("expert" in name for name in weights) == experts


@pytest.mark.parametrize(
    ("family", "pattern"), [("llama", "*norm*"), ("qwen2_moe", "*mlp.gate.weight"), ("llama", "model.norm.weight")]
)
def test_patterns_of_what_cannot_have_an_adapter_are_refused_before_other_work(family: str, pattern: str) -> None:
    """Norms are no matrices; a router of a class of its own is one that peft would call as another."""
    model = replace(families.make_model(family), tokenizer=pico.make_tokenizer())
    with pytest.raises(RecipeError, match="chooses no matrix that can have an adapter"):
        check_training(model, TEXT, replace(QUICK, lora_rank=2, parameters=(pattern,)))


def test_a_missing_peft_is_said_before_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match="peft is not installed"):
        check_training(pico.make_model(), TEXT, replace(QUICK, lora_rank=2))


def test_a_network_is_as_before_after_peft_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = pico.make_network("llama")
    before = [name for name, _ in network.named_parameters()]

    def fail(given: object, config: peft.LoraConfig) -> object:
        peft.LoraModel(given, {"default": config}, "default")
        raise ValueError("halfway")

    monkeypatch.setattr(peft, "get_peft_model", fail)
    with pytest.raises(ValueError, match="halfway"), adapted(network, LORA, seed=0):
        pass
    assert [name for name, _ in network.named_parameters()] == before


def test_patterns_choose_among_what_can_have_an_adapter() -> None:
    found = choose_matrices(pico.make_network("llama"), replace(LORA, parameters=("*layers.0.*", "*norm*")))
    assert {name.split(".")[2] for name in found["target_modules"]} == {"0"}
    assert len(found["target_modules"]) == 7
