"""A checkpoint is not written over the model that it is made of or over another one; an earlier export is replaced."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pico
import pytest
import sweep
import torch
from peft import LoraConfig, get_peft_model
from rotary_oracles import get_logits
from transformers import AutoModelForCausalLM

from longrope.errors import ExportError
from longrope.exports import export_gguf, export_hf
from longrope.models import LanguageModel, load_model
from longrope.models.trained_weights import save_trained_weights
from longrope.recipe import ExportRecipe
from longrope.rope import baseline_factors


def export(model: LanguageModel, folder: Path, **settings: Any) -> None:
    factors = baseline_factors(model.spec, "pi", 256).factor_sets[0]
    export_hf(model, factors, folder, settings=ExportRecipe(**settings), reopen=sweep.reopen_here)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_of_the_model_itself_is_refused_untouched(tmp_path: Path) -> None:
    folder = pico.save_pico(tmp_path / "model")
    model, before = replace(pico.make_model(), name=str(folder)), content(folder)
    (tmp_path / "link").symlink_to("model")
    for place in (folder, tmp_path / "link"):
        with pytest.raises(ExportError, match="is the model that is exported"):
            export(model, place)
    assert content(folder) == before


@pytest.mark.parametrize("kind", ["adapter", "trained weights"])
def test_the_base_of_what_is_exported_is_refused_untouched(kind: str, tmp_path: Path) -> None:
    base, own = pico.save_pico(tmp_path / "base"), tmp_path / "own"
    if kind == "adapter":
        adapted = get_peft_model(pico.make_network("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
        adapted.peft_config["default"].base_model_name_or_path = str(base)
        adapted.save_pretrained(str(own))
    else:
        network = load_model(base, device="cpu").network
        save_trained_weights(network, {"model.norm.weight": network.model.norm.weight * 2}, str(base), own)
    model, before = load_model(own, device="cpu"), content(base)
    with pytest.raises(ExportError, match=f"{base} is the base of {own}"):
        export(model, base)
    assert content(base) == before
    other = shutil.copytree(own, tmp_path / "other")
    with pytest.raises(ExportError, match=r"other holds (adapter_config|trained_weights)\.json of another model"):
        export(model, other)


def test_a_folder_of_another_model_is_refused_untouched(tmp_path: Path) -> None:
    folder = pico.save_pico(tmp_path / "model")
    before = content(folder)
    with pytest.raises(ExportError, match=r"holds config\.json of another model"):
        export(pico.make_model(), folder)
    assert content(folder) == before


@pytest.mark.parametrize("sizes", [("5GB", "40KB"), ("40KB", "5GB"), ("40KB", "80KB")])
def test_weights_and_templates_of_an_earlier_export_are_removed(sizes: tuple[str, str], tmp_path: Path) -> None:
    """transformers takes one file of weights before several, and a template wherever one is."""
    first, second = pico.make_model(), pico.make_model()
    first.tokenizer.chat_template = "OLD {{ messages }}"
    with torch.no_grad():
        second.network.lm_head.weight.mul_(3)
    for model, size, folder in ((first, 0, "both"), (second, 1, "both"), (second, 1, "alone")):
        export(model, tmp_path / folder, max_shard_size=sizes[size])
    names = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("both", "alone")]
    assert names[0] == names[1]
    logits = [get_logits(AutoModelForCausalLM.from_pretrained(tmp_path / folder)) for folder in ("both", "alone")]
    assert torch.equal(*logits)


def test_a_gguf_file_is_not_written_over_the_one_it_is_made_of(tmp_path: Path) -> None:
    model, path = pico.make_model(), tmp_path / "model.gguf"
    export_gguf(model, baseline_factors(model.spec, "pi", 256).factor_sets[0], path)
    own, before = load_model(path, device="cpu"), path.read_bytes()
    with pytest.raises(ExportError, match="is the model that is exported"):
        export_gguf(own, baseline_factors(own.spec, "pi", 512).factor_sets[0], path, dtype="q8_0")
    assert path.read_bytes() == before
