"""The checkpoint of a training, from which it is resumed."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longrope import distributed
from longrope.errors import RunError, describe_error
from longrope.runs.files import write_file
from longrope.runs.identity import check_same

CHECKSUMS = "checksums"  # the key of them in the metadata
KINDS = ("weight", "exp_avg", "exp_avg_sq", "step")
CONTENT = "content"  # of the weights that it starts from; where their shapes differ, that is the reason


@dataclass(frozen=True)
class Checkpoint:
    """A safetensors file of tensors by name; its metadata hold the step and what training it belongs to.

    Attributes:
        path: of the file; None keeps nothing.
        identity: of the training; a file of another one is refused.
    """

    path: Path | None
    identity: dict[str, str]

    def save(self, step: int, tensors: dict[str, Tensor]) -> None:
        """Write the state after so many steps; after a crash the file is either absent, old or whole."""
        if not self.path:
            return
        whole = {}
        for name, tensor in tensors.items():  # one after the other, for the first process alone has memory for all
            found = distributed.full_tensor(tensor.detach())
            if distributed.is_main():
                whole[name] = found.contiguous()
        metadata = {**self.identity, "step": str(step), CHECKSUMS: json.dumps(_checksums(whole))}
        write_file(self.path, lambda unfinished: save_file(whole, unfinished, metadata=metadata))

    def read(self) -> tuple[int, dict[str, Tensor | None]]:
        """Read how many steps are done and the tensors after them, 0 and none if nothing was saved.

        Of several processes the first one has the tensors, the others None in their places.

        Raises:
            RunError: the file is damaged, or another training has made it.
        """
        here: dict[str, Tensor] = {}

        def look() -> tuple[int, list[str]]:
            step, tensors = self._read(self.path) if self.path and self.path.exists() else (0, {})
            here.update(tensors)
            return step, list(tensors)

        step, names = distributed.on_main(look)
        return step, {name: here.get(name) for name in names}

    def count_steps(self) -> int:
        """How many steps are done, by the first lines of the file; 0 where there is none, or none that can be read."""
        if not (self.path and self.path.exists()):
            return 0
        try:
            with safe_open(self.path, framework="pt") as file:
                return int((file.metadata() or {}).get("step", "0"))
        except (SafetensorError, OSError, ValueError):
            return 0  # whoever reads it says why

    def _read(self, path: Path) -> tuple[int, dict[str, Tensor]]:
        try:
            with safe_open(path, framework="pt") as file:
                found = dict(file.metadata() or {})
                step, sums = int(found.pop("step", "0")), json.loads(found.pop(CHECKSUMS, "{}"))
                needed = "A training is resumed only with the settings, seed, text, factors and model that began it."
                left_out = set() if found.get("weights") == self.identity.get("weights") else {CONTENT}
                left_out |= {CONTENT} - found.keys()  # written by an earlier version
                before, now = ({k: v for k, v in x.items() if k not in left_out} for x in (found, self.identity))
                check_same(str(path), "training", before, now, needed=needed)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            if isinstance(error, RunError):
                raise
            raise _damaged(path, describe_error(error)) from error
        if sums and sums != _checksums(tensors):  # those of earlier versions have none
            raise _damaged(path, "its tensors have other checksums")
        return step, tensors


def check_tensors(path: Path | None, tensors: Mapping[str, Tensor | None], weights: Mapping[str, Tensor]) -> None:
    """Compare the tensors of a checkpoint with the weights of the training that is to go on from them.

    Args:
        path: of the checkpoint, for the error.
        tensors: as they were read; none before the first checkpoint.
        weights: by name.

    Raises:
        RunError: one is missing, of another shape, or of no weight.
    """
    if not tensors:
        return
    missing = [name for name in weights if f"weight/{name}" not in tensors]
    wrong = [key for key, tensor in tensors.items() if not _belongs(key, tensor, weights)]
    if missing or wrong:
        raise _damaged(path, f"{(missing or wrong)[0]} is {'missing' if missing else 'of another training'}")


def _belongs(key: str, tensor: Tensor | None, weights: Mapping[str, Tensor]) -> bool:
    kind, _, name = key.partition("/")
    if kind not in KINDS or name not in weights:
        return False
    return tensor is None or kind == "step" or tensor.shape == weights[name].shape


def _checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """CRC-32 of every tensor."""
    flat = {name: tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for name, tensor in tensors.items()}
    return {name: zlib.crc32(tensor.numpy().data) if tensor.numel() else 0 for name, tensor in flat.items()}


def _damaged(path: Path | None, reason: str) -> RunError:
    return RunError(
        f"{path} cannot be read ({reason}).",
        "A checkpoint of this training is needed, or none.",
        "Remove the file to train from the start, or give another directory with --out.",
    )
