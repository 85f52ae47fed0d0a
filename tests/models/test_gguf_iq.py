"""GGUF files with IQ quantizations load with the weights that the gguf package reads of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pico
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
from numpy.typing import NDArray

from longrope.models import load_config, load_model, read_spec

TYPES = {  # by the tensor that is written so; each is of 256 rows of 256 numbers
    "blk.0.ffn_down.weight": "IQ4_NL",
    "blk.0.ffn_up.weight": "IQ4_XS",
    "blk.0.ffn_gate.weight": "IQ3_S",
    "blk.1.ffn_down.weight": "IQ3_XXS",
    "blk.1.ffn_up.weight": "IQ2_S",
    "blk.1.ffn_gate.weight": "IQ2_XS",
    "blk.2.ffn_down.weight": "IQ2_XXS",
    "blk.2.ffn_up.weight": "IQ1_S",
}
SHAPE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 3}


def make_blocks(kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    """Random blocks, each with the scale 0.01 in its first two bytes."""
    numbers, size = GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(int(kind)).integers(256, size=(256 * 256 // numbers, size)).astype(np.uint8)
    blocks[:, :2] = np.array([0.01], np.float16).view(np.uint8)
    return blocks.reshape(256, -1)


def test_a_file_of_iq_types_loads_as_what_the_gguf_package_reads(tmp_path: Path) -> None:
    network = pico.make_network("llama", **SHAPE)
    packed = {
        name: (make_blocks(kind), kind) for name, kind in ((n, GGMLQuantizationType[t]) for n, t in TYPES.items())
    }
    path = pico.save_gguf(tmp_path / "iq.gguf", network, lambda _: None, packed)
    model = load_model(path, device="cpu")
    for name, (blocks, kind) in packed.items():
        _, layer, part, _ = name.replace(".ffn_", ".").split(".")
        loaded = model.network.model.layers[int(layer)].mlp.get_submodule(f"{part}_proj").weight
        wanted = torch.from_numpy(dequantize(blocks, kind))
        assert wanted.std() > 0
        assert torch.equal(loaded, wanted), name
    others = network.state_dict()
    assert all(torch.equal(value, others[name]) for name, value in model.network.state_dict().items() if "attn" in name)
    assert read_spec(load_config(path)) == model.spec
