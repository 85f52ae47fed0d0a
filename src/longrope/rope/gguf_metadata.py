"""RoPE in GGUF files: its metadata keys and factor tensors, read and written as dicts.

Keys stand without the architecture's name before them, and tensors by their whole name. What is read comes in the words
of ``rope.hf_config``, so that one reader makes a geometry of both. The file itself is opened and written elsewhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.errors import ModelError
from longrope.rope.geometry import FactorLists, RopeSpec
from longrope.rope.scaling import llama3_lambdas, yarn_attention_factor

WINDOW, DIMENSION, THETA = "context_length", "rope.dimension_count", "rope.freq_base"
SCALING = "rope.scaling."
TYPE, FACTOR, ORIGINAL, ATTENTION = (
    f"{SCALING}{name}" for name in ("type", "factor", "original_context_length", "attn_factor")
)
OLD_FACTOR = "rope.scale_linear"  # of the files of 2023
BETAS = {name: f"{SCALING}yarn_{name}" for name in ("beta_fast", "beta_slow")}
KNOWN_KEYS = {DIMENSION, THETA, TYPE, FACTOR, ORIGINAL, ATTENTION, OLD_FACTOR, f"{SCALING}finetuned", *BETAS.values()}
NEUTRAL = {  # values of further keys that change nothing
    f"{SCALING}yarn_log_multiplier": 0.0,
    f"{SCALING}yarn_ext_factor": 1.0,
    f"{SCALING}yarn_attn_factor": 1.0,
    f"{SCALING}alpha": 0.0,
}
DIVISORS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
LLAMA3_TURNS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # of every Llama-3 model that Meta published
LLAMA3_WINDOWS = [2**power for power in range(5, 18)]  # 8,192 in Meta's models


def read_parameters(
    stated: Mapping[str, Any], tensors: Mapping[str, Sequence[float]], head_dim: int, source: str
) -> dict[str, Any]:
    """Read what a file states of its RoPE as entries of ``rope_parameters``.

    Args:
        stated: the metadata.
        tensors: [P] each, by name; others than those of the RoPE are passed over.
        head_dim: width of one attention head, to decide how much of it is rotated.
        source: the file, for the error.

    Raises:
        ModelError: the file states a scaling that we do not know.
    """
    geometry: dict[str, Any] = {}
    if THETA in stated:
        geometry["rope_theta"] = float(stated[THETA])
    if stated.get(DIMENSION, head_dim) != head_dim:
        geometry["partial_rotary_factor"] = stated[DIMENSION] / head_dim
    return geometry | _read_scaling(stated, tensors, source)


def write_longrope(spec: RopeSpec, lists: FactorLists) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """The metadata and the tensors of a file that carries both lists of these factors.

    No scaling factor is among them, by which llama.cpp would divide the positions besides; without a scaling type it
    would not look at the tensors.
    """
    metadata = {
        **_shape(spec, lists),
        TYPE: "longrope",
        ORIGINAL: lists.switch_tokens,
        ATTENTION: lists.attention_factor,
    }
    return metadata, {name: np.asarray(row, np.float32) for name, row in {SHORT: lists.short, LONG: lists.long}.items()}


def write_static(spec: RopeSpec, lists: FactorLists) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """The metadata and the tensor of a file that carries the long list of these factors for every length.

    Any scaling type would keep llama.cpp from the tensor, or scale the positions besides, so there is none.
    """
    return {**_shape(spec, lists), ATTENTION: lists.attention_factor}, {DIVISORS: np.asarray(lists.long, np.float32)}


def _shape(spec: RopeSpec, lists: FactorLists) -> dict[str, Any]:
    return {WINDOW: lists.target_window, DIMENSION: spec.rotary_dim, THETA: spec.theta}


def is_scaling(name: str) -> bool:
    """Whether a key (without the architecture's name) or a tensor belongs to a scaling, which factors take over."""
    return name.startswith(SCALING) or name in (OLD_FACTOR, DIVISORS, SHORT, LONG)


def _read_scaling(stated: Mapping[str, Any], tensors: Mapping[str, Sequence[float]], source: str) -> dict[str, Any]:
    """The scaling as llama.cpp reads it (``llama_model_base::load_hparams`` and ``get_rope_factors``).

    Without a type a factor is one of linear scaling, and without a factor a type changes nothing but for the tensors.
    """
    factor = float(stated.get(FACTOR) or stated.get(OLD_FACTOR) or 1.0)
    kind = stated.get(TYPE, "linear")
    others = {name for name in tensors if name not in (DIVISORS, SHORT, LONG)}
    if _unknown_keys(stated) or others or (SHORT in tensors) != (LONG in tensors):
        raise _refusal(stated, tensors, source)
    if tensors:
        if kind not in ("linear", "none", "longrope") or (factor != 1.0 and kind != "none"):
            raise _refusal(stated, tensors, source)  # llama.cpp would apply both
        return _read_tensors(stated, tensors)
    if kind == "none" or (factor == 1.0 and kind in ("linear", "yarn")):
        scaling: dict[str, Any] = {}
    elif kind == "linear":
        scaling = {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        scaling = _read_yarn(stated, factor)
    else:
        raise _refusal(stated, tensors, source)
    if stated.get(ATTENTION, 1.0) != 1.0 and kind != "yarn":
        raise _refusal(stated, tensors, source)  # transformers has no such factor for plain and linear RoPE
    return scaling


def _read_yarn(stated: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """YaRN; the factor on cos and sin that a file states multiplies YaRN's own."""
    window = stated.get(ORIGINAL, stated.get(WINDOW))
    given = {name: float(stated[key]) for name, key in BETAS.items() if key in stated}
    if stated.get(ATTENTION, 1.0) != 1.0:
        given["attention_factor"] = yarn_attention_factor(factor) * float(stated[ATTENTION])
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": window, **given}


def _read_tensors(stated: Mapping[str, Any], tensors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Two lists with a switch, or one set of divisors for every length: Llama-3's, or any others as two equal lists."""
    window, attention = stated.get(WINDOW), float(stated.get(ATTENTION, 1.0))
    if DIVISORS not in tensors:
        lists = {"short_factor": list(tensors[SHORT]), "long_factor": list(tensors[LONG])}
        original = stated.get(ORIGINAL, window)
        return {
            "rope_type": "longrope",
            **lists,
            "attention_factor": attention,
            "original_max_position_embeddings": original,
        }
    divisors = np.asarray(tensors[DIVISORS], np.float64)
    llama3 = _as_llama3(divisors, float(stated.get(THETA, 10_000.0)))
    if llama3 and attention == 1.0:
        return llama3
    both = dict.fromkeys(("short_factor", "long_factor"), divisors.tolist())
    return {
        "rope_type": "longrope",
        **both,
        "attention_factor": attention,
        "original_max_position_embeddings": window,
    }


def _as_llama3(divisors: NDArray[np.float64], theta: float) -> dict[str, Any] | None:
    """The parameters of Llama-3's scaling that give these divisors (float32 in the file), None if none do."""
    factor = round(float(divisors.max()), 4)
    frequencies = theta ** -(np.arange(len(divisors)) / len(divisors))
    turns = {name.replace("freq_factor", "turns"): value for name, value in LLAMA3_TURNS.items()}
    for window in LLAMA3_WINDOWS if factor > 1 else ():
        if np.allclose(llama3_lambdas(frequencies, factor, window, **turns), divisors, rtol=1e-5, atol=0):
            original = {"original_max_position_embeddings": window}
            return {"rope_type": "llama3", "factor": factor, **LLAMA3_TURNS, **original}
    return None


def _unknown_keys(stated: Mapping[str, Any]) -> set[str]:
    """Keys of a scaling that we do not know, or whose values change what we do not read."""
    scaling = {key for key in stated if key.startswith(SCALING)} - KNOWN_KEYS
    return {key for key in scaling if key not in NEUTRAL or stated[key] != NEUTRAL[key]}


def _refusal(stated: Mapping[str, Any], tensors: Mapping[str, Any], source: str) -> ModelError:
    keys = {key: stated[key] for key in sorted(stated) if key.startswith(SCALING) or key == OLD_FACTOR}
    stated_scaling = [*(f"{key} = {value}" for key, value in keys.items()), *sorted(tensors)]
    return ModelError(
        f"{source} carries a RoPE scaling that cannot be read: {', '.join(stated_scaling)}.",
        "A GGUF file may carry one of these: linear scaling, yarn with its betas, both factor tensors, or rope_freqs.",
        "Load the model's original safetensors folder instead.",
    )
