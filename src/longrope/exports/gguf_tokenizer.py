"""The tokenizer of a GGUF file: taken over from another one, or written from transformers'."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from longrope.errors import ExportError
from longrope.models import LanguageModel

SPACE, BYTE = "\N{LOWER ONE EIGHTH BLOCK}", re.compile("<0x[0-9A-F]{2}>")  # of SentencePiece
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
            nested, value = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None, field.contents()
            if nested is None or len(value):  # the format has no arrays without entries, and they say nothing
                writer.add_key_value(name, value, field.types[0], sub_type=nested)


def write_tokenizer(gguf: Any, writer: Any, model: LanguageModel) -> None:
    """A byte-level or a SentencePiece BPE tokenizer that llama.cpp applies as tokenizers does.

    Raises:
        ExportError: it is of another kind, or cuts in a way that has no name in llama.cpp.
    """
    tokenizer, size = model.tokenizer, model.network.config.vocab_size
    described = _describe(tokenizer)
    scores = piece_scores(described)
    if scores is None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer_name(tokenizer))
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([float(scores.get(index, 0)) for index in range(size)])
        writer.add_add_space_prefix(True)
    tokens = {index: (token, _kind(gguf, token, described)) for token, index in tokenizer.get_vocab().items()}
    for index, added in tokenizer.added_tokens_decoder.items():
        kind = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
        tokens[index] = (added.content, _kind(gguf, added.content, described, kind))
    known = [tokens.get(index, (f"[PAD{index}]", gguf.TokenType.UNUSED)) for index in range(size)]
    writer.add_token_list([token for token, _ in known])
    writer.add_token_types([kind for _, kind in known])
    with TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        special = gguf.SpecialVocab(scratch, load_merges=scores is None, n_vocab=size)
    ids = tokenizer("a")["input_ids"]
    special.add_special_token = {"bos": ids[0] == tokenizer.bos_token_id, "eos": ids[-1] == tokenizer.eos_token_id}
    special.add_to_gguf(writer, quiet=True)


def _kind(gguf: Any, token: str, described: dict[str, Any], otherwise: Any = None) -> Any:
    """The type of a token: that of the unknown one, of a byte, or another."""
    model = described["model"]
    if token == model.get("unk_token"):
        return gguf.TokenType.UNKNOWN
    if model.get("byte_fallback") and BYTE.fullmatch(token):
        return gguf.TokenType.BYTE
    return gguf.TokenType.NORMAL if otherwise is None else otherwise


def piece_scores(described: dict[str, Any]) -> dict[int, int] | None:
    """The scores of SentencePiece's pieces, by which llama.cpp merges, in the place of ranked merges.

    It joins the neighbours whose union has the highest score, whichever two they are. Merges by rank do the same if
    those into one piece have ranks beside each other, every two pieces whose union is a piece are a merge, and all
    letters are pieces.

    Args:
        described: the JSON of a tokenizer.

    Returns:
        The score of every piece that is merged, by its id; None for a tokenizer that is not cut as SentencePiece does.
    """
    model = described["model"]
    if model["type"] != "BPE" or not model.get("byte_fallback") or not _opens_with_space(described):
        return None
    vocabulary, scores, merges = model["vocab"], dict[str, int](), set[tuple[str, str]]()
    last = ""
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges.add((left, right))
        if left + right != last and left + right in scores:
            return None
        last = left + right
        scores.setdefault(last, -len(scores))
    for piece in scores:
        splits = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        missing = any(a in vocabulary and b in vocabulary and (a, b) not in merges for a, b in splits)
        if missing or not set(piece) <= vocabulary.keys():
            return None
    return {vocabulary[piece]: score for piece, score in scores.items()}


def _opens_with_space(described: dict[str, Any]) -> bool:
    """Whether spaces become SPACE, with one put before a text, and nothing else is changed or cut.

    Of a text that begins with a space Metaspace adds none, where SentencePiece and llama.cpp do.
    """
    steps, cut = described["normalizer"] or {}, described["pre_tokenizer"]
    listed = steps.get("normalizers", [steps] if steps else [])
    prepended = [
        {"type": "Prepend", "prepend": SPACE},
        {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
    ]
    if cut is None:
        return bool(listed == prepended)
    return not listed and cut["type"] == "Metaspace" and cut.get("prepend_scheme") != "never" and not cut.get("split")


def _describe(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unnamed(f"{type(tokenizer).__name__}, which is none of the library tokenizers")
    described: dict[str, Any] = json.loads(backend.to_str())
    return described


def pre_tokenizer_name(tokenizer: Any) -> str:
    """llama.cpp's name of how a byte-level BPE tokenizer cuts a text before its merges.

    Raises:
        ExportError: it is another kind of tokenizer, or cuts in a way that has no name here.
    """
    described = _describe(tokenizer)
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
        f"llama.cpp's names are known here for byte-level BPE that cuts as {', '.join(PRE_TOKENIZERS)} do, and for "
        "SentencePiece BPE.",
        "Export a folder with --to hf, or load the model from a GGUF file, whose tokenizer is taken over.",
    )
