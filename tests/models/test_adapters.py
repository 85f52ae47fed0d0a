"""A folder with a PEFT adapter is loaded as its base with the adapter merged, or refused by that word."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from rotary_oracles import get_logits
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from longrope.data import TokenText
from longrope.errors import ModelError
from longrope.models import load_config, load_model, read_spec, save_model
from longrope.recipe import TuneRecipe
from longrope.runs.run_dir import RunDir
from longrope.tuning import fine_tune


def save_adapter(folder: Path, base: Path, **changes: object) -> torch.Tensor:
    """Write a LoRA adapter with random weights; the logits of base and adapter, computed by hand."""
    torch.manual_seed(1)
    targets = ["q_proj", "down_proj"]
    settings = LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(pico.make_network("llama"), settings)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    network = pico.make_network("llama")
    weights = load_file(folder / "adapter_model.safetensors")
    for name, module in network.named_modules():
        if name.split(".")[-1] in targets:
            down, up = (weights[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
            module.weight.data += 6 / 3 * (up @ down)
    return get_logits(network)


def test_an_adapter_is_merged_into_its_base(pico_folder: Path, tmp_path: Path) -> None:
    wanted = save_adapter(tmp_path, pico_folder)
    model = load_model(tmp_path, device="cpu")
    torch.testing.assert_close(get_logits(model.network), wanted, rtol=1e-4, atol=1e-5)
    assert type(model.network).__name__ == "LlamaForCausalLM"
    assert not hasattr(model.network, "peft_config")
    assert set(model.network.state_dict()) == set(pico.make_network("llama").state_dict())
    assert not any(weight.requires_grad for weight in model.network.parameters())
    assert read_spec(load_config(tmp_path)) == model.spec
    assert model.tokenizer("The river")["input_ids"] == pico.make_tokenizer()("The river")["input_ids"]


@pytest.mark.parametrize(
    "settings",
    [{"lora_also": ("norms",)}, {"lora_also": ("norms", "embeddings")}, {"parameters": ("lm_head*", "*self_attn*")}],
    ids=str,
)
def test_adapters_with_what_was_trained_beside_them_open_as_what_was_trained(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Of our own trainings: norms and embeddings in full, a head of its own with an adapter."""
    base = pico.save_pico(tmp_path / "base", tie_word_embeddings=False)
    recipe = TuneRecipe(window_tokens=48, steps=2, batch_windows=2, warmup_steps=0, lora_rank=2, **settings)
    model = load_model(base, device="cpu")
    text = TokenText(np.asarray(model.tokenizer(pico.make_text(300))["input_ids"], np.int32), "tune")
    run = RunDir(tmp_path / "run")
    trained = fine_tune(model, None, text, settings=recipe, run=run)
    found = load_model(run.adapters, device="cpu")
    torch.testing.assert_close(get_logits(found.network), get_logits(trained.network), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_of_one_of_two_tied_embeddings_leaves_the_other(target: str, tmp_path: Path) -> None:
    """As peft computes it before it is merged; the head has weights of its own then, also in what is saved."""
    base = pico.save_pico(tmp_path / "base", tie_word_embeddings=True)
    torch.manual_seed(1)
    settings = LoraConfig(r=3, target_modules=["q_proj", target], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).eval()
    adapted.save_pretrained(str(tmp_path / "adapter"))
    wanted = get_logits(adapted)
    model = load_model(tmp_path / "adapter", device="cpu")
    torch.testing.assert_close(get_logits(model.network), wanted, rtol=1e-4, atol=1e-5)
    save_model(model, tmp_path / "whole")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    torch.testing.assert_close(get_logits(again), wanted, rtol=1e-4, atol=1e-5)


def test_the_tokenizer_beside_an_adapter_goes_before_that_of_the_base(pico_folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, pico_folder)
    tokenizer = pico.make_tokenizer()
    tokenizer.chat_template = "trained with this"
    tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu").tokenizer.chat_template == "trained with this"


def test_a_config_that_a_trainer_left_beside_an_adapter_changes_nothing(pico_folder: Path, tmp_path: Path) -> None:
    wanted = save_adapter(tmp_path, pico_folder)
    shutil.copy(pico_folder / "config.json", tmp_path)
    torch.testing.assert_close(get_logits(load_model(tmp_path, device="cpu").network), wanted, rtol=1e-4, atol=1e-5)


def test_a_base_that_is_not_there_is_named(pico_folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, pico_folder, base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(ModelError, match="gone"):
        load_model(tmp_path, device="cpu")


def test_an_adapter_of_an_adapter_is_refused(pico_folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path / "first", pico_folder)
    save_adapter(tmp_path / "second", tmp_path / "first")
    with pytest.raises(ModelError, match=r"first.* holds a PEFT adapter"):
        load_model(tmp_path / "second", device="cpu")


def test_an_adapter_of_another_model_is_refused(pico_folder: Path, tmp_path: Path) -> None:
    """One of its weights has no place in the base."""
    save_adapter(tmp_path, pico_folder)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    other = {key.replace("layers.1", "layers.7") if key == name else key: value for key, value in weights.items()}
    save_file(other, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"cannot be merged .* differ in .*down_proj\.lora_A"):
        load_model(tmp_path, device="cpu")


def test_an_adapter_that_cannot_be_merged_is_refused(pico_folder: Path, tmp_path: Path) -> None:
    """Prompt tuning adds tokens, not weights."""
    adapted = get_peft_model(
        pico.make_network("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    adapted.peft_config["default"].base_model_name_or_path = str(pico_folder)
    adapted.save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=r"PEFT adapter .* cannot be merged"):
        load_model(tmp_path, device="cpu")


@pytest.mark.parametrize("case", ["no base", "no weights", "whole model"])
def test_folders_that_are_no_plain_adapters_are_refused(case: str, pico_folder: Path, tmp_path: Path) -> None:
    save_adapter(tmp_path, pico_folder, **({"base_model_name_or_path": None} if case == "no base" else {}))
    if case == "no weights":
        (tmp_path / "adapter_model.safetensors").unlink()
    if case == "whole model":
        shutil.copy(pico_folder / "model.safetensors", tmp_path)
    named = {"no base": "no base", "no weights": "no adapter_model", "whole model": r"model\.safetensors"}[case]
    with pytest.raises(ModelError, match=f"PEFT adapter .* with .*{named}"):
        load_model(tmp_path, device="cpu")


def test_peft_is_asked_for_where_it_is_missing(
    pico_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_adapter(tmp_path, pico_folder)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModelError, match=r"PEFT adapter, and peft is not installed\. .*longrope\[lora\]"):
        load_model(tmp_path, device="cpu")
