"""RoPE in GGUF files: what is written reads back, under the names that the gguf library gives to keys and tensors."""

from dataclasses import replace
from typing import Any

import gguf
import numpy as np
import pytest

from longrope.rope import FactorLists, NativeScaling, RopeSpec
from longrope.rope.gguf_metadata import read_parameters, write_longrope
from longrope.rope.hf_config import read_geometry
from longrope.rope.hf_config import write_longrope as write_config

SPECS = {
    "whole": RopeSpec(head_dim=8, rotary_dim=8, theta=5e4, trained_window=64),
    "partial": RopeSpec(head_dim=16, rotary_dim=8, theta=1e4, trained_window=64),
}
SHORT, LONG = (1.0, 1.125, 1.25, 1.5), (1.0, 2.0, 5.0, 8.0)  # float32 holds them exactly
LISTS = FactorLists(SHORT, LONG, 1.25, switch_tokens=64, target_window=256)
every_spec = pytest.mark.parametrize("name", SPECS)


def read_back(spec: RopeSpec, metadata: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """The config that the metadata of a file stands for."""
    stated = {name: row.tolist() for name, row in tensors.items()}
    parameters = read_parameters(metadata, stated, spec.head_dim, "x.gguf")
    window = metadata["context_length"]
    return {"head_dim": spec.head_dim, "max_position_embeddings": window, "rope_parameters": parameters}


@every_spec
def test_written_factors_read_back(name: str) -> None:
    """As the geometry that the config of the same factors states, short factors and switch included."""
    spec = SPECS[name]
    config = read_back(spec, *write_longrope(spec, LISTS))
    native = NativeScaling("longrope", LONG, 1.25, LISTS.short, LISTS.switch_tokens)
    assert read_geometry(config) == replace(spec, trained_window=256, native=native)
    own = {"rope_parameters": {}} if name == "whole" else {"rope_parameters": {"partial_rotary_factor": 0.5}}
    stated = write_config(own, spec, LISTS)["rope_parameters"]
    assert config["rope_parameters"].items() <= stated.items()
    assert {"short_factor", "long_factor", "original_max_position_embeddings"} <= config["rope_parameters"].keys()


@every_spec
def test_keys_and_tensors_have_their_names(name: str) -> None:
    """Those of llama.cpp's own library; no scaling factor, by which llama.cpp would divide the positions besides."""
    metadata, tensors = write_longrope(SPECS[name], LISTS)
    keys = gguf.Keys.Rope
    names = [keys.DIMENSION_COUNT, keys.FREQ_BASE, keys.SCALING_TYPE, keys.SCALING_ORIG_CTX_LEN]
    names += [keys.SCALING_ATTN_FACTOR, gguf.Keys.LLM.CONTEXT_LENGTH]
    assert {f"{{arch}}.{key}" for key in metadata} == set(names)
    assert metadata["rope.scaling.type"] == gguf.RopeScalingType.LONGROPE.value
    wanted = (gguf.MODEL_TENSOR.ROPE_FACTORS_SHORT, gguf.MODEL_TENSOR.ROPE_FACTORS_LONG)
    assert list(tensors) == [f"{gguf.TENSOR_NAMES[tensor]}.weight" for tensor in wanted]
    assert {row.dtype for row in tensors.values()} == {np.dtype(np.float32)}


def test_divisors_of_older_files_are_both_lists() -> None:
    """The one tensor that Llama 3.1's files have: it holds at every length, with no factor on cos and sin."""
    spec = SPECS["whole"]
    metadata = {"context_length": 128, "rope.dimension_count": 8, "rope.freq_base": 5e4}
    config = read_back(spec, metadata, {"rope_freqs.weight": np.asarray(LONG, np.float32)})
    assert read_geometry(config) == replace(spec, trained_window=128, native=NativeScaling("longrope", LONG, 1.0))
    assert config["rope_parameters"]["short_factor"] == list(LONG)
