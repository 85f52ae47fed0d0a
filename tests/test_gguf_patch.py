"""Patched GGUF files: all bytes but those of the rotary embedding stay, and the angles are those of the factors."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, quantize
from llama_cpp import ask, refuses
from numpy.typing import NDArray
from rotary_oracles import gap, get_logits

from longrope import patch_gguf
from longrope.errors import ExportError, FactorsError, ModelError
from longrope.exports.gguf_layouts import ARCHITECTURES, choose_layout
from longrope.exports.unfinished import unfinished_file
from longrope.models import load_model, read_gguf_file, read_gguf_spec, rescaled
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors

WINDOW = 256
LAMBDAS = (1.0, 1.5, 3.0, 4.0)
PROMPTS = np.random.default_rng(5).integers(1, 320, (3, 2 * WINDOW - 1))
TWO = ExportRecipe(factor_sets="two")


def make_file(path: Path, describe: Any = lambda _: None, **tensors: NDArray[np.float32]) -> Path:
    return pico.save_gguf(path, pico.make_network("llama", max_position_embeddings=WINDOW), describe, **tensors)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_file(tmp_path / "source.gguf")


def make_factors(source: Path, **fields: Any) -> RescaleFactors:
    settings = {"target_window": 4 * WINDOW, "attention_factor": 1.2, **fields}
    return RescaleFactors(LAMBDAS, spec_fingerprint=read_gguf_spec(read_gguf_file(source)).fingerprint, **settings)


def quantized(path: Path, source: Path, kind: GGMLQuantizationType, alignment: int = 64) -> Path:
    """The same model with quantized matrices, on another alignment, with keys of every type."""
    reader, writer = GGUFReader(source), GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_array("some.numbers", [1.5, 2.5])
    writer.add_bool("some.flag", True)
    writer.add_uint64("some.count", 2**40)
    writer.add_string("some.text", "naïve 🦙")
    for tensor in reader.tensors:
        matrix = tensor.data.ndim == 2 and tensor.data.shape[1] % 32 == 0
        own = kind if matrix else GGMLQuantizationType.F32
        writer.add_tensor(tensor.name, quantize(np.array(tensor.data), own), raw_dtype=own)
    pico.close_gguf(writer)
    return path


def content(path: Path) -> tuple[dict[str, bytes], dict[str, tuple[Any, ...]]]:
    """Every key and every tensor as the bytes of the file, by the gguf package's reader."""
    reader = GGUFReader(path)
    keys = {name: b"".join(part.tobytes() for part in field.parts) for name, field in reader.fields.items()}
    keys = {name: value for name, value in keys.items() if not name.startswith("GGUF.")}
    tensors = {t.name: (int(t.tensor_type), tuple(t.shape.tolist()), t.data.tobytes()) for t in reader.tensors}
    return keys, tensors


@pytest.mark.parametrize("kind", ["Q4_0", "Q8_0", "F16", "F32"])
@pytest.mark.parametrize("layout", ["static", "longrope"])
def test_all_bytes_but_those_of_the_rope_stay(layout: str, kind: str, source: Path, tmp_path: Path) -> None:
    file = quantized(tmp_path / "quantized.gguf", source, GGMLQuantizationType[kind])
    report = patch_gguf(file, make_factors(file), tmp_path / "new.gguf", layout=layout)
    (keys, tensors), (new_keys, new_tensors) = content(file), content(tmp_path / "new.gguf")
    changed = {name for name in keys | new_keys if keys.get(name) != new_keys.get(name)}
    added = {f"llama.rope.scaling.{name}" for name in ("type", "original_context_length", "attn_factor")}
    static = {"llama.rope.scaling.attn_factor"}
    assert changed == {"llama.context_length"} | (added if layout == "longrope" else static)
    assert new_tensors.items() >= tensors.items()
    rows = {name: np.frombuffer(data, np.float32) for name, (_, _, data) in new_tensors.items() if name not in tensors}
    names = ["rope_freqs"] if layout == "static" else ["rope_factors_long", "rope_factors_short"]
    assert sorted(rows) == [f"{name}.weight" for name in names]
    assert all(np.array_equal(row, np.asarray(LAMBDAS, np.float32)) for row in rows.values())
    assert (report.tensors, report.bytes) == (len(tensors), sum(len(data) for _, _, data in tensors.values()))
    assert (report.layout, report.source, report.target_window) == (layout, "quantized.gguf", 4 * WINDOW)


