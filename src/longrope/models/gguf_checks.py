"""Keys of a GGUF file that change attention or positions are held by the config made of it, or refused.

The scaling of the rotary embedding is read, or refused, apart (``rope.gguf_metadata``).
"""

from typing import Any

from longrope.errors import ModelError
from longrope.models.config_checks import CONCERNS, NEUTRAL
from longrope.models.gguf_file import GgufFile

HELD = {  # key -> the entry of the config that must hold its value
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "attention.clamp_kqv": "clip_qkv",
}
APART = ("rope.scal", "attention.layer_norm")  # scalings are read with the tensors; norms are no part of this
OLDEST = (5, 22)  # of transformers; pyproject.toml asks for it, too
READ = {"rope.dimension_count", "rope.freq_base", "rope.freq_base_swa"}  # with the geometry, and checked there


def check_gguf_keys(file: GgufFile, config: Any) -> None:
    """Raise ModelError for keys of a GGUF file that change attention or positions and that the config does not hold.

    The scaling of the rotary embedding is read, or refused, apart (``rope.gguf_metadata``).
    """
    unread = [
        f"{key} = {value}"
        for key, value in file.stated.items()
        if CONCERNS.search(key) and not key.startswith(APART) and not _is_held(key, value, config)
    ]
    if unread:
        raise ModelError(
            f"{file.path} states {', '.join(unread)}.",
            f"Its config as transformers reads it ({config.model_type}) does not hold this, "
            "and would compute another attention or other positions.",
            "Load the model's original safetensors folder instead.",
        )


def check_version(file: GgufFile, installed: str) -> None:
    """Raise ModelError for versions of transformers that make other tokenizers of files.

    5.17 cuts words of Gemma's into other pieces, and passes over the key for the BOS token.
    """
    if tuple(map(int, installed.split(".")[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ModelError(
            f"transformers {installed} is installed.",
            f"It can make another tokenizer of {file.path.name} than the file describes: {oldest} or later is needed.",
            f"Type: pip install 'transformers>={oldest}'.",
        )


def _is_held(key: str, value: Any, config: Any) -> bool:
    """Whether a config holds what a key of a GGUF file says."""
    if key in READ or key == "attention.causal":
        return key in READ or bool(value)
    if key == "attention.sliding_window_pattern":
        return _slides_alike(value, getattr(config, "layer_types", None))
    if key not in HELD:
        return value in NEUTRAL
    held = getattr(config, HELD[key], None)
    if held is None and HELD[key] == "head_dim":
        held = config.hidden_size // config.num_attention_heads
    if isinstance(value, list):  # one number a layer, of which hybrids have 0 where they do not attend
        return {entry for entry in value if entry} == {held}
    return _equal(value, held) or (held is None and value in NEUTRAL)


def _slides_alike(pattern: Any, layer_types: Any) -> bool:
    """A flag for each layer, or the period of the layers that see everything."""
    if not layer_types:
        return False
    count = len(layer_types)
    slides = pattern if isinstance(pattern, list) else [bool((layer + 1) % pattern) for layer in range(count)]
    return [bool(flag) for flag in slides] == [kind == "sliding_attention" for kind in layer_types]


def _equal(value: Any, held: Any) -> bool:
    if isinstance(value, float) and isinstance(held, (int, float)):
        return abs(value - held) <= 1e-6 * max(abs(value), abs(held))  # a file holds float32
    return bool(value == held)
