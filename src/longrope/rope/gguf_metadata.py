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

WINDOW, DIMENSION, THETA = "context_length", "rope.dimension_count", "rope.freq_base"
SCALING = "rope.scaling."
TYPE, FACTOR, ORIGINAL, ATTENTION = (
    f"{SCALING}{name}" for name in ("type", "factor", "original_context_length", "attn_factor")
)
BETAS = {name: f"{SCALING}yarn_{name}" for name in ("beta_fast", "beta_slow")}
YARN_KEYS = {TYPE, FACTOR, ORIGINAL, f"{SCALING}finetuned", *BETAS.values()}
DIVISORS, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"


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
    """The metadata and the tensors of a file that carries these factors.

    No scaling factor is among them, by which llama.cpp would divide the positions besides; without a scaling type it
    would not look at the tensors.
    """
    metadata = {
        WINDOW: lists.target_window,
        DIMENSION: spec.rotary_dim,
        THETA: spec.theta,
        TYPE: "longrope",
        ORIGINAL: lists.switch_tokens,
        ATTENTION: lists.attention_factor,
    }
    return metadata, {name: np.asarray(row, np.float32) for name, row in {SHORT: lists.short, LONG: lists.long}.items()}


def _read_scaling(stated: Mapping[str, Any], tensors: Mapping[str, Sequence[float]], source: str) -> dict[str, Any]:
    window = stated.get(WINDOW)
    original = stated.get(ORIGINAL, window)
    if DIVISORS in tensors:
        both = {key: list(tensors[DIVISORS]) for key in ("short_factor", "long_factor")}
        return {"rope_type": "longrope", **both, "attention_factor": 1.0, "original_max_position_embeddings": window}
    if LONG in tensors:
        lists = {"short_factor": list(tensors[SHORT]), "long_factor": list(tensors[LONG])}
        attention = {"attention_factor": stated[ATTENTION]} if ATTENTION in stated else {}
        return {"rope_type": "longrope", **lists, **attention, "original_max_position_embeddings": original}
    kind = stated.get(TYPE, "none")
    if kind == "none":
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": float(stated[FACTOR])}
    if kind == "yarn" and not {key for key in stated if key.startswith(SCALING)} - YARN_KEYS:
        given = {name: float(stated[key]) for name, key in BETAS.items() if key in stated}
        factor = float(stated[FACTOR])
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original, **given}
    raise ModelError(
        f"{source} carries the RoPE scaling {kind!r} with {', '.join(sorted(key for key in stated if 'rope' in key))}.",
        "From GGUF files none, linear, yarn with its betas, and factor tensors can be read.",
        "Load the model's original safetensors folder instead.",
    )
