"""What stands in an exported GGUF file, against an independent writer, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pico
import pytest
import torch
from gguf import GGUFReader, LlamaFileType, dequantize
from gguf_exports import LAMBDAS, TWO, WINDOW, make_factors, read_file, tensor_of, with_padding
from transformers import AutoModelForCausalLM

from longrope.errors import ExportError, FactorsError
from longrope.exports import export_gguf
from longrope.exports.gguf import verify_file
from longrope.exports.gguf_weights import as_stored
from longrope.exports.lists import native_lists
from longrope.models import LanguageModel
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors

# What is written


@pytest.mark.parametrize("tied", [False, True])
def test_the_file_is_that_of_an_independent_writer(tied: bool, tmp_path: Path) -> None:
    """Every tensor and every word that the tests' own writer gives to llama.cpp, and both lists beside them."""
    model = pico.make_model("llama", max_position_embeddings=WINDOW, tie_word_embeddings=tied)
    export_gguf(model, make_factors(model), tmp_path / "ours.gguf", settings=TWO)
    untied = pico.make_network("llama", max_position_embeddings=4 * WINDOW)
    untied.load_state_dict(model.network.state_dict())
    short, long = np.ones(4, np.float32), np.asarray(LAMBDAS, np.float32)
    lists: dict[str, Any] = {"rope_factors_short": short, "rope_factors_long": long}
    wanted, weights = read_file(pico.save_gguf(tmp_path / "other.gguf", untied, **lists))
    written, tensors = read_file(tmp_path / "ours.gguf")
    if tied:
        del weights["output.weight"]
    assert tensors.keys() == weights.keys()
    assert all(np.array_equal(tensors[name], weights[name]) for name in weights)
    assert wanted.items() <= written.items()
    added = {name.removeprefix("llama."): written[name] for name in written.keys() - wanted.keys()}
    assert added == {
        "general.name": "pico-llama, context window 1024",
        "general.file_type": 0,
        "vocab_size": 320,
        "attention.key_length": 8,
        "attention.value_length": 8,
        "rope.scaling.type": "longrope",
        "rope.scaling.original_context_length": WINDOW,
        "rope.scaling.attn_factor": pytest.approx(1.2),
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }


@pytest.mark.parametrize(("dtype", "size"), [(torch.float16, 2), (torch.bfloat16, 2), (torch.float32, 4)])
def test_weights_keep_their_number_format(dtype: torch.dtype, size: int, tmp_path: Path) -> None:
    """Matrices in the model's own, vectors and lists in float32, and nothing is lost on the way."""
    model = pico.make_model("llama", dtype=dtype)
    report = export_gguf(model, make_factors(model), tmp_path / "x.gguf")
    assert max(report.difference_short, report.difference_long) < 1e-4
    _, tensors = read_file(tmp_path / "x.gguf")
    assert tensors["blk.1.attn_k.weight"].nbytes == 16 * 32 * size
    assert {tensors[name].dtype for name in ("blk.0.attn_norm.weight", "rope_freqs.weight")} == {np.dtype("f4")}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="x.gguf", dtype=dtype)
    for name, weight in model.network.state_dict().items():
        assert torch.equal(plain.state_dict()[name], weight), name


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
def test_weights_are_written_in_the_format_that_is_asked_for(own: torch.dtype, dtype: str, tmp_path: Path) -> None:
    """Matrices alone; each number is as near as the format has one, and the check of the logits knows of it."""
    model = pico.make_model("llama", dtype=own)
    report = export_gguf(model, make_factors(model), tmp_path / "x.gguf", dtype=dtype)
    assert max(report.difference_short, report.difference_long) < 1e-3
    written, tensors = read_file(tmp_path / "x.gguf")
    assert LlamaFileType(written["general.file_type"]).name.endswith(dtype.upper())
    weights = {t.name: t for t in GGUFReader(tmp_path / "x.gguf").tensors}
    up, norm = weights["blk.0.ffn_up.weight"], weights["blk.0.ffn_norm.weight"]
    assert (up.tensor_type.name, norm.tensor_type.name) == (dtype.upper(), "F32")
    assert tensors["rope_freqs.weight"].dtype == np.float32
    wanted = model.network.state_dict()["model.layers.0.mlp.up_proj.weight"].float().numpy()
    got, largest = dequantize(up.data, up.tensor_type), np.abs(wanted).max()
    off = {"f32": 0, "f16": 2**-11 * largest, "bf16": 2**-8 * largest, "q8_0": largest / 127 * 0.51}
    assert np.abs(got - wanted).max() <= off[dtype]


