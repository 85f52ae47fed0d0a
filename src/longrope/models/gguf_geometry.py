"""The geometry of a GGUF file by its own keys and factor tensors, without its weights, for any of its architectures."""

from typing import Any

import numpy as np

from longrope.errors import ModelError, converting_errors
from longrope.models.gguf_file import GgufFile
from longrope.rope import RopeSpec, gguf_metadata
from longrope.rope.hf_config import read_geometry

FIXED_THETA = 10_000.0  # llama.cpp's, where a file states none


def read_gguf_spec(file: GgufFile) -> RopeSpec:
    """Read the geometry that all layers of a file share, and the scaling that it carries.

    It is that of the model which ``load_model`` makes of the file. Models whose layers differ state more keys, which
    are not read here.

    Raises:
        ModelError: keys are missing, or the file states a scaling that we do not know.
    """
    with converting_errors(
        ModelError,
        f"{file.path} states a rotary embedding that cannot be read",
        "Needed: numbers where the format has numbers.",
        "Give a file that llama.cpp's own converter wrote.",
    ):
        head_dim = _head_dim(file)
        parameters = {"rope_type": "default", "rope_theta": FIXED_THETA}
        parameters |= gguf_metadata.read_parameters(file.stated, read_rope_rows(file), head_dim, str(file.path))
        if not parameters.get("partial_rotary_factor", 1.0):
            raise ValueError("it rotates 0 entries of a head")
        return read_geometry(
            {
                "model_type": file.architecture,
                "head_dim": head_dim,
                "max_position_embeddings": _needed(file, gguf_metadata.WINDOW),
                "rope_parameters": parameters,
            }
        )


def read_rope_rows(file: GgufFile) -> dict[str, list[float]]:
    """The rows of a file's factor tensors, by their names."""
    places = [place for place in file.tensors if place.name.startswith("rope")]
    return {place.name: file.read_tensor(place).astype(np.float64).tolist() for place in places}


def _head_dim(file: GgufFile) -> int:
    if stated := file.stated.get("attention.key_length"):
        return int(stated)
    heads = _needed(file, "attention.head_count")
    most = max(heads) if isinstance(heads, list) else heads  # a number for each layer, 0 where one does not attend
    return int(_needed(file, "embedding_length") // most)


def _needed(file: GgufFile, key: str) -> Any:
    if not file.stated.get(key):
        raise ModelError(
            f"{file.path} states no {file.architecture}.{key}.",
            "The geometry of its rotary embedding cannot be read without it.",
            "Give a file that llama.cpp's own converter wrote.",
        )
    return file.stated[key]
