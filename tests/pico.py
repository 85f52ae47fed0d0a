"""Tiny models of many families, and a small tokenizer and texts for them.

What varies is what RoPE code gets wrong: theta, head_dim that is not hidden / heads, partial rotary, grouped queries,
interleaved pairs, sliding windows, capped and scaled logits.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from longrope.models import LanguageModel, read_tables

WINDOW = 64
BASE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "initializer_range": 0.2,  # so that attention is far from uniform and a change of factors moves the losses
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None, "rope_theta": 1e5},
    "qwen2": {"rope_theta": 1e6},
    "qwen3": {"head_dim": 16},
    "phi3": {},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": 32,
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 2.0,  # caps that random logits reach
        "final_logit_softcapping": 2.0,
    },
    "olmo2": {"rope_theta": 5e5},
    "stablelm": {"hidden_size": 64, "partial_rotary_factor": 0.5},
    "gpt_neox": {"hidden_size": 64, "partial_rotary_factor": 0.25},
    "cohere": {"logit_scale": 0.5},
}
GGUF_NAMES = {
    "embed_tokens": "token_embd",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "norm": "output_norm",
    "lm_head": "output",
}
TABLES: dict[tuple[type, str], Any] = {}  # of configs, read once each
SUBJECTS = "river wind night road mill stone bird cloud house field".split()
VERBS = "turns holds carries meets leaves finds keeps moves".split()


def make_text(words: int, seed: int = 0) -> str:
    """Sentences of a toy grammar, so that a pico model has something to predict."""
    rng = np.random.default_rng(seed)
    sentences = []
    for _ in range(words // 6):
        a, b = rng.choice(SUBJECTS, 2)
        sentences.append(f"The {a} {rng.choice(VERBS)} the {b} {rng.integers(10)}.")
    return "\n".join(sentences) + "\n"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 320 entries, of one's own."""
    return deepcopy(_train_tokenizer())


@cache
def _train_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=BASE["vocab_size"], special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([make_text(600)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def make_unigram(texts: list[str], size: int, alphabet: str = "") -> PreTrainedTokenizerFast:
    """Unigram with metaspaces and a begin-of-text token, as SentencePiece models have; line breaks become spaces."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace("\n", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=special, unk_token="<unk>", initial_alphabet=list(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def make_word_piece(texts: list[str], size: int, alphabet: str = "") -> PreTrainedTokenizerFast:
    """WordPiece in lower case, as BERT's: joined pieces do not give the text again."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=list(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    pairs = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pairs)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")


def make_config(family: str = "llama", *, rope: dict[str, Any] | None = None, **changes: Any) -> Any:
    """The config of a pico model of one family; ``rope`` replaces entries of its rope_parameters."""
    wanted = {**BASE, **FAMILIES.get(family, {}), **changes}
    config = AutoConfig.for_model(family, **wanted)
    if not rope:
        return config
    wanted = {name: value for name, value in wanted.items() if name not in ("rope_theta", "partial_rotary_factor")}
    return AutoConfig.for_model(family, **{**wanted, "rope_parameters": {**config.rope_parameters, **rope}})


def make_network(family: str = "llama", *, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random network of one family (see ``make_config``), ready to run."""
    torch.manual_seed(0)
    config = make_config(family, **changes)
    capped = getattr(config, "attn_logit_softcapping", None)  # which transformers before 5.18 ignored in sdpa
    capping = {"attn_implementation": "eager"} if capped else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = AutoModelForCausalLM.from_config(config, dtype=dtype, **capping)
    return network.eval().requires_grad_(False)


def make_model(family: str = "llama", *, dtype: torch.dtype = torch.float32, **changes: Any) -> LanguageModel:
    """A pico model that never was on the disk."""
    network = make_network(family, dtype=dtype, **changes)
    made = (type(network.config), network.config.to_json_string(use_diff=False))
    if made not in TABLES:
        TABLES[made] = read_tables(network.config)
    return LanguageModel(network, make_tokenizer(), TABLES[made], f"pico-{family}")


def save_pico(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """Write a pico model with its tokenizer as a folder that transformers opens."""
    make_network(family, **changes).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def write_config(folder: Path, **content: Any) -> Path:
    """A folder that holds only this config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def save_gguf(
    path: Path,
    network: Any,
    describe: Callable[[GGUFWriter], None] = lambda _: None,
    packed: Mapping[str, tuple[NDArray[np.uint8], GGMLQuantizationType]] | None = None,
    /,
    **tensors: NDArray[np.float32],
) -> Path:
    """Write a pico Llama as llama.cpp would: metadata, byte-level tokenizer, float32 tensors by its names.

    Args:
        path: the .gguf file.
        network: a Llama in float32.
        describe: adds further metadata.
        packed: what stands in the place of some tensors, by their names: [rows, bytes of a row] and the type.
        tensors: further tensors, by name without ``.weight``.
    """
    config, writer = network.config, GGUFWriter(path, "llama")
    describe_shape(writer, config)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    _describe_tokenizer(writer)
    describe(writer)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in network.state_dict().items():
        kind = name.split(".")[-2]
        block = f"blk.{name.split('.')[2]}." if "layers" in name else ""
        weight = value.numpy()
        weight = _neighbour_pairs(weight, heads[kind]) if kind in heads else weight
        full = f"{block}{GGUF_NAMES[kind]}.weight"
        blocks, raw = (packed or {}).get(full, (weight, None))
        writer.add_tensor(full, blocks, raw_dtype=raw)
    for name, array in tensors.items():
        writer.add_tensor(f"{name}.weight", array)
    close_gguf(writer)
    return path


def describe_shape(writer: GGUFWriter, config: Any) -> None:
    """Add the sizes of a config as GGUF metadata, without its rotary embedding."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def close_gguf(writer: GGUFWriter) -> None:
    """Write all that was added."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe_tokenizer(writer: GGUFWriter) -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer.get_vocab()
    vocabulary = sorted(ids, key=lambda token: ids[token])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token == "<|end|>" else 1 for token in vocabulary])  # 3 is a control token
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(0)


def _neighbour_pairs(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of a query or key projection in llama.cpp's order: the two entries of a rotated pair are neighbours."""
    size = weight.shape[0] // heads
    return weight[[h * size + i + half for h in range(heads) for i in range(size // 2) for half in (0, size // 2)]]


def save_texts(folder: Path, words: int = 6000) -> tuple[Path, Path]:
    """Write two text folders of different content: one to search on, one to measure on."""
    paths = []
    for i, name in enumerate(("search", "measure")):
        (folder / name).mkdir(parents=True)
        for part in range(3):
            (folder / name / f"{part}.txt").write_text(make_text(words // 3, seed=10 * i + part))
        paths.append(folder / name)
    return paths[0], paths[1]
