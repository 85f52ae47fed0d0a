"""The number format of a GGUF file where none is asked for: that of the weights, whatever they were loaded in."""

from pathlib import Path

import pico
import pytest
import torch
from gguf import GGUFReader

from longrope.exports import export_gguf
from longrope.exports.gguf_weights import choose_format
from longrope.models import load_model, save_model
from longrope.rope import RescaleFactors


@pytest.mark.parametrize(
    ("stored", "kind"), [(torch.bfloat16, "BF16"), (torch.float16, "F16"), (torch.float32, "F32")], ids=str
)
def test_a_file_has_the_number_format_of_the_stored_weights(stored: torch.dtype, kind: str, tmp_path: Path) -> None:
    """Of a folder that is loaded on a CPU; not one number is changed."""
    save_model(pico.make_model("llama", dtype=stored), tmp_path / "base")
    model = load_model(tmp_path / "base", device="cpu")
    assert model.network.dtype == torch.float32
    factors = RescaleFactors((1.0, 1.5, 3.0, 4.0), 256, model.spec.fingerprint, attention_factor=1.2)
    export_gguf(model, factors, tmp_path / "x.gguf")
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "x.gguf").tensors}
    assert (kinds["blk.0.ffn_up.weight"], kinds["blk.0.attn_norm.weight"]) == (kind, "F32")
    again = load_model(tmp_path / "x.gguf", device="cpu").network.state_dict()
    for name, weight in model.network.state_dict().items():
        assert torch.equal(again[name], weight), name


def test_one_number_that_is_finer_keeps_float32() -> None:
    """As of tuned weights."""
    model = pico.make_model("llama", dtype=torch.bfloat16)
    model.network.float()
    assert choose_format(model) == "bf16"
    assert choose_format(model, "f32") == "f32", "where it is asked for"
    model.network.model.layers[1].mlp.up_proj.weight.data[3, 4] = 1 / 3
    assert choose_format(model) == "f32"
