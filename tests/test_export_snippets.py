"""The RoPE settings as text: what a reader of the one for transformers gets."""

import json
from pathlib import Path
from typing import Any

import pico
import pytest
import sweep
import torch

from longrope.exports import export_hf
from longrope.exports.snippets import format_snippets
from longrope.models import rescaled, save_model
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_the_code_for_transformers_gives_our_logits(family: str, tmp_path: Path) -> None:
    """Of the base model's own folder, below and above the switch of two lists."""
    layers = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32, "head_dim": 8}
    changes: dict[str, Any] = layers if family == "gemma3_text" else {"head_dim": 8}
    model = pico.make_model(family, **changes)
    save_model(model, tmp_path / "base")
    factors = RescaleFactors((1.0, 1.5, 3.0, 4.0), 256, model.spec.fingerprint, attention_factor=1.2)
    export_hf(model, factors, tmp_path / "hf", settings=ExportRecipe(factor_sets="two"), reopen=sweep.reopen_here)
    text = format_snippets(json.loads((tmp_path / "hf" / "config.json").read_text()), str(tmp_path / "base"))
    code, given = text.split("\n# ")[0], dict[str, Any]()
    exec(code, given)  # noqa: S102  # what a reader would run
    tokens = torch.randint(1, 320, (1, 150), generator=torch.Generator().manual_seed(5))
    short = RescaleFactors((1.0,) * 4, 64, model.spec.fingerprint, attention_factor=1.2)
    for length, lists in ((64, short), (65, factors), (150, factors)):
        with rescaled(model, lists), torch.inference_mode():
            ours = model.network(tokens[:, :length], use_cache=False).logits
            theirs = given["model"].eval()(tokens[:, :length], use_cache=False).logits
        assert (ours - theirs).abs().max() < 1e-4 * ours.std(), length


def test_every_project_is_named() -> None:
    """With the window, and the lists where they can be given."""
    lists = {"rope_type": "longrope", "long_factor": [1.0, 2.5]}
    text = format_snippets({"rope_parameters": lists, "rope_scaling": lists, "max_position_embeddings": 512}, "base")
    for name in ("transformers", "TRL", "vLLM", "SGLang", "axolotl", "llama.cpp", "LLaMA-Factory", "Unsloth"):
        assert name in text
    assert text.count("[1.0, 2.5]") == 4
    assert text.count("512") == 9
