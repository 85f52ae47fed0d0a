"""Models of known shapes with random weights, for measuring time and memory."""

from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from longrope.models import LanguageModel, load_model, read_tables

SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": True,
    },
    "llama-3-8b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    },
    "pico": {  # tries the scripts out
        "model_type": "llama",
        "vocab_size": 256,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    },
}


def device_here() -> torch.device:
    """The GPU of this process, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def open_model(name: str, dtype: str = "auto", layers: int = 0) -> LanguageModel:
    """Load a model, or make one of a known shape, with as many layers as are asked for.

    ``auto`` makes bfloat16 on a GPU and float32 elsewhere.
    """
    if name not in SHAPES:
        return load_model(name, dtype=dtype)
    shape = SHAPES[name] | ({"num_hidden_layers": layers} if layers else {})
    config = AutoConfig.for_model(**shape)
    kind = ("bfloat16" if torch.cuda.is_available() else "float32") if dtype == "auto" else dtype
    with device_here():
        network = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, kind)).eval()
    return LanguageModel(network, _make_tokenizer(config.vocab_size), read_tables(config), name)


def _make_tokenizer(size: int) -> Any:
    """A word for each token."""
    made = Tokenizer(models.WordLevel({f"t{token}": token for token in range(size)}, unk_token="t0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="t0", eos_token="t1", bos_token="t2")
