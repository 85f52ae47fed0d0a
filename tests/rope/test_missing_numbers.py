"""Configs that lack a number of their RoPE, or state something else in its place, are refused by name."""

from typing import Any

import pico
import pytest

from longrope.errors import ModelError
from longrope.rope.hf_config import read_geometry

LISTS: dict[str, Any] = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
KINDS: dict[str, dict[str, Any]] = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": LISTS,
    "yarn": {"factor": 4.0, "beta_fast": 32, "truncate": False, "mscale": None},
}
MISSING = [(kind, name) for kind, stated in KINDS.items() if kind != "yarn" for name in stated]


def content(kind: str, **changes: Any) -> dict[str, Any]:
    stated = {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 64, **KINDS[kind], **changes}
    return {**pico.BASE, "model_type": "llama", "rope_parameters": stated}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_configs_are_read(kind: str) -> None:
    native = read_geometry(content(kind)).native
    assert native is not None
    assert native.rope_type == kind


@pytest.mark.parametrize(("kind", "name"), MISSING)
@pytest.mark.parametrize("how", ["left out", "null"])
def test_a_number_that_is_missing_is_named(kind: str, name: str, how: str) -> None:
    config = content(kind, **{name: None})
    if how == "left out":
        del config["rope_parameters"][name]
    with pytest.raises(ModelError, match=rf"'llama' states no rope_parameters\['{name}'\], which .*'{kind}' needs"):
        read_geometry(config)


@pytest.mark.parametrize("value", ["4.0", [4.0], float("nan"), float("inf"), {}])
@pytest.mark.parametrize(("kind", "name"), [("linear", "factor"), ("yarn", "beta_fast"), ("yarn", "rope_theta")])
def test_what_is_no_number_is_named(kind: str, name: str, value: Any) -> None:
    with pytest.raises(ModelError, match=rf"states rope_parameters\['{name}'\] = .*, which is no number"):
        read_geometry(content(kind, **{name: value}))


@pytest.mark.parametrize("values", ["1.0", [1.0, 2.0, "3", 4.0], [1.0, None, 1.0, 1.0], {"0": 1.0}])
def test_lists_hold_numbers(values: Any) -> None:
    with pytest.raises(ModelError, match=r"states rope_parameters\['long_factor'\] = "):
        read_geometry(content("longrope", long_factor=values))


@pytest.mark.parametrize("name", ["max_position_embeddings", "hidden_size", "num_attention_heads"])
def test_sizes_that_are_missing_are_named(name: str) -> None:
    config = content("linear")
    del config[name]
    with pytest.raises(ModelError, match=f"'llama' states no {name}"):
        read_geometry(config)
    if name != "max_position_embeddings":  # the width of a head is there
        assert read_geometry({**config, "head_dim": 8}).head_dim == 8


def test_hunyuan_states_alpha_in_the_place_of_a_factor() -> None:
    """One base for every length: 1e4 * 100 ** (d / (d - 2)), d = 8."""
    config = content("dynamic", alpha=100.0)
    del config["rope_parameters"]["factor"]
    spec = read_geometry(config)
    assert not spec.by_length
    assert spec.frequencies.tolist() == pytest.approx([(1e4 * 100 ** (8 / 6)) ** (-i / 4) for i in range(4)])
