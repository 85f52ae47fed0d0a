"""The model that an adapter or trained weights belong to: where it was, and what its weights hash to.

peft writes its name alone, which is a path from the folder in which the training was started.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from longrope.errors import ModelError
from longrope.models.folders import read_json

FILE = "base.json"
NAMED = "base_model_name_or_path"  # the key by which peft names a base in its config, and we in ours
VALUES = 4096  # of each tensor that enter the hash, evenly spread
EXACT = (torch.bfloat16, torch.float32, torch.float64)  # formats in which weights round to the same bfloat16


@dataclass(frozen=True)
class Trained:
    """A folder with an adapter or trained weights.

    Attributes:
        folder: where they lie.
        base: hub name, folder or file of the model that they belong to.
        config: the file of the folder that names it.
    """

    folder: Path
    base: str
    config: str


def write_base(folder: Path, base: str, weights: str = "") -> None:
    """Write down the place of a base, and the hash of its weights, beside what was trained."""
    place = str(Path(base).absolute()) if Path(base).exists() else ""
    (folder / FILE).write_text(json.dumps({"path": place, "weights": weights}, indent=1) + "\n", encoding="utf-8")


def find_base(folder: Path, named: str) -> str:
    """Where the base of a folder is: at its name, or where the training had it if there is none from here."""
    place = str(_read(folder).get("path") or "")
    return place if place and not Path(named).exists() and Path(place).exists() else named


def lost_base(trained: Trained) -> ModelError | None:
    """The error for a base that was a folder or a file and is not there; None for one that is, and for a hub name."""
    former = str(_read(trained.folder).get("path") or "")
    if not former or Path(trained.base).exists():
        return None
    return ModelError(
        f"The base of {str(trained.folder)!r} is not here: it was trained on {trained.base!r}, which was {former}.",
        "Only what was trained lies in this folder; the weights of the base are needed, too.",
        f"Write its folder or hub name as {NAMED} into {trained.folder / trained.config}.",
    )


def is_base(folder: Path, network: Any) -> bool:
    """Whether a network has the weights of the base of a folder; True where its number formats do not tell."""
    stated, formats = _read(folder).get("weights"), {weight.dtype for weight in network.parameters()}
    return not stated or not formats <= set(EXACT) or hash_weights(network, ()) == stated


def hash_weights(network: Any, but: Collection[str]) -> str:
    """Hex digits of a hash of all weights of a network but those of some names: names, shapes, part of the values.

    It is the same in float32 as in bfloat16.
    """
    found = hashlib.sha256()
    for name, weight in sorted(network.named_parameters()):
        if name not in but:
            values = weight.detach().flatten()[:: weight.numel() // VALUES | 1]  # odd, or it may fall on one column
            found.update(f"{name} {list(weight.shape)}".encode())
            found.update(values.to(torch.bfloat16).cpu().view(torch.int16).numpy().tobytes())
    return found.hexdigest()[:32]


def _read(folder: Path) -> dict[str, Any]:
    return read_json(folder / FILE) if (folder / FILE).is_file() else {}
