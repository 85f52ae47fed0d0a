"""The weights of a network as tensors of a GGUF file: llama.cpp's names, its order of rows, its number formats."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.errors import ExportError
from longrope.exports.number_formats import DTYPES, check_fits_f16, float32_copy
from longrope.models import LanguageModel, holds

MODEL_TYPES = {"llama": "llama", "mistral": "llama", "phi3": "phi3"}  # transformers' type -> llama.cpp's architecture
OWN_FORMATS = {"torch.float32": "f32", "torch.float16": "f16", "torch.bfloat16": "bf16"}
FORMATS = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}  # -> type of the file
NARROWER = ("bf16", "f16")  # than f32, in which a CPU has all weights
WHOLE = {"f16": ("f16",), "bf16": ("bf16", "f32"), "f32": ("f32",)}  # own format -> those that hold it to the bit


@dataclass(frozen=True)
class Tensor:
    """A weight as it stands in a file.

    Attributes:
        name: of the network's parameter.
        own_name: llama.cpp's name.
        data: the bytes of its numbers, shaped as the gguf package writes them.
        kind: the gguf package's type of them.
        heads: how many heads' rows are in another order; 0 where the order is the network's.
    """

    name: str
    own_name: str
    data: NDArray[Any]
    kind: Any
    heads: int


def choose_format(model: LanguageModel, dtype: str = "") -> str:
    """The number format of a file's matrices: the one that is asked for, or the narrowest that holds them to the bit.

    Raises:
        ExportError: a number format that is none of ours.
    """
    chosen = dtype or OWN_FORMATS.get(str(model.network.dtype), "")
    if chosen not in FORMATS:
        raise ExportError(
            f"The number format {dtype!r} was asked for." if dtype else f"The weights are {model.network.dtype}.",
            f"Known: {', '.join(FORMATS)}.",
            "Use --dtype f32, or export a folder with --to hf.",
        )
    if chosen == "f32" and not dtype:
        matrices = [weight for weight in model.network.state_dict().values() if weight.ndim > 1]
        fitting = (name for name in NARROWER if all(holds(DTYPES[name], weight) for weight in matrices))
        return next(fitting, chosen)
    return chosen


def tensors_of(gguf: Any, model: LanguageModel, dtype: str) -> Iterator[Tensor]:
    """The weights one after the other; vectors in float32, as llama.cpp demands.

    Args:
        gguf: the package.
        model: of a type in ``MODEL_TYPES``.
        dtype: of the matrices: f32, f16, bf16, or q8_0 (8 bits and a scale for every 32 numbers). Rows that blocks do
            not divide are written in f16.

    Raises:
        ExportError: a weight is too large for f16.
    """
    config, kinds = model.network.config, gguf.GGMLQuantizationType
    architecture = MODEL_TYPES[config.model_type]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    turned = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    kind = kinds[dtype.upper()]
    for name, weight in model.network.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = weight.float().cpu().numpy()
        heads = turned.get(name.split(".")[-2], 0) if architecture == "llama" else 0
        array = _pairs_side_by_side(array, heads) if heads else array
        own = kinds.F32 if array.ndim == 1 else kind
        own = own if array.shape[-1] % gguf.GGML_QUANT_SIZES[own][0] == 0 else kinds.F16
        if own == kinds.F16:
            check_fits_f16(name, float(np.abs(array).max()))
        yield Tensor(name, names.get_name(name, (".weight",)), gguf.quants.quantize(array, own), own, heads)


def as_stored(gguf: Any, model: LanguageModel, dtype: str) -> LanguageModel:
    """The model with the weights that a file of another number format gives back, in float32.

    The model itself is returned where that format holds its weights to the bit.
    """
    if dtype in WHOLE.get(OWN_FORMATS.get(str(model.network.dtype), ""), ()):
        return model
    network = float32_copy(model.network)
    weights = network.state_dict()
    for tensor in tensors_of(gguf, model, dtype):
        array = gguf.quants.dequantize(tensor.data, tensor.kind)
        array = _halves_apart(array, tensor.heads) if tensor.heads else array
        weights[tensor.name].copy_(weights[tensor.name].new_tensor(array))
    return replace(model, network=network, choices=(), compiled=False)


def _pairs_side_by_side(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows [heads * d, N] of a projection from transformers' order, entry i beside i + d/2, to 2i beside 2i + 1."""
    rows, columns = weight.shape
    return np.ascontiguousarray(
        weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def _halves_apart(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo ``_pairs_side_by_side``."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
