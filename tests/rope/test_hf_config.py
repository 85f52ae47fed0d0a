"""RoPE in configs: what is written reads back, by our reader and by transformers, whose modules are the oracle."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from transformers import AutoConfig

from longrope.errors import ModelError
from longrope.models import config_entries, load_config, read_spec
from longrope.rope import FactorLists, NativeScaling, RopeSpec
from longrope.rope.hf_config import read_geometry, write_longrope
from longrope.rope.hf_legacy import from_legacy, to_legacy

WINDOW, TARGET = 64, 256
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "wide": ("qwen3", {}),
    "partial": ("stablelm", {}),
    "quarter": ("gpt_neox", {}),
    "window-at-the-top": ("phi3", {}),
    "no-head-dim": ("mixtral", {}),
    "carrying": ("llama", {"rope": YARN}),
}


def make_lists(spec: RopeSpec, attention_factor: float = 1.25) -> FactorLists:
    """Lists of which no two entries are equal."""
    short, long = np.linspace(1, 1.5, spec.num_pairs), np.linspace(1, 6, spec.num_pairs)
    return FactorLists(tuple(short.tolist()), tuple(long.tolist()), attention_factor, WINDOW, TARGET)


@pytest.mark.parametrize("name", MODELS)
def test_written_factors_read_back(name: str) -> None:
    """The geometry with the long factors as its own scaling; the short ones and the switch stand beside them."""
    family, changes = MODELS[name]
    config = pico.make_config(family, **changes)
    entries, spec = config_entries(config), read_geometry(config_entries(config))
    lists = make_lists(spec)
    written = {**entries, **write_longrope(entries, spec, lists)}
    native = NativeScaling("longrope", lists.long, lists.attention_factor, lists.short, WINDOW)
    assert read_geometry(written) == replace(spec, trained_window=TARGET, native=native)
    stated = written["rope_parameters"]
    assert (tuple(stated["short_factor"]), stated["original_max_position_embeddings"]) == (lists.short, WINDOW)
    assert json.loads(json.dumps(written)) == written


@pytest.mark.parametrize("name", MODELS)
def test_transformers_computes_what_was_written(name: str) -> None:
    """Its own module divides by the short factors up to the switch, by the long ones above it."""
    family, changes = MODELS[name]
    config = pico.make_config(family, **changes)
    spec = read_geometry(config_entries(config))
    lists = make_lists(spec)
    for key, value in write_longrope(config_entries(config), spec, lists).items():
        setattr(config, key, value)
    rotary = type(pico.make_network(family).base_model.rotary_emb)(config=config)
    for tokens, factors in ((WINDOW, lists.short), (WINDOW + 1, lists.long)):
        rotary(torch.zeros(1, tokens, spec.head_dim), torch.arange(tokens)[None])
        expected = [spec.theta ** (-2 * i / spec.rotary_dim) / x for i, x in enumerate(factors)]
        np.testing.assert_allclose(rotary.inv_freq.double(), expected, rtol=1e-6)
    assert rotary.attention_scaling == lists.attention_factor


def test_an_attention_factor_that_is_not_stated_is_that_of_the_window() -> None:
    config = config_entries(pico.make_config("llama"))
    written = {**config, **write_longrope(config, read_geometry(config), make_lists(read_geometry(config)))}
    del written["rope_parameters"]["attention_factor"]
    assert read_geometry(written).attention_factor == math.sqrt(1 + math.log(TARGET / WINDOW) / math.log(WINDOW))


# Configs of the years before rope_parameters

PARAMETERS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 5e4},
    "partial": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    "yarn": {**YARN, "rope_theta": 1e6, "beta_fast": 16.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "factor": 4.0,
        "original_max_position_embeddings": WINDOW,
    },
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_legacy_entries_say_the_same(name: str) -> None:
    """To us and to transformers, which reads old files, too."""
    parameters = PARAMETERS[name]
    legacy = to_legacy(parameters)
    assert "rope_parameters" not in legacy
    assert from_legacy(legacy) == parameters
    config = AutoConfig.for_model("llama", **pico.BASE, **legacy)
    assert {key: config.rope_parameters[key] for key in parameters} == parameters


FILES: dict[str, dict[str, Any]] = {  # as the authors of models wrote them
    "llama-linear": {"model_type": "llama", "rope_theta": 5e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama-plain": {"model_type": "llama", "rope_theta": 5e4, "rope_scaling": None},
    "pythia": {"model_type": "gpt_neox", "hidden_size": 64, "rotary_pct": 0.5, "rotary_emb_base": 20000},
    "stablelm": {"model_type": "stablelm", "hidden_size": 64, "partial_rotary_factor": 0.25, "rope_theta": 10000},
    "qwen2-yarn": {"model_type": "qwen2", "rope_theta": 1e6, "rope_scaling": {"type": "yarn", **YARN}},
    "llama3": {  # a base so small that the window before the scaling decides what is scaled
        "model_type": "llama",
        "rope_theta": 50.0,
        "rope_scaling": {key: value for key, value in PARAMETERS["llama3"].items() if key != "rope_theta"},
    },
    "phi3-longrope": {
        "model_type": "phi3",
        "rope_theta": 10000.0,
        "max_position_embeddings": TARGET,
        "original_max_position_embeddings": WINDOW,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]},
    },
}


@pytest.mark.parametrize("name", FILES)
def test_a_legacy_file_is_read_as_transformers_reads_it(name: str, tmp_path: Path) -> None:
    """The raw content of config.json, against the config object and the live module that transformers makes of it."""
    content = {**pico.BASE, **FILES[name]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert read_geometry(content) == read_spec(load_config(tmp_path))


@pytest.mark.parametrize("name", ["rope_theta", "rope_type"])
def test_no_number_is_made_up(name: str) -> None:
    """A file that states no base of the frequencies or no kind is refused."""
    content = {**pico.BASE, "model_type": "llama", "rope_parameters": dict(PARAMETERS["linear"])}
    del content["rope_parameters"][name]
    with pytest.raises(ModelError, match=rf"'llama' states no rope_parameters\['{name}'\]"):
        read_geometry(content)
    with pytest.raises(ModelError, match="states no rope_parameters: it has no rotary"):
        read_geometry({**pico.BASE, "model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}})
