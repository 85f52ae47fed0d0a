"""The scalings that GGUF files state, as llama.cpp reads them; what cannot be read is refused by its keys."""

import math
from typing import Any

import numpy as np
import pytest

from longrope.errors import ModelError
from longrope.rope.gguf_metadata import read_parameters

STATED = {"context_length": 64, "rope.freq_base": 1e4}
LISTS = {"rope_factors_short.weight": [1.0, 1.0, 1.0, 1.5], "rope_factors_long.weight": [1.0, 2.0, 4.0, 8.0]}


def read(tensors: dict[str, Any] | None = None, **scaling: Any) -> dict[str, Any]:
    keys = {f"rope.{key.replace('__', '.')}": value for key, value in scaling.items()}
    parameters = read_parameters({**STATED, **keys}, tensors or {}, 8, "x.gguf")
    assert parameters.pop("rope_theta") == 1e4
    return parameters


@pytest.mark.parametrize(
    "keys",
    [
        {"scaling__type": "linear", "scaling__factor": 4.0},
        {"scaling__factor": 4.0},
        {"scale_linear": 4.0},
        {"scale_linear": 9.0, "scaling__factor": 4.0},
    ],
    ids=["type and factor", "factor alone", "the key of 2023", "the newer key before the older"],
)
def test_a_factor_is_linear_where_no_other_type_is_stated(keys: dict[str, Any]) -> None:
    assert read(**keys) == {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"scaling__type": "linear"},
        {"scaling__type": "yarn"},
        {"scaling__type": "none", "scaling__factor": 4.0},
        {"scaling__factor": 0.0},
        {"scaling__factor": 1.0, "scaling__finetuned": True},
    ],
    ids=["nothing", "linear without factor", "yarn without factor", "none", "zero", "one"],
)
def test_no_factor_is_no_scaling(keys: dict[str, Any]) -> None:
    assert read(**keys) == {}


def test_yarn_with_a_factor_on_cos_and_sin() -> None:
    """It multiplies YaRN's own, 0.1 ln s + 1."""
    read_yarn = read(
        scaling__type="yarn",
        scaling__factor=4.0,
        scaling__original_context_length=16,
        scaling__attn_factor=1.5,
        scaling__yarn_ext_factor=1.0,
        scaling__yarn_log_multiplier=0.0,
        scaling__yarn_beta_fast=16.0,
    )
    attention = read_yarn.pop("attention_factor")
    assert attention == pytest.approx(1.5 * (0.1 * math.log(4) + 1))
    assert read_yarn == {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 16.0,
    }


def test_lists_are_read_without_a_type() -> None:
    """llama.cpp takes the tensors whatever the type is; where a file states no factor on cos and sin, there is none."""
    wanted = {
        "rope_type": "longrope",
        "short_factor": LISTS["rope_factors_short.weight"],
        "long_factor": LISTS["rope_factors_long.weight"],
        "attention_factor": 1.0,
        "original_max_position_embeddings": 32,
    }
    assert read(LISTS, scaling__original_context_length=32) == wanted
    assert read(LISTS, scaling__original_context_length=32, scaling__type="longrope") == wanted


def meta_divisors(theta: float, dimension: int, factor: float) -> list[float]:
    """As llama.cpp's converter writes them for Llama 3.1: a loop over wavelengths, in float32."""
    low_wavelength, high_wavelength = 8192 / 1.0, 8192 / 4.0
    divisors = []
    for i in range(0, dimension, 2):
        wavelength = 2 * math.pi * theta ** (i / dimension)
        if wavelength < high_wavelength:
            divisors.append(1.0)
        elif wavelength > low_wavelength:
            divisors.append(factor)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return [float(x) for x in np.asarray(divisors, np.float32)]


@pytest.mark.parametrize("factor", [8.0, 32.0], ids=["Llama 3.1", "Llama 3.2"])
def test_the_divisors_of_llama_3_are_its_scaling(factor: float) -> None:
    """One set for every length, so that a short and a long list can be exported beside it."""
    stated = {"context_length": 131_072, "rope.freq_base": 5e5}
    parameters = read_parameters(stated, {"rope_freqs.weight": meta_divisors(5e5, 128, factor)}, 128, "x.gguf")
    assert parameters == {
        "rope_theta": 5e5,
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


def test_other_divisors_hold_at_every_length() -> None:
    parameters = read({"rope_freqs.weight": [1.0, 1.5, 4.0, 9.0]}, scaling__attn_factor=1.25)
    assert parameters["rope_type"] == "longrope"
    assert parameters["short_factor"] == parameters["long_factor"] == [1.0, 1.5, 4.0, 9.0]
    assert parameters["attention_factor"] == 1.25


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a long list without the short one": ({"rope_factors_long.weight": [1.0] * 4}, {}, "rope_factors_long"),
    "a short list without the long one": ({"rope_factors_short.weight": [1.0] * 4}, {}, "rope_factors_short"),
    "lists and a factor": (LISTS, {"scaling__factor": 4.0}, r"scaling\.factor = 4"),
    "lists and yarn": (LISTS, {"scaling__type": "yarn"}, "yarn"),
    "the type of lists without them": ({}, {"scaling__type": "longrope"}, "longrope"),
    "a type of the future": ({}, {"scaling__type": "spiral", "scaling__factor": 2.0}, "spiral"),
    "yarn's share of extrapolation": (
        {},
        {"scaling__type": "yarn", "scaling__factor": 4.0, "scaling__yarn_ext_factor": 0.5},
        "yarn_ext_factor = 0.5",
    ),
    "yarn's multiplier": (
        {},
        {"scaling__type": "yarn", "scaling__factor": 4.0, "scaling__yarn_log_multiplier": 0.1},
        "yarn_log_multiplier = 0.1",
    ),
    "an attention factor of plain RoPE": ({}, {"scaling__attn_factor": 1.2}, "attn_factor = 1.2"),
    "a key of the future": ({}, {"scaling__bend": 2}, "bend = 2"),
    "a tensor of the future": ({"rope_turns.weight": [1.0] * 4}, {}, "rope_turns"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_by_its_keys(case: str) -> None:
    tensors, keys, named = REFUSED[case]
    with pytest.raises(ModelError, match=named):
        read(tensors, **keys)
