"""Loaded weights are complete and finite, or the model is refused and the weights are named; their number format.

transformers fills weights that a checkpoint lacks with random numbers and drops those that the network has no place
for, both with a warning at most. From GGUF files it drops them without one.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from longrope.errors import ModelError
from longrope.models.devices import DTYPES
from longrope.models.gguf_file import GgufFile
from longrope.models.language_model import LanguageModel

SHOWN = 3  # names of weights in an error
SAMPLED = 256  # numbers of each weight that name a model
# Tensors of GGUF files that stand for no single weight of a network: the tables of the rotary embedding, which are
# read with the metadata, and stacked experts, which transformers maps to weights of its own.
FORMATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # of safetensors and GGUF files
GGUF_APART = ("rope_freqs", "rope_factors", "rot_embd", "_exps")


def check_complete(source: str | Path, report: Mapping[str, Iterable[Any]]) -> None:
    """Raise ModelError if weights were missing, unexpected or of another shape than the config states.

    Tied weights, old rotary buffers and the keys that a class of transformers declares ignorable are in no report.

    Args:
        source: the model, for the error.
        report: what ``from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)`` returns beside the
            network: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.
    """
    shapes = [f"{key} {list(given)} for {list(needed)}" for key, given, needed in report["mismatched_keys"]]
    faults = {"missing": report["missing_keys"], "of another shape": shapes, "unexpected": report["unexpected_keys"]}
    found = [f"{_name_first(sorted(keys))} {kind}" for kind, keys in faults.items() if keys]
    if found:
        raise ModelError(
            f"The weights of {str(source)!r} do not fit its config: {'; '.join(found)}.",
            "Needed: every weight of the network, by its name and with its shape, and no others.",
            "Download the model again with all of its files, or correct its config or the names of its weights.",
        )


def check_gguf_complete(file: GgufFile, network: Any) -> None:
    """Raise ModelError if a GGUF file holds tensors that stand for no weight of the network.

    Args:
        file: what was loaded.
        network: what was made of it; weights that it lacks are reported by ``check_complete``.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map  # an extra that only GGUF files need

    architecture = next(number for number, name in MODEL_ARCH_NAMES.items() if name == file.architecture)
    names = get_tensor_name_map(architecture, network.config.num_hidden_layers)
    known = {names.get_name(key, try_suffixes=(".weight", ".bias")) for key in network.state_dict()}
    tensors = [place.name for place in file.tensors if not any(part in place.name for part in GGUF_APART)]
    unexpected = sorted(set(tensors) - known)
    check_complete(file.path, {"missing_keys": (), "mismatched_keys": (), "unexpected_keys": unexpected})


def check_finite(source: str | Path, network: Any) -> None:
    """Raise ModelError if a weight holds NaN or infinite numbers."""
    bad = [name for name, weight in network.named_parameters() if not _is_finite(weight)]
    if bad:
        raise ModelError(
            f"The weights of {str(source)!r} are not finite: {_name_first(bad)}.",
            "Every loss of such a model would be NaN; all weights must be finite numbers.",
            "Download the model again, or try another --dtype if they overflow in this one.",
        )


def stored_dtype(source: str | Path, stated: Iterable[Any]) -> str:
    """The number format of a checkpoint's weights; empty where it is unknown, or torch does not calculate in it.

    Args:
        source: a folder, a GGUF file, or a name.
        stated: the ``dtype`` of its configs, the first of which that is one counts; without one the first matrix does.
    """
    names = [str(dtype).removeprefix("torch.") for dtype in stated if dtype is not None]
    if not names and Path(source).is_dir():
        names = _stored_formats(Path(source))
    return names[0] if names and names[0] in DTYPES else ""


def gguf_dtype(file: GgufFile) -> str:
    """The number format of the matrices of a GGUF file, empty for quantized ones."""
    kinds = {place.type_name for place in file.tensors if len(place.shape) > 1}
    return FORMATS.get(kinds.pop(), "") if len(kinds) == 1 else ""


def _stored_formats(folder: Path) -> list[str]:
    """The number formats of the matrices in a file of a folder, in its order."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            parts = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118  # it is no dict
            return [FORMATS.get(part.get_dtype(), "") for part in parts if len(part.get_shape()) > 1]
    return []


def _is_finite(weight: torch.Tensor) -> bool:
    if not weight.is_floating_point() or weight.dtype.itemsize == 1 or not weight.numel():
        return True  # quantized numbers have scales of their own
    return bool(torch.isfinite(torch.stack(weight.aminmax())).all())  # NaN wins both


def _name_first(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names):,} ({', '.join(names[:SHOWN])}{more})"


def name_weights(model: LanguageModel, *, in_any_format: bool = False) -> str:
    """Sixteen hex digits of the geometry and of numbers that are spread over every weight.

    Args:
        model: loaded, its weights whole in this process.
        in_any_format: round the numbers to bfloat16, so that the same checkpoint has one name in all number formats.
    """
    digest = hashlib.sha256(f"{model.network.config.model_type} {model.spec.fingerprint}".encode())
    state: dict[str, Any] = model.network.state_dict()
    for name, weight in state.items():
        flat = weight.flatten()
        sampled = flat[:: max(1, flat.numel() // SAMPLED)][:SAMPLED]
        sampled = (sampled.to(torch.bfloat16) if in_any_format else sampled).float()
        digest.update(f"{name} {tuple(weight.shape)}".encode() + sampled.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