@pytest.mark.parametrize("layout", ["static", "longrope"])
def test_the_patched_file_gives_the_logits_of_the_dequantized_weights(
    layout: str, source: Path, tmp_path: Path
) -> None:
    """The oracle is a network of its own, set by hand to the weights and the angles."""
    file = quantized(tmp_path / "quantized.gguf", source, GGMLQuantizationType.Q8_0)
    patch_gguf(file, make_factors(file), tmp_path / "new.gguf", layout=layout)
    by_hand = load_model(file, device="cpu").network
    by_hand.model.rotary_emb.inv_freq /= torch.tensor(LAMBDAS)
    by_hand.model.rotary_emb.attention_scaling = 1.2
    again = load_model(tmp_path / "new.gguf", device="cpu")
    assert again.spec.trained_window == 4 * WINDOW
    tokens = torch.from_numpy(PROMPTS[:1])
    assert gap(get_logits(again.network, tokens), get_logits(by_hand, tokens)) < 1e-4
    original = load_model(file, device="cpu").network
    assert gap(get_logits(again.network, tokens), get_logits(original, tokens)) > 0.1


SCALED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "linear": ({"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, {}),
    "old linear": ({"rope.scale_linear": 2.0}, {}),
    "yarn": (
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 64,
            "rope.scaling.yarn_beta_fast": 16.0,
        },
        {},
    ),
    "one list": ({}, {"rope_freqs": np.asarray([1, 2, 4, 8], np.float32)}),
    "two lists": (
        {
            "rope.scaling.type": "longrope",
            "rope.scaling.attn_factor": 1.1,
            "rope.scaling.original_context_length": 64,
        },
        {
            "rope_factors_short": np.asarray([1, 1, 2, 2], np.float32),
            "rope_factors_long": np.asarray([1, 2, 4, 8], np.float32),
        },
    ),
}


def describe(keys: dict[str, Any]) -> Any:
    adders: dict[type, Any] = {str: GGUFWriter.add_string, float: GGUFWriter.add_float32, int: GGUFWriter.add_uint32}
    return lambda writer: [adders[type(value)](writer, f"llama.{key}", value) for key, value in keys.items()]


@pytest.mark.parametrize("name", SCALED)
def test_the_geometry_is_that_of_the_loaded_model(name: str, tmp_path: Path) -> None:
    """Read from keys and tensors alone, and as transformers builds it; factors of one fit the other."""
    keys, tensors = SCALED[name]
    path = make_file(tmp_path / "x.gguf", describe(keys), **tensors)
    spec = read_gguf_spec(read_gguf_file(path))
    assert spec == load_model(path, device="cpu").spec
    assert (spec.native is None) == (name == "plain")


@pytest.mark.parametrize("name", SCALED)
def test_factors_take_over_a_scaling_of_the_file(name: str, tmp_path: Path) -> None:
    """Factors are relative to the model's own frequencies, and none of its keys is left to scale once more."""
    keys, tensors = SCALED[name]
    path = make_file(tmp_path / "x.gguf", describe(keys), **tensors)
    model, factors = load_model(path, device="cpu"), make_factors(path)
    patch_gguf(path, factors, tmp_path / "new.gguf")
    own = {key for key in content(tmp_path / "new.gguf")[0] if "scal" in key}
    assert own == {"llama.rope.scaling.attn_factor"}
    tokens = torch.from_numpy(PROMPTS[:1])
    with rescaled(model, factors):
        wanted = get_logits(model.network, tokens)
    assert gap(get_logits(load_model(tmp_path / "new.gguf", device="cpu").network, tokens), wanted) < 1e-4


