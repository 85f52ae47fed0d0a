"""Keys of published scalings that transformers does not read: the model is the one of transformers, and says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from rotary_oracles import ROUNDING, gap
from transformers import AutoModelForCausalLM

from longrope.errors import ModelError
from longrope.models import load_config, load_model, rescaled
from longrope.pipeline.inspection import inspect
from longrope.rope import RescaleFactors

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
ALPHA = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}
BETAS = {"beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
PUBLISHED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "DeepSeek-R1-0528-Qwen3-8B": ("qwen3", YARN, {"attn_factor": 0.8782488562869419}),
    "Hunyuan-7B": ("hunyuan_v1_dense", ALPHA, BETAS),
}
IDS = (torch.arange(100) * 37 % 320)[None]


def save(folder: Path, family: str, scaling: dict[str, Any]) -> Path:
    """A model whose config.json states its scaling as checkpoints of transformers 4 do."""
    pico.save_pico(folder, family, max_position_embeddings=256, head_dim=8)
    content = json.loads((folder / "config.json").read_text())
    content.pop("rope_parameters")
    (folder / "config.json").write_text(json.dumps({**content, "rope_theta": 1e4, "rope_scaling": scaling}))
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_model_is_the_one_of_transformers(name: str, tmp_path: Path) -> None:
    """With every key in the config, with the others alone, and under factors of 1 + 1e-9."""
    family, scaling, passed_over = PUBLISHED[name]
    whole, bare = (save(tmp_path / kind, family, scaling | keys) for kind, keys in (("a", passed_over), ("b", {})))
    model = load_model(whole, device="cpu")
    near = RescaleFactors((1 + 1e-9,) * model.spec.num_pairs, 256, model.spec.fingerprint)
    with torch.inference_mode():
        for folder in (whole, bare):
            theirs = AutoModelForCausalLM.from_pretrained(folder).eval()(IDS, use_cache=False).logits
            with rescaled(model, near):
                assert gap(model.network(IDS, use_cache=False).logits, theirs) < ROUNDING


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_keys_are_named_where_a_model_is_loaded_and_inspected(name: str, tmp_path: Path) -> None:
    family, scaling, passed_over = PUBLISHED[name]
    folder = save(tmp_path / "model", family, scaling | passed_over)
    choices = ("; ".join(load_model(folder, device="cpu").choices), "; ".join(inspect(str(folder))["choices"]))
    for key, value in passed_over.items():
        assert all(f"{key} = {value!r} of the " in each for each in choices)


def test_the_factor_on_cos_and_sin_is_yarns_own(tmp_path: Path) -> None:
    """0.1 ln 4 + 1, which the key of DeepSeek's config would make 1."""
    family, scaling, passed_over = PUBLISHED["DeepSeek-R1-0528-Qwen3-8B"]
    spec = load_model(save(tmp_path / "model", family, scaling | passed_over), device="cpu").spec
    assert spec.attention_factor == pytest.approx(0.1 * np.log(4) + 1)


@pytest.mark.parametrize(
    ("kind", "key"), [("linear", "attn_factor"), ("dynamic", "attn_factor"), ("linear", "beta_fast")]
)
def test_the_same_keys_in_another_kind_stay_refused(kind: str, key: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", "llama", {"rope_type": kind, "factor": 2.0, key: 1.5})
    with pytest.raises(ModelError, match=rf"{key} in the {kind} scaling = 1.5"):
        load_config(folder)
