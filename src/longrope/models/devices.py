"""Where a model runs and in which number format, each with the reason for the choice."""

import difflib
import platform

import torch

from longrope.errors import ModelError
from longrope.models.language_model import LanguageModel

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}


def choose_device(device: str = "auto") -> tuple[str, str]:
    """Return the device and the reason for it; raise ModelError for a GPU that is not there."""
    device = str(device)  # a torch.device, too
    if device == "auto":
        return ("cuda", "a GPU is here") if torch.cuda.is_available() else ("cpu", "no GPU is here")
    try:
        torch.zeros(1, device=device).item()  # which a device that only describes tensors does not have
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        needed = "No GPU is here." if device.startswith("cuda") else "There is none of that name."
        raise ModelError(f"The device {device!r} was asked for ({reason}).", needed, "Try cpu.") from None
    return device, "as asked"


def choose_dtype(dtype: str, device: str) -> tuple[torch.dtype, str]:
    """Return the number format of the weights and the reason for it; raise ModelError for an unknown one."""
    if dtype == "auto":
        return (torch.float32, "a CPU") if device == "cpu" else (torch.bfloat16, "a GPU")
    if dtype not in DTYPES:
        nearest = difflib.get_close_matches(str(dtype), DTYPES, n=1, cutoff=0.0)[0]
        raise ModelError(f"The dtype {dtype!r} was asked for.", f"Known: auto, {', '.join(DTYPES)}.", f"Try {nearest}.")
    return DTYPES[dtype], "as asked"


def describe_device(model: LanguageModel) -> str:
    """What the model is on: the GPU's name, or the processor's architecture and how many threads are used."""
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{model.device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
