"""The number format of a checkpoint's weights: the base model's where it keeps every number, or the one asked for."""

import copy
from dataclasses import replace
from typing import Any

from longrope.errors import ExportError
from longrope.models import LanguageModel, as_kept, holds

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}  # torch's names
LARGEST_F16 = 65504


def choose_dtype(model: LanguageModel, asked: str = "") -> tuple[str, str]:
    """The number format of a folder's weights by torch's name, and the reason for it.

    Without one that is asked for it is the format that the base model is stored in. Weights that were tuned or
    dequantized, some matrix of which that format does not hold to the bit, keep the one that they were loaded in.

    Args:
        model: that is exported.
        asked: f32, f16 or bf16; empty for the base model's.

    Raises:
        ExportError: another format is asked for.
    """
    if asked:
        if asked not in DTYPES:
            raise ExportError(
                f"The number format {asked!r} was asked for, of a folder.",
                f"Known: {', '.join(DTYPES)}; q8_0 is one of GGUF files.",
                "Use --dtype bf16, or --to gguf.",
            )
        return DTYPES[asked], "as asked"
    own, stored = str(model.network.dtype).removeprefix("torch."), model.stored_dtype
    if own != "float32" or stored in ("", own):
        return own, "as loaded"
    matrices = (weight for weight in model.network.state_dict().values() if weight.ndim > 1)
    if all(holds(stored, weight) for weight in matrices):
        return stored, "as the base model's"
    return own, f"{stored}, the base model's, does not hold these weights; --dtype rounds them"


def float32_copy(network: Any) -> Any:
    """A copy of a network in float32, with the scale of embeddings that the code has for float32 (Gemma's).

    Networks in 16 bits have it rounded to them: 25.25 in the place of 25.298 at 640 numbers a token, which a checkpoint
    of these weights does not have when it is opened in float32.
    """
    copied = copy.deepcopy(network).float()
    for module in copied.modules():
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale.fill_(module.scalar_embed_scale)
    return copied


def rounded(model: LanguageModel, dtype: str) -> LanguageModel:
    """The model with weights that a number format holds; itself where it holds them already.

    Raises:
        ExportError: a weight is too large for f16.
    """
    weights = {name: weight for name, weight in model.network.state_dict().items() if weight.is_floating_point()}
    if all(holds(dtype, weight) for weight in weights.values()):
        return model
    if dtype == DTYPES["f16"]:
        for name, weight in weights.items():
            check_fits_f16(name, float(weight.abs().max()))
    network = copy.deepcopy(model.network)
    for weight in network.state_dict().values():
        if weight.is_floating_point():
            weight.copy_(as_kept(dtype, weight))
    return replace(model, network=network, compiled=False)


def check_fits_f16(name: str, largest: float) -> None:
    """Raise ExportError for a weight whose largest number f16 does not hold."""
    if largest > LARGEST_F16:
        raise ExportError(
            f"The weight {name} has numbers up to {largest:.3g}.",
            f"f16 holds numbers up to {LARGEST_F16:,}.",
            "Use --dtype bf16 or f32.",
        )
