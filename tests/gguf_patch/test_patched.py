"""Factors written into GGUF files whose other bytes stay, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf_patches import LAMBDAS, PROMPTS, WINDOW, describe, make_factors, make_file, quantized
from rotary_oracles import gap, get_logits

from longrope import patch_gguf
from longrope.errors import ExportError, FactorsError, ModelError
from longrope.exports.gguf_layouts import choose_layout
from longrope.models import load_model, read_gguf_file, read_gguf_spec, rescaled
from longrope.recipe import ExportRecipe

TWO = ExportRecipe(factor_sets="two")


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
