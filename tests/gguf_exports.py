"""A model, its factors and its logits for tests of exported GGUF files."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
from gguf import GGUFReader
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from longrope.exports.gguf_tokenizer import LLAMA3_WORDS
from longrope.models import LanguageModel
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors

WINDOW = 256  # llama.cpp rounds its context up to a multiple of this


LAMBDAS = (1.0, 1.5, 3.0, 4.0)


TWO = ExportRecipe(factor_sets="two")


def make_factors(model: LanguageModel, **fields: Any) -> RescaleFactors:
    settings = {"target_window": 4 * WINDOW, "attention_factor": 1.2, **fields}
    return RescaleFactors(LAMBDAS, spec_fingerprint=model.spec.fingerprint, **settings)


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    reader = GGUFReader(path)
    metadata = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return metadata, {tensor.name: tensor.data for tensor in reader.tensors}


def with_padding(model: LanguageModel) -> LanguageModel:
    """Its tokenizer names one of its tokens for padding: Phi-3's default is beyond a small vocabulary.

    Nor is the family in its name, by which llama.cpp looks for the special tokens of Phi-3.
    """
    model.tokenizer.pad_token = "<|end|>"
    return replace(model, name="pico")


def state(key: str, value: float) -> Callable[[GGUFReader], None]:
    """Another value of a key in the metadata of a file that is open for writing."""

    def change(reader: GGUFReader) -> None:
        field = reader.fields[key]
        field.parts[field.data[0]][:] = value

    return change


def tensor_of(reader: GGUFReader, name: str) -> NDArray[np.float32]:
    return next(tensor.data for tensor in reader.tensors if tensor.name == f"{name}.weight")


def cut_by(*steps: Any, **settings: Any) -> PreTrainedTokenizerFast:
    """The pico tokenizer with other steps before its merges."""
    tokenizer: Tokenizer = pico.make_tokenizer().backend_tokenizer
    tokenizer.pre_tokenizer = steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(list(steps))
    if settings:
        described = json.loads(tokenizer.to_str())
        described["model"] |= settings
        tokenizer = Tokenizer.from_str(json.dumps(described))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def make_named() -> dict[str, PreTrainedTokenizerFast]:
    """One tokenizer for each name."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.Split(Regex(LLAMA3_WORDS), "isolated")
    return {
        "gpt-2": cut_by(byte_level),
        "smollm": cut_by(pre_tokenizers.Digits(individual_digits=True), byte_level),
        "llama-bpe": cut_by(words, bare, ignore_merges=True),
    }
