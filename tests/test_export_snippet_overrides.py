"""Printed rope settings put into the config of the original model: the rotary module has the divided frequencies."""

import json
import re
from pathlib import Path

import numpy as np
import pico
import pytest
import sweep
from transformers import AutoConfig, AutoModelForCausalLM

from longrope.exports import export_hf
from longrope.exports.snippets import TRIED, format_snippets
from longrope.rope import RescaleFactors


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt_neox", "qwen2"])
def test_the_overrides_for_vllm_give_the_frequencies(family: str, tmp_path: Path) -> None:
    """The JSON between the quotes of the command, in a config of the original model."""
    model = pico.make_model(family)
    original = model.network.config.to_dict()
    lambdas = np.linspace(1, 4, model.spec.num_pairs)
    factors = RescaleFactors(tuple(lambdas.tolist()), 256, model.spec.fingerprint, attention_factor=1.2)
    export_hf(model, factors, tmp_path, reopen=sweep.reopen_here)
    text = format_snippets(json.loads((tmp_path / "config.json").read_text()), "org/name")
    (line,) = [line for line in text.splitlines() if line.startswith("vllm serve org/name --max-model-len 256 ")]
    stated = json.loads(line.split("'")[1])
    assert stated["max_position_embeddings"] == 256
    network = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**original, **stated}))
    rotary = network.base_model.rotary_emb
    assert rotary.inv_freq.numpy() == pytest.approx(model.spec.plain_frequencies / lambdas, rel=1e-5)
    assert rotary.attention_scaling == pytest.approx(1.2)


@pytest.mark.parametrize("project", ["axolotl", "SGLang"])
def test_settings_put_into_a_loaded_config_give_the_frequencies(project: str, tmp_path: Path) -> None:
    """As axolotl does, one attribute after the other, and SGLang, which adds dicts to those that are there."""
    model = pico.make_model("llama", rope_theta=5e5)
    config, lambdas = model.network.config, (1.0, 1.5, 3.0, 4.0)
    factors = RescaleFactors(lambdas, 256, model.spec.fingerprint, attention_factor=1.2)
    export_hf(model, factors, tmp_path, reopen=sweep.reopen_here)
    text = format_snippets(json.loads((tmp_path / "config.json").read_text()), "org/name")
    (part,) = [part for part in text.split("\n# ") if part.startswith(project)]
    stated = json.loads(part[part.index("{") : part.rindex("}") + 1])
    for name, value in stated.items():
        merged = project == "SGLang" and isinstance(value, dict)
        setattr(config, name, {**getattr(config, name), **value} if merged else value)
    rotary = AutoModelForCausalLM.from_config(config).base_model.rotary_emb
    assert rotary.inv_freq.numpy() == pytest.approx(model.spec.plain_frequencies / np.asarray(lambdas), rel=1e-5)
    assert rotary.attention_scaling == pytest.approx(1.2)


def test_the_docs_state_the_versions_that_the_text_states() -> None:
    page = (Path(__file__).parents[1] / "docs" / "serving.md").read_text()
    for project, tried in TRIED.items():
        version, *others = re.findall(rf"{project} (\d[\d.]*\d)", tried)
        assert f"| {project} | {version}, with transformers" in page
        for other in others:
            assert f"| {project}, on a CPU | {other}, " in page