# Refused


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma3", "falcon-h1", "pangu-embedded", "gpt-oss"])
def test_architectures_that_do_not_use_factors_are_refused(architecture: str) -> None:
    with pytest.raises(ExportError) as caught:
        choose_layout(architecture, "single")
    assert repr(architecture) in caught.value.found
    assert "llama, " in caught.value.needed


@pytest.mark.parametrize(
    ("architecture", "factor_sets", "wanted", "layout"),
    [
        ("llama", "single", "", "static"),
        ("llama", "single", "longrope", "longrope"),
        ("llama", "two", "", "longrope"),
        ("phi3", "single", "", "longrope"),
        ("exaone", "single", "", "static"),
        ("llama", "two", "static", None),
        ("phi3", "single", "static", None),
        ("exaone", "two", "", None),
        ("exaone", "single", "longrope", None),
        ("llama", "single", "dynamic", None),
    ],
)
def test_the_layout_follows_from_architecture_and_factor_sets(
    architecture: str, factor_sets: str, wanted: str, layout: str | None
) -> None:
    if layout:
        assert choose_layout(architecture, factor_sets, wanted) == layout
    else:
        with pytest.raises(ExportError):
            choose_layout(architecture, factor_sets, wanted)


def test_a_file_is_not_patched_in_place_or_under_another_kind_of_name(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    (tmp_path / "link.gguf").symlink_to(source)
    for path, reason in [(source, "itself"), (tmp_path / "link.gguf", "itself"), (tmp_path / "x.bin", r"\.gguf")]:
        with pytest.raises(ExportError, match=reason):
            patch_gguf(source, make_factors(source), path)
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.gguf", "source.gguf"]


def test_what_a_file_cannot_hold_is_refused_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "x.gguf"
    with pytest.raises(FactorsError, match="geometry"):
        patch_gguf(source, replace(make_factors(source), spec_fingerprint="0" * 16), new)
    with pytest.raises(ExportError, match="first 16 tokens"):
        patch_gguf(source, make_factors(source, start_tokens=16), new)
    with pytest.raises(ExportError, match="static"):
        patch_gguf(source, make_factors(source), new, settings=TWO, layout="static")
    with pytest.raises(ModelError, match="no GGUF file"):
        patch_gguf(tmp_path / "nothing.gguf", make_factors(source), new)
    slides = make_file(tmp_path / "slides.gguf", lambda writer: writer.add_sliding_window(64))
    with pytest.raises(ExportError, match="slides over 64 tokens"):
        patch_gguf(slides, make_factors(slides), new)
    assert not new.parent.exists()


def test_keys_that_the_library_cannot_write_are_named(source: Path, tmp_path: Path) -> None:
    """An array without entries: a text of the file is replaced by one, of the same number of bytes."""
    file = make_file(tmp_path / "x.gguf", lambda writer: writer.add_key_value("some.list", "x" * 4, 8))
    raw = file.read_bytes()
    place = raw.index(b"some.list") + len(b"some.list")
    as_text = (8).to_bytes(4, "little") + (4).to_bytes(8, "little") + b"xxxx"
    empty = (9).to_bytes(4, "little") + (4).to_bytes(4, "little") + (0).to_bytes(8, "little")
    assert raw[place : place + 16] == as_text
    file.write_bytes(raw[:place] + empty + raw[place + 16 :])
    with pytest.raises(ExportError, match=r"some\.list.*without entries"):
        patch_gguf(file, make_factors(source), tmp_path / "new.gguf")
    assert not list(tmp_path.glob("new*"))


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
    assert (tmp_path / "new.partial.gguf").exists()
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
