"""Tokenizers in exported GGUF files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pico
import pytest
from gguf import GGUFReader, GGUFWriter
from gguf_exports import (
    cut_by,
    make_factors,
    make_named,
    read_file,
)
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from longrope.errors import ExportError
from longrope.exports import Origin, export_gguf
from longrope.exports.gguf_tokenizer import pre_tokenizer_name
from longrope.models import LanguageModel, load_model


def test_pre_tokenizers_are_named() -> None:
    assert {pre_tokenizer_name(tokenizer) for tokenizer in make_named().values()} == set(make_named())
    assert all(pre_tokenizer_name(tokenizer) == name for name, tokenizer in make_named().items())


def test_the_embedded_model_is_cut_as_smollm() -> None:
    assert pre_tokenizer_name(load_model("nano", device="cpu").tokenizer) == "smollm"


def make_nameless() -> dict[str, Any]:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    normalized = cut_by(byte_level)
    normalized.backend_tokenizer.normalizer = normalizers.NFC()
    uncut = cut_by(byte_level)
    uncut.backend_tokenizer.pre_tokenizer = None
    words = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    return {
        "digits in threes": cut_by(pre_tokenizers.Digits(individual_digits=False), byte_level),
        "a space before": cut_by(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "other words": cut_by(pre_tokenizers.Split(Regex(r"\w+"), "isolated"), byte_level),
        "merges ignored": cut_by(byte_level, ignore_merges=True),
        "normalized": normalized,
        "uncut": uncut,
        "WordPiece": PreTrainedTokenizerFast(tokenizer_object=words),
        "bytes": ByT5Tokenizer(),
    }


@pytest.mark.parametrize("name", make_nameless())
def test_tokenizers_without_a_name_are_refused(name: str, model: LanguageModel, tmp_path: Path) -> None:
    """A wrong name would cut texts otherwise than the model learned, and nobody would notice."""
    other = replace(model, tokenizer=make_nameless()[name])
    with pytest.raises(ExportError, match="gpt-2, smollm, llama-bpe"):
        export_gguf(other, make_factors(model), tmp_path / "x.gguf")


def test_special_and_missing_tokens_are_distinguished(model: LanguageModel, tmp_path: Path) -> None:
    """Ids beyond the tokenizer's have rows in the matrices, too; a token that opens every text is stated."""
    tokenizer = cut_by(pre_tokenizers.ByteLevel(add_prefix_space=False))
    backend = tokenizer.backend_tokenizer
    small = json.loads(backend.to_str())
    dropped = [small["model"]["merges"].pop() for _ in range(3)]
    for pair in dropped:
        del small["model"]["vocab"]["".join(pair)]
    small["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
    }
    short = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(small)), bos_token="<|end|>")
    short.add_tokens(["plainly added"])
    export_gguf(replace(model, tokenizer=short), make_factors(model), tmp_path / "x.gguf")
    written, _ = read_file(tmp_path / "x.gguf")
    tokens, kinds = written["tokenizer.ggml.tokens"], written["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == 320
    assert (tokens[0], kinds[0], kinds[1]) == ("<|end|>", 3, 1)  # control, normal
    assert (tokens[317], kinds[317]) == ("plainly added", 4)  # user-defined
    assert (tokens[318:], kinds[318:]) == (["[PAD318]", "[PAD319]"], [5, 5])  # unused
    assert written["tokenizer.ggml.bos_token_id"] == 0
    assert (written["tokenizer.ggml.add_bos_token"], written["tokenizer.ggml.add_eos_token"]) == (True, False)


def test_the_tokenizer_of_a_gguf_file_is_taken_over(tmp_path: Path) -> None:
    """Word by word, what transformers does not understand included."""

    def describe(writer: GGUFWriter) -> None:
        writer.add_tokenizer_pre("smollm")
        writer.add_add_space_prefix(False)
        writer.add_chat_template("{{ messages }}")

    source = pico.save_gguf(tmp_path / "source.gguf", pico.make_network("llama"), describe)
    model = load_model(source, device="cpu")
    export_gguf(
        replace(model, name="source, tuned"),
        make_factors(model),
        tmp_path / "x.gguf",
        origin=Origin(str(source), tuned=True),
    )
    (before, _), (after, _) = read_file(source), read_file(tmp_path / "x.gguf")
    words = {name: value for name, value in before.items() if name.startswith("tokenizer.")}
    assert len(words) == 8
    assert {name: value for name, value in after.items() if name.startswith("tokenizer.")} == words
    kinds = {name: GGUFReader(source).fields[name].types for name in words}
    assert {name: GGUFReader(tmp_path / "x.gguf").fields[name].types for name in words} == kinds
