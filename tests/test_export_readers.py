"""Exported checkpoints as other readers see them: older entries of the config, and models that lack what most have."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import sweep
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from longrope.errors import ExportError
from longrope.exports import ExportReport, export_hf
from longrope.models import LanguageModel
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors

TWO = ExportRecipe(factor_sets="two")
LAMBDAS = (1.0, 1.5, 3.0, 4.0)


def export(model: LanguageModel, folder: Path, **settings: Any) -> ExportReport:
    """Export factors of 1 to 4 for 256 tokens, reopened in this process."""
    lambdas = tuple(np.linspace(1, 4, model.spec.num_pairs).tolist()) if model.spec.num_pairs != 4 else LAMBDAS
    factors = RescaleFactors(lambdas, 256, model.spec.fingerprint, attention_factor=1.2)
    return export_hf(model, factors, folder, **settings, reopen=sweep.reopen_here)


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]


# Readers of the entries before rope_parameters


def test_the_entries_of_older_readers_stand_at_the_top(tmp_path: Path) -> None:
    """Where transformers 4, mlx-lm and others look, with the numbers of the lists."""
    export(pico.make_model("llama", rope_theta=5e5), tmp_path, settings=TWO)
    config = read_config(tmp_path)
    assert config["rope_theta"] == 5e5
    assert config["original_max_position_embeddings"] == 64
    assert config["max_position_embeddings"] == 256
    assert config["rope_scaling"] == {
        **dict.fromkeys(("type", "rope_type"), "longrope"),
        **dict.fromkeys(("attention_factor", "short_mscale", "long_mscale"), 1.2),
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "short_factor": [1.0, 1.0, 1.0, 1.0],
        "long_factor": list(LAMBDAS),
    }


@pytest.mark.parametrize("length", [64, 65])
def test_what_an_older_reader_computes(length: int, tmp_path: Path) -> None:
    """By the top of the file alone: theta, the list of the length and its factor give the checkpoint's logits."""
    export(pico.make_model("llama", rope_theta=5e5), tmp_path, settings=TWO)
    config = read_config(tmp_path)
    longer = length > config["original_max_position_embeddings"]
    divisors = config["rope_scaling"]["long_factor" if longer else "short_factor"]
    by_hand = pico.make_network("llama")
    rotary = by_hand.base_model.rotary_emb
    rotary.inv_freq.copy_(torch.tensor([config["rope_theta"] ** (-i / 4) / x for i, x in enumerate(divisors)]))
    rotary.attention_scaling = config["rope_scaling"]["attention_factor"]
    tokens = torch.randint(1, 320, (1, length), generator=torch.Generator().manual_seed(1))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        ours, theirs = (network(tokens, use_cache=False).logits for network in (plain, by_hand))
    assert (ours - theirs).abs().max() < 1e-4 * theirs.std()


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi3", "qwen2"])
def test_both_spellings_are_one_config(family: str, tmp_path: Path) -> None:
    """transformers reads the same RoPE from the file with either spelling taken out.

    But for the window of which mlx-lm derives the attention factor (tests/test_export_portable.py).
    """
    export(pico.make_model(family), tmp_path / "whole")
    whole, read = read_config(tmp_path / "whole"), []
    older = {"rope_theta", "rope_scaling", "partial_rotary_factor"}
    for dropped in ({"rope_parameters"}, older):
        pico.write_config(tmp_path / "part", **{name: value for name, value in whole.items() if name not in dropped})
        read.append(AutoConfig.from_pretrained(tmp_path / "part").rope_parameters)
    apart = {"type", "original_max_position_embeddings"}
    scaling = [{name: each[name] for name in each if name not in apart} for each in (*read, whole["rope_parameters"])]
    assert scaling[0] == scaling[1] == scaling[2]


# Models of other kinds


def test_phimoe_is_refused_two_factor_sets_for_what_it_does_with_them(tmp_path: Path) -> None:
    """transformers never takes its long list."""
    with pytest.raises(ExportError, match="those of the short factors, which the model type 'phimoe' takes") as caught:
        export(pico.make_model("phimoe"), tmp_path, settings=TWO)
    assert caught.value.remedy == "Export a single factor set."


@pytest.mark.parametrize("sets", ["single", "two"])
@pytest.mark.parametrize(
    "changes",
    [{"bos_token_id": None, "pad_token_id": None}, {"eos_token_id": None}, {"tie_word_embeddings": True}],
    ids=["no bos or pad", "no eos", "tied"],
)
def test_models_without_special_tokens_and_with_tied_heads(sets: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """They reopen with what they had, and no head is written twice."""
    report = export(pico.make_model("llama", **changes), tmp_path, settings=ExportRecipe(factor_sets=sets))
    assert max(report.difference_short, report.difference_long) < 1e-4
    config = AutoConfig.from_pretrained(tmp_path)
    assert {name: getattr(config, name) for name in changes} == changes
    names = {name for name, _ in AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters()}
    assert ("lm_head.weight" in names) != ("tie_word_embeddings" in changes)