def test_a_spoiled_quantized_file_is_noticed(model: LanguageModel, tmp_path: Path) -> None:
    """The check compares with rounded weights, and not with whatever the file holds."""
    factors, path = make_factors(model), tmp_path / "x.gguf"
    export_gguf(model, factors, path, dtype="q8_0")
    reader = GGUFReader(path, "r+")
    row = tensor_of(reader, "rope_freqs")
    row[-1] = 1.0
    reader.data.flush()
    with pytest.raises(ExportError, match="other logits than ours"):
        verify_file(as_stored(gguf, model, "q8_0"), native_lists(model, factors, ExportRecipe(), None), path)


def test_rows_that_blocks_do_not_divide_are_written_in_f16(tmp_path: Path) -> None:
    """As llama.cpp's own converter does: 48 columns of the second matrix, of blocks of 32."""
    model = pico.make_model("llama")
    export_gguf(model, make_factors(model), tmp_path / "x.gguf", dtype="q8_0")
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "x.gguf").tensors}
    assert (kinds["blk.0.ffn_up.weight"], kinds["blk.0.ffn_down.weight"]) == ("Q8_0", "F16")


def test_formats_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Numbers beyond float16, a format of no name; what was there before stays."""
    model, path = pico.make_model("llama", dtype=torch.bfloat16), tmp_path / "x.gguf"
    path.write_text("before")
    with pytest.raises(ExportError, match="'q2_k'"):
        export_gguf(model, make_factors(model), path, dtype="q2_k")
    model.network.model.layers[1].mlp.up_proj.weight.data[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.up_proj\.weight has numbers up to 9.98e\+04"):
        export_gguf(model, make_factors(model), path, dtype="f16")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize("partial", [1.0, 0.5])
@pytest.mark.parametrize("factor_sets", ["single", "two"])
def test_phi3_is_written_in_its_own_layout(factor_sets: str, partial: float, tmp_path: Path) -> None:
    """Projections in one matrix, halves apart, heads that turn in part; the static layout is not of its graph."""
    model = with_padding(pico.make_model("phi3", max_position_embeddings=WINDOW, partial_rotary_factor=partial))
    lambdas = LAMBDAS[: model.spec.num_pairs]
    factors = RescaleFactors(lambdas, 4 * WINDOW, model.spec.fingerprint, attention_factor=1.2)
    settings = ExportRecipe(factor_sets=factor_sets)
    report = export_gguf(model, factors, tmp_path / "x.gguf", settings=settings)
    assert max(report.difference_short, report.difference_long) < 1e-3
    written, tensors = read_file(tmp_path / "x.gguf")
    assert (written["general.architecture"], written["phi3.rope.scaling.type"]) == ("phi3", "longrope")
    assert written["phi3.rope.dimension_count"] == 2 * len(lambdas)
    state = model.network.state_dict()
    assert np.array_equal(tensors["blk.1.attn_qkv.weight"], state["model.layers.1.self_attn.qkv_proj.weight"])
    with pytest.raises(ExportError, match="longrope"):
        export_gguf(model, factors, tmp_path / "y.gguf", layout="static")


# Refused


@pytest.mark.parametrize(
    ("family", "changes", "found"),
    [
        ("qwen3", {}, "'qwen3'"),
        ("olmo2", {}, "'olmo2'"),
        ("gpt_neox", {}, "'gpt_neox'"),
        ("mistral", {"sliding_window": 32}, "slides over 32 tokens"),
        ("llama", {"attention_bias": True}, "biases"),
        ("llama", {"mlp_bias": True}, "biases"),
        ("llama", {"hidden_act": "gelu"}, "'gelu'"),
        ("llama", {"dtype": torch.float64}, "torch.float64"),
    ],
)
def test_models_that_the_file_cannot_hold_are_refused(
    family: str, changes: dict[str, Any], found: str, tmp_path: Path
) -> None:
    """By name, before anything is written."""
    model = pico.make_model(family, **changes)
    with pytest.raises(ExportError) as caught:
        export_gguf(model, replace(make_factors(pico.make_model("llama"))), tmp_path / "new" / "x.gguf")
    assert found in caught.value.found
    assert "--to hf" in caught.value.remedy
    assert not (tmp_path / "new").exists()


def test_other_names_and_geometries_are_refused(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"does not end in \.gguf"):
        export_gguf(model, make_factors(model), tmp_path / "x.bin")
    with pytest.raises(FactorsError, match="geometry"):
        export_gguf(model, make_factors(pico.make_model("mistral")), tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())
