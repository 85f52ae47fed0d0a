"""Export to a GGUF file that llama.cpp opens: weights as they are, tokenizer, and both lists as factor tensors.

The file is opened again as `load_model` opens every GGUF file, and its logits are compared with ours on both sides of
the switch. llama.cpp itself chooses the list by the size of its context, once, so its cache is never of two minds.
"""

import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.data import Tokens
from longrope.errors import ExportError
from longrope.exports.card import GGUF_TYPES, Origin
from longrope.exports.comparison import (
    Arrays,
    ExportReport,
    check_agreement,
    compare_logits,
    logits_at,
    make_report,
)
from longrope.exports.lists import NativeLists, native_lists, stated_lists
from longrope.models import LanguageModel, load_model
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors
from longrope.rope.gguf_metadata import write_longrope

ARCHITECTURE = "llama"  # of llama.cpp
FILE_TYPES = {"torch.float32": "ALL_F32", "torch.float16": "MOSTLY_F16", "torch.bfloat16": "MOSTLY_BF16"}
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


def export_gguf(
    model: LanguageModel,
    factors: RescaleFactors,
    path: str | Path,
    *,
    settings: ExportRecipe | None = None,
    windows: Tokens | None = None,
    origin: Origin | None = None,
) -> ExportReport:
    """Write a GGUF file, open it again, and compare.

    Args:
        model: a Llama or Mistral, as it was loaded, or tuned.
        factors: one set of factors.
        path: where to write; its name ends in ``.gguf``.
        settings: one or two factor sets, and whether start tokens may be dropped.
        windows: [W, N] measuring windows, needed to measure what dropping start tokens changes.
        origin: of the weights, by default what the model was loaded from; the tokenizer of a GGUF file is taken over.

    Raises:
        ExportError: llama.cpp cannot hold this model, its tokenizer or its factors, or the file gives other logits.
    """
    settings, path, origin = settings or ExportRecipe(), Path(path), origin or Origin(model.name)
    _check_supported(model, path)
    lists = native_lists(model, factors, settings, windows)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(model, lists, path, origin)
    return verify_file(model, lists, path)


def verify_file(model: LanguageModel, lists: NativeLists, path: Path) -> ExportReport:
    """Open a GGUF file and compare its logits with the model's; raise ExportError if they differ."""
    differences = compare_logits(model, lists, partial(_reopen, path, str(model.device)))
    report = make_report(lists, differences)
    check_agreement(report, path, model.network.config.model_type)
    return report


def check_stated(model: LanguageModel, factors: RescaleFactors) -> None:
    """Raise LongRopeError if llama.cpp cannot hold a model or factors; nothing is written."""
    _check_supported(model, Path("model.gguf"))
    native_lists(model, factors, ExportRecipe(), None)


def _check_supported(model: LanguageModel, path: Path) -> None:
    """Refuse what the architecture cannot hold, before anything is written (raises ExportError)."""
    network, config, spec = model.network, model.network.config, model.spec
    sliding = getattr(config, "sliding_window", None)
    activation = getattr(config, "hidden_act", None)
    reasons = {
        f"The model type is {config.model_type!r}.": config.model_type not in GGUF_TYPES,
        f"The model's attention slides over {sliding} tokens.": bool(sliding),
        f"The model's activation is {activation!r}.": activation != "silu",
        "The model's projections have biases.": any(name.endswith(".bias") for name in network.state_dict()),
        f"The model rotates {spec.rotary_dim} of {spec.head_dim} entries.": spec.rotary_dim != spec.head_dim,
        f"The weights are {network.dtype}.": str(network.dtype) not in FILE_TYPES,
        f"The file's name {path.name!r} does not end in .gguf.": path.suffix != ".gguf",
    }
    for reason, refused in reasons.items():
        if refused:
            raise ExportError(
                reason,
                "A GGUF file is written of plain Llama and Mistral models in float32, float16 or bfloat16.",
                "Export a folder with --to hf.",
            )


def _write(model: LanguageModel, lists: NativeLists, path: Path, origin: Origin) -> None:
    gguf = _library()
    config, writer = model.network.config, gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_name(f"{origin.title}, context window {lists.long.target_window}")
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[str(model.network.dtype)]])
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(model.spec.head_dim)
    writer.add_value_length(model.spec.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _write_rope(gguf, writer, model, lists)
    if origin.base_model.endswith(".gguf"):
        _copy_tokenizer(gguf, writer, Path(origin.base_model))
    else:
        _write_tokenizer(gguf, writer, model)
    for name, (array, kind) in _tensors(gguf, model).items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise ExportError(
            "The package gguf is not installed.", "It writes GGUF files.", "pip install 'longrope[gguf]'"
        ) from None
    return gguf


def _write_rope(gguf: Any, writer: Any, model: LanguageModel, lists: NativeLists) -> None:
    metadata, tensors = write_longrope(model.spec, stated_lists(model.spec, lists))
    kinds = {int: gguf.GGUFValueType.UINT32, float: gguf.GGUFValueType.FLOAT32, str: gguf.GGUFValueType.STRING}
    for key, value in metadata.items():
        writer.add_key_value(f"{ARCHITECTURE}.{key}", value, kinds[type(value)])
    for name, factors in tensors.items():
        writer.add_tensor(name, factors)


def _tensors(gguf: Any, model: LanguageModel) -> dict[str, tuple[NDArray[Any], Any]]:
    """The weights by llama.cpp's names, in their own number format; vectors in float32, as it demands."""
    config, kinds = model.network.config, gguf.GGMLQuantizationType
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    kind = kinds[FILE_TYPES[str(model.network.dtype)].rpartition("_")[2]]
    tensors = {}
    for name, weight in model.network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = weight.float().cpu().numpy()
        projection = name.split(".")[-2]
        if projection in heads:
            array = _pairs_side_by_side(array, heads[projection])
        own = kinds.F32 if array.ndim == 1 else kind
        tensors[names.get_name(name, (".weight",))] = (gguf.quants.quantize(array, own), own)
    return tensors


def _pairs_side_by_side(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows [heads * d, N] of a projection from transformers' order, entry i beside i + d/2, to 2i beside 2i + 1."""
    rows, columns = weight.shape
    return np.ascontiguousarray(
        weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def _copy_tokenizer(gguf: Any, writer: Any, source: Path) -> None:
    """Take over every word that a GGUF file says of its tokenizer; transformers understands less of it."""
    for name, field in gguf.GGUFReader(source).fields.items():
        if name.startswith("tokenizer."):
            nested = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=nested)


def _write_tokenizer(gguf: Any, writer: Any, model: LanguageModel) -> None:
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


def _reopen(path: Path, device: str, probe: Arrays) -> Arrays:
    reopened = load_model(path, device=device, dtype="float32")
    return {side: logits_at(reopened, probe["tokens"], probe[side]) for side in probe if side != "tokens"}
