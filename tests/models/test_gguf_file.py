"""GGUF files are read as the gguf package reads them, without their vocabulary; parts and unknown types are refused."""

import struct
import time
from pathlib import Path

import numpy as np
import pico
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, dequantize, quantize
from rotary_oracles import gap, get_logits

from longrope.errors import ModelError
from longrope.models import load_config, load_model
from longrope.models.gguf_file import read_gguf

IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # ggml's kvalues_iq4nl


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return pico.save_gguf(tmp_path / "pico.gguf", pico.make_network("llama"))


def test_metadata_and_tensors_are_those_of_the_gguf_package(file: Path) -> None:
    ours, theirs = read_gguf(file), GGUFReader(file)
    for key, value in ours.metadata.items():
        field = theirs.fields[key]
        wanted = field.contents()
        assert value == (len(wanted) if isinstance(wanted, list) else wanted), key
    assert set(theirs.fields) - set(ours.metadata) == {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}
    assert [place.name for place in ours.tensors] == [tensor.name for tensor in theirs.tensors]
    for place, tensor in zip(ours.tensors, theirs.tensors, strict=True):
        np.testing.assert_array_equal(ours.read_tensor(place), tensor.data)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16", "BF16"])
def test_quantized_tensors_are_those_of_the_gguf_package(kind: str, tmp_path: Path) -> None:
    """Rows of 3 blocks, so that they are not cut where the rows end."""
    number = GGMLQuantizationType[kind]
    values = np.random.default_rng(0).normal(size=(5, 96)).astype(np.float32)
    packed = quantize(values, number)
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("a.weight", np.ones(7, np.float32))
    writer.add_tensor("b.weight", packed, raw_dtype=number)
    pico.close_gguf(writer)
    read = read_gguf(tmp_path / "x.gguf")
    assert read.tensors[1].type_name == kind
    got = read.read_tensor(read.tensors[1])
    np.testing.assert_array_equal(got, dequantize(packed, number))
    np.testing.assert_allclose(got, values, atol=0.4)


def test_an_iq_quantized_tensor_is_dequantized(tmp_path: Path) -> None:
    """IQ4_NL: a half-precision scale, and 32 indices of 4 bits into ggml's levels, low halves first."""
    rng = np.random.default_rng(0)
    nibbles = rng.integers(16, size=(6, 32))
    scales = rng.uniform(0.01, 0.1, 6).astype(np.float16)
    packed = nibbles[:, :16] | nibbles[:, 16:] << 4
    blocks = np.concatenate([scales.view(np.uint8).reshape(6, 2), packed.astype(np.uint8)], axis=1)
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("a.weight", blocks.reshape(3, 36), raw_dtype=GGMLQuantizationType.IQ4_NL)
    pico.close_gguf(writer)
    read = read_gguf(tmp_path / "x.gguf")
    wanted = scales.astype(np.float32)[:, None] * np.array(IQ4_LEVELS)[nibbles]
    np.testing.assert_allclose(read.read_tensor(read.tensors[0]), wanted.reshape(3, 64), rtol=1e-6)


def test_tensors_of_an_unknown_type_are_refused_by_name(file: Path) -> None:
    """A number that ggml gives to no type, in place of that of the first tensor."""
    content = file.read_bytes()
    name = b"output_norm.weight"
    at = content.index(name) + len(name) + 4 + 8
    file.write_bytes(content[:at] + struct.pack("<I", 36) + content[at + 4 :])
    with pytest.raises(ModelError, match=r"holds tensors of type 36\."):
        load_model(file, device="cpu")


@pytest.mark.parametrize("length", [6, 300, -100], ids=["magic alone", "in the metadata", "in the last tensor"])
def test_a_file_that_is_cut_off_is_refused_as_one(length: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ModelError, match="ends before what its header states"):
        load_model(file, device="cpu")


def test_a_part_of_a_file_is_refused_as_one(tmp_path: Path) -> None:
    path = pico.save_gguf(
        tmp_path / "x-00001-of-00002.gguf", pico.make_network("llama"), lambda w: w.add_uint16("split.count", 2)
    )
    with pytest.raises(ModelError, match="one of 2 parts"):
        load_config(path)


def test_an_unknown_version_is_refused_by_number(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:4] + struct.pack("<I", 1) + content[8:])
    with pytest.raises(ModelError, match="GGUF version 1"):
        load_config(file)


def test_the_config_of_a_large_vocabulary_is_read_quickly(tmp_path: Path) -> None:
    """200,000 entries take the reader of the gguf package about 10 s, twice; none of them is wanted here."""
    writer = GGUFWriter(tmp_path / "x.gguf", "llama")
    pico.describe_shape(writer, pico.make_config("llama"))
    writer.add_rope_dimension_count(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {i}" for i in range(200_000)])
    writer.add_token_scores([0.0] * 200_000)
    writer.add_tensor("token_embd.weight", np.ones((200_000, 32), np.float32))
    pico.close_gguf(writer)
    began = time.process_time()
    config = load_config(tmp_path / "x.gguf")
    assert time.process_time() - began < 3
    assert config.vocab_size == 200_000
    assert config.tie_word_embeddings


def test_a_loaded_gguf_file_can_be_changed(file: Path) -> None:
    """Its weights are no views of the file: they can be trained, and the file stays as it is."""
    before = file.read_bytes()
    model = load_model(file, device="cpu")
    untouched = get_logits(model.network)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.add_(1.0)
    assert gap(get_logits(model.network), untouched) > 0
    assert file.read_bytes() == before
