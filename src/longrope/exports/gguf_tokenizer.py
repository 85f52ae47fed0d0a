"""The tokenizer of a GGUF file: taken over from another one, or written from transformers'."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from longrope.errors import ExportError
from longrope.models import LanguageModel

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {  # llama.cpp's names of what tokenizers does before the merges
    "gpt-2": [BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": LLAMA3_WORDS}, "behavior": "Isolated", "invert": False},
        BYTE_LEVEL | {"use_regex": False},
    ],
}


def copy_tokenizer(gguf: Any, writer: Any, source: Path) -> None:
    """Take over every word that a GGUF file says of its tokenizer; transformers understands less of it."""
    for name, field in gguf.GGUFReader(source).fields.items():
        if name.startswith("tokenizer."):
            nested = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=nested)


def write_tokenizer(gguf: Any, writer: Any, model: LanguageModel) -> None:
    """A byte-level BPE tokenizer whose words llama.cpp cuts as tokenizers does (raises ExportError for others)."""
    tokenizer, size = model.tokenizer, model.network.config.vocab_size
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(tokenizer))
    tokens = {index: (token, gguf.TokenType.NORMAL) for token, index in tokenizer.get_vocab().items()}
    for index, added in tokenizer.added_tokens_decoder.items():
        kind = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
        tokens[index] = (added.content, kind)
    known = [tokens.get(index, (f"[PAD{index}]", gguf.TokenType.UNUSED)) for index in range(size)]
    writer.add_token_list([token for token, _ in known])
    writer.add_token_types([kind for _, kind in known])
    with TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        special = gguf.SpecialVocab(scratch, load_merges=True, n_vocab=size)
    ids = tokenizer("a")["input_ids"]
    special.add_special_token = {"bos": ids[0] == tokenizer.bos_token_id, "eos": ids[-1] == tokenizer.eos_token_id}
    special.add_to_gguf(writer, quiet=True)


def pre_tokenizer_name(tokenizer: Any) -> str:
    """llama.cpp's name of how a byte-level BPE tokenizer cuts a text before its merges.

    Raises:
        ExportError: it is another kind of tokenizer, or cuts in a way that has no name here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unnamed(f"{type(tokenizer).__name__}, which is none of the library tokenizers")
    described = json.loads(backend.to_str())
    merges, cut = described["model"], described["pre_tokenizer"] or {"type": "none"}
    steps = [{k: v for k, v in step.items() if k != "trim_offsets"} for step in cut.get("pretokenizers", [cut])]
    plain = merges["type"] == "BPE" and not described["normalizer"] and not merges.get("byte_fallback")
    for name, known in PRE_TOKENIZERS.items():
        if plain and steps == known and merges.get("ignore_merges", False) == (name == "llama-bpe"):
            return name
    raise _unnamed(f"{merges['type']} that cuts by {' and '.join(step['type'] for step in steps)}")


def _unnamed(found: str) -> ExportError:
    return ExportError(
        f"The tokenizer is a {found}.",
        f"llama.cpp's names are known here for byte-level BPE that cuts as {', '.join(PRE_TOKENIZERS)} do.",
        "Export a folder with --to hf, or load the model from a GGUF file, whose tokenizer is taken over.",
    )
