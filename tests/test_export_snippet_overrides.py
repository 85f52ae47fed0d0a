"""Printed rope settings put into the config of the original model: the rotary module has the divided frequencies."""

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pico
import pytest
import sweep
from transformers import AutoConfig, AutoModelForCausalLM

from longrope.exports import export_hf, hf
from longrope.exports.snippets import format_snippets
from longrope.rope import RescaleFactors


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox", "qwen2"])
def test_the_overrides_for_vllm_give_the_frequencies(family: str, tmp_path: Path) -> None:
    """The JSON between the quotes of the command, in a config of the original model."""
    model = pico.make_model(family)
    original = model.network.config.to_dict()
    lambdas = np.linspace(1, 4, model.spec.num_pairs)
    factors = RescaleFactors(tuple(lambdas.tolist()), 256, model.spec.fingerprint, attention_factor=1.2)
    with mock.patch.object(hf, "_reopen", sweep._reopen_here):
        export_hf(model, factors, tmp_path)
    text = format_snippets(json.loads((tmp_path / "config.json").read_text()), "org/name")
    (line,) = [line for line in text.splitlines() if line.startswith("vllm serve org/name --max-model-len 256 ")]
    stated = json.loads(line.split("'")[1])
    assert stated["max_position_embeddings"] == 256
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**original, **stated}))
    rotary = network.base_model.rotary_emb
    assert rotary.inv_freq.numpy() == pytest.approx(model.spec.plain_frequencies / lambdas, rel=1e-5)
    assert rotary.attention_scaling == pytest.approx(1.2)
