"""The number format of exported folders: the base model's where it holds the weights, or the one that is asked for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import sweep
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from longrope.errors import ExportError
from longrope.exports import ExportReport, export_gguf, export_hf
from longrope.models import LanguageModel, load_model
from longrope.rope import RescaleFactors

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def export(model: LanguageModel, folder: Path, dtype: str = "") -> ExportReport:
    """Export factors of 1 to 4 for 256 tokens, reopened in this process."""
    lambdas = tuple(np.linspace(1, 4, model.spec.num_pairs).tolist())
    factors = RescaleFactors(lambdas, 256, model.spec.fingerprint, attention_factor=1.2)
    return export_hf(model, factors, folder, dtype=dtype, reopen=sweep.reopen_here)


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())  # type: ignore[no-any-return]


def save_base(folder: Path, dtype: torch.dtype, **changes: Any) -> Path:
    """A base model in a number format."""
    return pico.save_pico(folder, "llama", dtype=dtype, **changes)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [False, True])
def test_the_bytes_of_the_base_model(dtype: str, tied: bool, tmp_path: Path) -> None:
    """Loaded in float32 on a CPU, its weights are written as they were stored, and the config says so."""
    base = save_base(tmp_path / "base", DTYPES[dtype], tie_word_embeddings=tied)
    model = load_model(base, device="cpu")
    report = export(model, tmp_path / "out")
    assert model.network.dtype == torch.float32, "the loaded model stays what it was"
    before, after = weights_of(base), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert weight.dtype == after[name].dtype == DTYPES[dtype], name
        assert torch.equal(weight, after[name]), name
    config = read_config(tmp_path / "out")
    assert config["dtype"] == config["torch_dtype"] == dtype
    assert report.weights.startswith(dtype)
    assert f"Weights: {dtype}" in (tmp_path / "out" / "README.md").read_text()


def test_a_config_that_states_no_format(tmp_path: Path) -> None:
    """The stored matrices say it, as they do to transformers."""
    base = save_base(tmp_path / "base", torch.bfloat16)
    config = read_config(base)
    pico.write_config(base, **{name: value for name, value in config.items() if name not in ("dtype", "torch_dtype")})
    assert load_model(base).stored_dtype == "bfloat16"


def test_a_vector_of_more_digits_stays_in_float32(tmp_path: Path) -> None:
    """As some models keep theirs, beside matrices in bfloat16."""
    base = save_base(tmp_path / "base", torch.bfloat16)
    weights = weights_of(base)
    weights["model.norm.weight"] = torch.full((32,), 1 + 2**-12)
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    export(load_model(base), tmp_path / "out")
    after = weights_of(tmp_path / "out")
    assert {name for name, weight in after.items() if weight.dtype == torch.float32} == {"model.norm.weight"}
    assert torch.equal(after["model.norm.weight"], weights["model.norm.weight"])


def test_tuned_weights_lose_nothing(tmp_path: Path) -> None:
    """What bfloat16 does not hold is written in float32, unless it is asked for."""
    model = load_model(save_base(tmp_path / "base", torch.bfloat16))
    model.network.model.layers[0].mlp.up_proj.weight.data += 1e-4
    report = export(model, tmp_path / "out")
    assert {weight.dtype for weight in weights_of(tmp_path / "out").values()} == {torch.float32}
    assert read_config(tmp_path / "out")["dtype"] == "float32"
    assert "--dtype rounds them" in report.weights
    export(model, tmp_path / "rounded", "bf16")
    for name, weight in weights_of(tmp_path / "rounded").items():
        assert torch.equal(weight, model.network.state_dict()[name].bfloat16()), name


@pytest.mark.parametrize("asked", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
def test_a_format_that_is_asked_for(own: torch.dtype, asked: str, tmp_path: Path) -> None:
    """Every weight is rounded once, the model itself is not, and the check of the logits knows of it."""
    model = pico.make_model("llama", dtype=own)
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    report = export(model, tmp_path, asked)
    wanted = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[asked]
    written = weights_of(tmp_path)
    for name, weight in before.items():
        assert written[name].dtype == wanted, name
        assert torch.equal(written[name], weight.to(wanted)), name
        assert torch.equal(model.network.state_dict()[name], weight), name
    assert max(report.difference_short, report.difference_long) < 1e-3
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert plain.dtype == wanted, "what a reader takes who asks for nothing"


def test_what_a_format_cannot_hold(tmp_path: Path) -> None:
    """Numbers beyond f16, and a format of GGUF files alone; nothing is written."""
    model = pico.make_model("llama")
    model.network.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"up_proj.weight has numbers up to 1e\+05"):
        export(model, tmp_path / "out", "f16")
    with pytest.raises(ExportError, match="q8_0 is one of GGUF files"):
        export(model, tmp_path / "out", "q8_0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "dtype"), [("f32", "float32"), ("bf16", "bfloat16"), ("q8_0", "")])
def test_a_gguf_file_as_base(kind: str, dtype: str, tmp_path: Path) -> None:
    """Its own format; the dequantized weights of a quantized one become float32, which holds them to the bit."""
    made, path = pico.make_model("llama"), tmp_path / "base.gguf"
    export_gguf(made, RescaleFactors((1.0,) * 4, 64, made.spec.fingerprint), path, dtype=kind)
    model = load_model(path)
    assert model.stored_dtype == dtype
    export(model, tmp_path / "out")
    wanted = DTYPES[dtype or "float32"]
    for name, weight in weights_of(tmp_path / "out").items():
        assert torch.equal(weight.float(), model.network.state_dict()[name]), name
        assert weight.dtype == wanted, name


def test_what_was_loaded_in_fewer_digits_stays_so(tmp_path: Path) -> None:
    """As on a GPU: a float32 base that was read, and measured, in bfloat16."""
    model = load_model(save_base(tmp_path / "base", torch.float32), dtype="bfloat16")
    assert model.stored_dtype == "float32"
    export(model, tmp_path / "out")
    assert {weight.dtype for weight in weights_of(tmp_path / "out").values()} == {torch.bfloat16}
    assert read_config(tmp_path / "out")["dtype"] == "bfloat16"


def test_the_scale_of_embeddings_is_not_rounded_to_sixteen_bits(tmp_path: Path) -> None:
    """Gemma-3 in bfloat16 has sqrt(30) as 5.469 for 5.477; opened in float32, its checkpoint has the latter."""
    shape = {"hidden_size": 30, "num_attention_heads": 2, "head_dim": 16}
    pico.save_pico(tmp_path / "base", "gemma3_text", dtype=torch.bfloat16, **shape)
    model = load_model(tmp_path / "base", dtype="bfloat16", device="cpu")
    assert float(model.network.get_input_embeddings().embed_scale) == 5.46875
    report = export(model, tmp_path / "export")
    assert max(report.difference_short, report.difference_long) < 1e-4
