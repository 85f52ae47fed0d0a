"""Saved documents and texts that are no regular files, or whose content lies: refused in words, at once."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from generating import DOCUMENT, PROMPT, make_table
from safetensors.torch import load_file, save_file

from longrope.data import load_texts
from longrope.engine.saved_document import FORMAT, open_document
from longrope.errors import CacheError, TextsError
from longrope.generation import GenerationSettings, generate


def write_document(path: Path, tensors: dict[str, torch.Tensor], **metadata: Any) -> None:
    """A file of the format whose checksums are right."""
    sums = {name: zlib.crc32(x.contiguous().view(torch.uint8).numpy().data) for name, x in tensors.items()}
    stated = {"format": FORMAT, "made_with": "{}", "checksums": json.dumps(sums), **metadata}
    save_file(tensors, path, stated)


TOKENS = torch.arange(3, dtype=torch.int32)
TEXT = torch.tensor([65, 66], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"document": TEXT}, {}),
        ({"tokens": TOKENS}, {}),
        ({"document": torch.tensor([255], dtype=torch.uint8), "tokens": TOKENS}, {}),
        ({"document": TEXT, "tokens": TOKENS.float()}, {}),
        ({"document": TEXT, "tokens": TOKENS[None]}, {}),
        ({"document": TEXT, "tokens": TOKENS}, {"made_with": "5"}),
        ({"document": TEXT, "tokens": TOKENS}, {"checksums": "[1]"}),
        ({"document": TEXT, "tokens": TOKENS}, {"checksums": "[" * 100_000}),
        ({"document": TEXT, "tokens": TOKENS}, {"checksums": "{}"}),
    ],
)
def test_a_saved_document_that_lies_is_refused(
    tensors: dict[str, torch.Tensor], metadata: dict[str, str], tmp_path: Path
) -> None:
    write_document(tmp_path / "a.cache", {"document": TEXT, "tokens": TOKENS})
    assert open_document(tmp_path / "a.cache").text == "AB"
    write_document(tmp_path / "a.cache", tensors, **metadata)
    with pytest.raises(CacheError, match="cannot be used as a saved document: "):
        open_document(tmp_path / "a.cache")


def test_keys_of_other_tokens_are_refused(tmp_path: Path) -> None:
    """Their checksums are right, and so is what they are said to be made with."""
    model, path, settings = pico.make_model(), tmp_path / "a.cache", GenerationSettings(max_new_tokens=2)
    generate(model, make_table(model), DOCUMENT, PROMPT, cache=path, settings=settings)
    made_with = json.dumps(open_document(path).made_with)
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("layers."))
    write_document(path, {**tensors, name: tensors[name][:, :, 1:].contiguous()}, made_with=made_with)
    with pytest.raises(CacheError, match="it holds keys of other tokens"):
        generate(model, make_table(model), "", PROMPT, cache=path, settings=settings)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.jsonl.zst", "a.txt.gz", "a.npy"])
def test_a_pipe_is_no_text(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(TextsError, match="is a pipe or a device"):
        load_texts([tmp_path / name], pico.make_tokenizer())
    (tmp_path / "texts").mkdir()
    (tmp_path / name).rename(tmp_path / "texts" / name)
    (tmp_path / "texts" / "b.txt").write_text(pico.make_text(300))
    assert len(load_texts([tmp_path / "texts"], pico.make_tokenizer()).search.tokens) > 0


def test_a_pipe_is_no_saved_document(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.cache")
    with pytest.raises(CacheError, match="it is no regular file"):
        open_document(tmp_path / "a.cache")
