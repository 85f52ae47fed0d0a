"""Weights in 8 or 4 bits by bitsandbytes, for searching and measuring a model that would not fit otherwise.

The factors that are found belong to the model as it is stored; it is trained and exported in its own number format.
"""

import logging
from importlib.util import find_spec
from typing import Any

import torch

from longrope.errors import ModelError
from longrope.models.language_model import LanguageModel

QUANTIZED = {"8bit": "8 bits a weight", "4bit": "4 bits a weight, NF4"}


def check_quantized(name: str, *, is_gguf: bool) -> None:
    """Refuse to quantize where it cannot be done.

    Args:
        name: one of ``QUANTIZED``, or another number format, which is not checked.
        is_gguf: whether it comes from a GGUF file, whose weights are dequantized while loading.

    Raises:
        ModelError: the file is GGUF, or bitsandbytes is not installed.
    """
    if name not in QUANTIZED:
        return
    if is_gguf:
        raise ModelError(
            f"The dtype {name!r} was asked for with a GGUF file.",
            "Its weights are dequantized while they are loaded.",
            "Give the folder or the hub name of the same model instead.",
        )
    if find_spec("bitsandbytes") is None:
        raise ModelError("bitsandbytes is not installed.", "It quantizes weights.", "pip install 'longrope[quantized]'")


def quantization_of(name: str, computed_in: torch.dtype) -> Any:
    """What transformers quantizes by while it loads: its ``BitsAndBytesConfig``; None for other number formats.

    Products are computed in ``computed_in``; embeddings and the output head keep this number format.
    """
    if name not in QUANTIZED:
        return None
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_says_no_cast)
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=computed_in,
    )


def _says_no_cast(record: logging.LogRecord) -> bool:
    """False for the warning of each 8-bit layer in each pass that its inputs are rounded."""
    return "inputs will be cast" not in str(record.msg)


def keep_differentiable(network: Any) -> None:
    """Have the 4-bit layers of a network keep the layout of their weights that has a backward pass.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 would rearrange them in the first pass without gradients, and then no
    gradient goes through them any more.
    """
    for layer in network.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def check_not_quantized(model: LanguageModel, step: str) -> None:
    """Raise ModelError where a step needs the weights themselves, such as training or exporting."""
    if model.quantized:
        raise ModelError(
            f"{model.name!r} was loaded in {QUANTIZED[model.quantized]}.",
            f"{step} needs the weights in their own number format; searching and measuring do not.",
            "Load it without this --dtype; factors found with it can be given as --factors.",
        )
