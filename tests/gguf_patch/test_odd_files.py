"""GGUF files that state what a patch would change, or what no file states; and ends of turns that a file names."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf_patches import make_factors, make_file

from longrope.errors import ExportError, ModelError
from longrope.exports import export_gguf, patch_gguf
from longrope.generation import GenerationSettings, encode_question, generate
from longrope.models import load_model, read_gguf_file, read_gguf_spec
from longrope.rope import baseline_factors

SETTINGS = GenerationSettings(max_new_tokens=24)


def as_granite(path: Path, source: Path, *, finetuned: bool) -> Path:
    """The same file of another architecture, which llama.cpp rotates by a key of the scaling."""
    reader, writer = GGUFReader(source), GGUFWriter(path, "granite")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name.replace("llama.", "granite."), field.contents(), field.types[0], sub_type=inner)
    writer.add_bool("granite.rope.scaling.finetuned", finetuned)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    pico.close_gguf(writer)
    return path


def test_a_model_that_rotates_nothing_is_not_patched(tmp_path: Path) -> None:
    """Without the key llama.cpp would rotate it."""
    plain = make_file(tmp_path / "plain.gguf")
    for finetuned in (True, False):
        source = as_granite(tmp_path / f"{finetuned}.gguf", plain, finetuned=finetuned)
        if finetuned:
            patch_gguf(source, make_factors(source), tmp_path / "new.gguf")
        else:
            with pytest.raises(ExportError, match=r"by which llama\.cpp rotates nothing"):
                patch_gguf(source, make_factors(source), tmp_path / "other.gguf")
    assert not (tmp_path / "other.gguf").exists()


@pytest.mark.parametrize("scale", [0.1, 0.0])
def test_a_temperature_that_counts_from_the_window_before_a_scaling_is_not_patched(
    scale: float, tmp_path: Path
) -> None:
    source = make_file(tmp_path / "a.gguf", lambda w: w.add_float32("llama.attention.temperature_scale", scale))
    if scale:
        with pytest.raises(ExportError, match=r"attention\.temperature_scale of 0\.1"):
            patch_gguf(source, make_factors(source), tmp_path / "new.gguf")
    else:
        patch_gguf(source, make_factors(source), tmp_path / "new.gguf")


ODD: dict[str, tuple[Callable[[GGUFWriter], Any], str]] = {
    "a count of parts": (lambda w: w.add_string("split.count", "2"), "states split.count = '2'"),
    "a factor": (
        lambda w: w.add_string("llama.rope.scaling.factor", "four"),
        "could not convert string to float: 'four'",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_keys_of_another_type_are_refused(case: str, tmp_path: Path) -> None:
    add, said = ODD[case]
    source = make_file(tmp_path / "a.gguf", add)
    with pytest.raises(ModelError, match=said):
        read_gguf_spec(read_gguf_file(source))


def test_arrays_without_entries_are_left_out_of_a_tokenizer(tmp_path: Path) -> None:
    """The gguf package writes none; other programs do."""
    key = "tokenizer.ggml.precompiled_charsmap"

    def add(writer: GGUFWriter) -> None:
        writer.add_key_value(key, [7], GGUFValueType.ARRAY, sub_type=GGUFValueType.INT32)
        writer.add_string("some.text", "abcd")

    source = make_file(tmp_path / "a.gguf", add)
    content, array, text = source.read_bytes(), struct.pack("<IIQ", 9, 5, 1), struct.pack("<Q", 4) + b"abcd"
    emptied = content.replace(key.encode() + array + struct.pack("<i", 7), key.encode() + array[:8] + bytes(8))
    source.write_bytes(emptied.replace(text, struct.pack("<Q", 8) + b"abcdefgh"))
    assert len(source.read_bytes()) == len(content)
    model = load_model(source, device="cpu", dtype="float32")
    export_gguf(model, baseline_factors(model.spec, "pi", 512).factor_sets[0], tmp_path / "new.gguf", dtype="f16")
    assert key not in GGUFReader(tmp_path / "new.gguf").fields


def test_an_answer_ends_where_the_file_says_that_a_turn_does(tmp_path: Path) -> None:
    """By a token of its own, beside the one that ends a text; llama.cpp stops there, too."""
    network, document = pico.make_network("llama", max_position_embeddings=1024), pico.make_text(60)
    plain = load_model(pico.save_gguf(tmp_path / "a.gguf", network), device="cpu", dtype="float32")
    whole = generate(plain, None, document, "What?", settings=SETTINGS)
    assert whole.new_tokens == SETTINGS.max_new_tokens
    tokens = torch.tensor([encode_question(plain.tokenizer, document, "What?")])
    for _ in range(3):
        following = plain.network(tokens, use_cache=False).logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, following], 1)
    end = int(tokens[0, -1])
    ending = pico.save_gguf(tmp_path / "b.gguf", network, lambda w: w.add_eot_token_id(end))
    model = load_model(ending, device="cpu", dtype="float32")
    assert model.end_tokens == plain.end_tokens | {end}
    done = generate(model, None, document, "What?", settings=SETTINGS)
    assert done.ended
    assert done.new_tokens <= 3
