"""The trained weights of a model alone, as a folder that is loaded as the whole model.

Where a training changes a small part of the weights, the rest is that of the base. The folder has the trained tensors,
and a file that says where the base is and what its other weights hash to, so that no other base can take its place.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from longrope.errors import ModelError
from longrope.models.bases import EXACT, NAMED, Trained, find_base, hash_weights, write_base
from longrope.models.folders import read_json

CONFIG, WEIGHTS = "trained_weights.json", "trained_weights.safetensors"
UNTRAINED = "untrained_weights"


def find_trained_weights(source: str | Path) -> Trained | None:
    """The trained weights that a folder holds, None for every other source.

    Raises:
        ModelError: it names no base, or its weights are missing.
    """
    folder = Path(source)
    if not (folder / CONFIG).is_file():
        return None
    base = read_json(folder / CONFIG).get(NAMED)
    if not base or not (folder / WEIGHTS).is_file():
        raise ModelError(
            f"{str(folder)!r} holds {CONFIG} with {f'no {WEIGHTS}' if base else f'no {NAMED}'}.",
            "Needed: the trained weights, and the model that all others are of.",
            "Copy the whole folder.",
        )
    return Trained(folder, find_base(folder, str(base)), CONFIG)


def save_trained_weights(network: Any, trained: Mapping[str, Tensor], base: str, folder: Path) -> None:
    """Write weights of a network, and what ties them to its other weights.

    Args:
        network: transformers'.
        trained: those of its weights that are not the base's, by name.
        base: hub name or path of the base.
        folder: is made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = {name: weight.detach().cpu().contiguous() for name, weight in trained.items()}
    save_file(given, folder / WEIGHTS, metadata={"format": "pt"})
    stated = {NAMED: base, UNTRAINED: hash_weights(network, trained)}
    (folder / CONFIG).write_text(json.dumps(stated, indent=1) + "\n", encoding="utf-8")
    write_base(folder, base)


def put_trained_weights(network: Any, found: Trained) -> Any:
    """The network of a base with trained weights in the place of its own.

    Raises:
        ModelError: a weight has no place in it, or its other weights are not those that the training left unchanged.
    """
    given, own = load_file(found.folder / WEIGHTS), dict(network.named_parameters())
    misfits = [name for name, weight in given.items() if name not in own or own[name].shape != weight.shape]
    dtype = next(network.parameters()).dtype
    expected = read_json(found.folder / CONFIG).get(UNTRAINED)
    if misfits or (dtype in EXACT and hash_weights(network, given) != expected):
        said = f"{misfits[0]} has no place in it" if misfits else "its other weights are not those of the training"
        raise ModelError(
            f"The trained weights in {str(found.folder)!r} do not fit {found.base!r}: {said}.",
            "Needed: the very model whose weights were trained in part.",
            f"Correct {NAMED} in {found.folder / CONFIG}.",
        )
    with torch.no_grad():
        for name, weight in given.items():
            own[name].copy_(weight)
    return network
