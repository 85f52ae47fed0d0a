"""Patched GGUF files in llama.cpp, and patches that are interrupted."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pico
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize
from gguf_patches import LAMBDAS, PROMPTS, WINDOW, make_factors, make_file, quantized
from llama_cpp import ask, refuses
from rotary_oracles import get_logits

from longrope import patch_gguf
from longrope.errors import ExportError
from longrope.exports.gguf_layouts import ARCHITECTURES
from longrope.exports.unfinished import unfinished_file
from longrope.models import load_model, rescaled
from longrope.recipe import ExportRecipe

# Written whole or not at all


def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_text("before")

    def write(text: str, error: BaseException | None = None) -> None:
        with unfinished_file(path) as unfinished:
            unfinished.write_text(text)
            assert path.read_text() == "before"
            if error:
                raise error

    with pytest.raises(KeyboardInterrupt):
        write("half", KeyboardInterrupt())
    assert [file.name for file in tmp_path.iterdir()] == ["x.gguf"]
    assert path.read_text() == "before"
    write("after")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["after"]


@pytest.mark.slow
def test_a_killed_export_leaves_what_was_there(source: Path, tmp_path: Path) -> None:
    """The process ends in the middle of the tensors; the next export replaces what it left."""
    factors, path = make_factors(source), tmp_path / "new.gguf"
    patch_gguf(source, factors, path)
    before = path.read_bytes()
    script = (
        "import os, sys, gguf; from longrope import patch_gguf, RescaleFactors\n"
        "write, left = gguf.GGUFWriter.write_tensor_data, [5]\n"
        "def count(*given):\n    left[0] -= 1\n    left[0] or os._exit(9)\n    write(*given)\n"
        "gguf.GGUFWriter.write_tensor_data = count\n"
        f"patch_gguf(sys.argv[1], RescaleFactors({LAMBDAS}, 512, {factors.spec_fingerprint!r}), sys.argv[2])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(source), str(path)], timeout=60, check=False)
    assert done.returncode == 9
    assert path.read_bytes() == before
    assert len(list(tmp_path.glob(".new.gguf.*.partial.gguf"))) == 1
    patch_gguf(source, replace(factors, target_window=512), path)
    assert path.read_bytes() != before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.gguf", "source.gguf"]


def test_a_place_that_cannot_be_written_is_an_error_of_ours(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be written"):
        patch_gguf(source, make_factors(source), tmp_path / "file" / "deep" / "x.gguf")


# llama.cpp itself


def renamed(path: Path, source: Path, architecture: str) -> Path:
    """The tensors and keys of a pico Llama under another architecture's name, in the shapes that it has."""
    reader, writer = GGUFReader(source), GGUFWriter(path, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            key = name.replace("llama.", f"{architecture}.", 1) if name.startswith("llama.") else name
            if architecture != "deci" or not key.endswith(("head_count", "head_count_kv", "feed_forward_length")):
                writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
            else:
                writer.add_array(key, [field.contents()] * 2)
    if architecture == "granite":
        for key in ("attention.scale", "embedding_scale", "residual_scale", "logit_scale"):
            writer.add_float32(f"granite.{key}", 1.0)
    weights = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    for block in ("blk.0.", "blk.1."):
        if architecture == "arcee":
            del weights[f"{block}ffn_gate.weight"]
        if architecture == "phi3":
            rows = [weights.pop(f"{block}attn_{name}.weight") for name in "qkv"]
            weights[f"{block}attn_qkv.weight"] = np.concatenate(rows)
            rows = [weights.pop(f"{block}ffn_{name}.weight") for name in ("gate", "up")]
            weights[f"{block}ffn_up.weight"] = np.concatenate(rows)
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    pico.close_gguf(writer)
    return path


@pytest.mark.parametrize(
    ("architecture", "layout"), [(name, layout) for name, layouts in ARCHITECTURES.items() for layout in layouts]
)
def test_llama_cpp_uses_the_factors_of_every_listed_architecture(
    architecture: str, layout: str, source: Path, tmp_path: Path
) -> None:
    """Other probabilities than the file before, and than the attention factor alone gives."""
    file = renamed(tmp_path / f"{architecture}.gguf", source, architecture)
    factors = make_factors(file)
    attention = replace(factors, lambdas=(1.0,) * 4)
    tried = {"all": factors, "attention": attention, "none": replace(attention, attention_factor=1.0)}
    found = {}
    for name, factor_set in tried.items():
        patch_gguf(file, factor_set, tmp_path / f"{name}.gguf", layout=layout)
        found[name] = ask(tmp_path / f"{name}.gguf", PROMPTS, 2 * WINDOW)
    for one, other in (("all", "attention"), ("attention", "none")):
        assert np.abs(found[one] - found[other]).max() > 0.03, (one, other)


def test_llama_cpp_would_drop_or_refuse_the_factors_of_others(source: Path, tmp_path: Path) -> None:
    """Why they are not listed: one refuses a tensor that it does not know, one reads it and turns as before."""
    prompts, scaled = PROMPTS[:, :200], make_file(tmp_path / "scaled.gguf", rope_freqs=np.asarray(LAMBDAS, np.float32))
    assert refuses(renamed(tmp_path / "xverse.gguf", scaled, "xverse"))
    assert not refuses(renamed(tmp_path / "xverse.gguf", source, "xverse"))
    plain, dropped = (
        ask(renamed(tmp_path / f"{name}.gguf", file, "refact"), prompts, WINDOW)
        for name, file in (("plain", source), ("dropped", scaled))
    )
    assert np.array_equal(plain, dropped)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
@pytest.mark.parametrize(("layout", "sets"), [("static", "single"), ("longrope", "single"), ("longrope", "two")])
def test_llama_cpp_gives_our_probabilities(layout: str, sets: str, kind: str, source: Path, tmp_path: Path) -> None:
    """Below, at and above the switch, which it makes by the size of its context: 256 tokens or 512.

    Of quantized weights it rounds what they are multiplied with, too.
    """
    file = quantized(tmp_path / "quantized.gguf", source, GGMLQuantizationType[kind], alignment=32)
    factors, settings = make_factors(file), ExportRecipe(factor_sets=sets)
    patch_gguf(file, factors, tmp_path / "new.gguf", settings=settings, layout=layout)
    patch_gguf(file, replace(factors, lambdas=(1.0,) * 4, attention_factor=1.0), tmp_path / "unscaled.gguf")
    model = load_model(file, device="cpu")
    for context, lengths in ((WINDOW, (100, WINDOW - 1)), (2 * WINDOW, (WINDOW, 2 * WINDOW - 1))):
        short = context == WINDOW and sets == "two"
        with rescaled(model, replace(factors, lambdas=(1.0,) * 4) if short else factors):
            rows = [get_logits(model.network, torch.from_numpy(PROMPTS[:1, :length]))[0, -1] for length in lengths]
        ours = torch.stack(rows).log_softmax(-1).numpy()
        theirs = ask(tmp_path / "new.gguf", [PROMPTS[0, :length] for length in lengths], context)
        unscaled = ask(tmp_path / "unscaled.gguf", [PROMPTS[0, :length] for length in lengths], context)
        assert np.abs(theirs - ours).max() < (0.15 if kind == "Q8_0" else 0.01)
        assert (np.abs(unscaled - ours).max(-1) > 0.25).all()


def test_dequantized_weights_are_those_of_the_file(source: Path, tmp_path: Path) -> None:
    """The oracle of the tests above: our reader gives what the gguf package does."""
    file = quantized(tmp_path / "quantized.gguf", source, GGMLQuantizationType.Q8_0)
    model, reader = load_model(file, device="cpu"), GGUFReader(file)
    packed = next(tensor for tensor in reader.tensors if tensor.name == "blk.0.ffn_up.weight")
    weights = model.network.state_dict()["model.layers.0.mlp.up_proj.weight"].numpy()
    assert np.array_equal(weights, dequantize(packed.data, packed.tensor_type))
