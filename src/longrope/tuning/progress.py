"""What a training leaves in its run directory: a checkpoint to go on from, and a line for every step."""

import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longrope import distributed
from longrope.errors import RunError
from longrope.records import TrainStep, append_records, read_records

FLUSH_SECONDS = 1.0


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
        for name, tensor in tensors.items():  # one after the other, for the first process alone has room for all
            found = distributed.full_tensor(tensor.detach())
            if distributed.is_main():
                whole[name] = found.contiguous()
        distributed.on_main(partial(self._write, self.path, step, whole))

    def _write(self, path: Path, step: int, whole: dict[str, Tensor]) -> None:
        unfinished = path.with_name(path.name + ".partial")
        save_file(whole, unfinished, metadata={**self.identity, "step": str(step)})
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)

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

    def _read(self, path: Path) -> tuple[int, dict[str, Tensor]]:
        try:
            with safe_open(path, framework="pt") as file:
                found = dict(file.metadata() or {})
                step = int(found.pop("step", "0"))
                self._check(found)
                return step, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        except SafetensorError as error:
            raise RunError(
                f"{path} cannot be read ({error}).",
                "A checkpoint of a training is needed, or none.",
                "Remove the file to train from the start, or give another directory with --out.",
            ) from None

    def _check(self, found: dict[str, str]) -> None:
        keys = {**self.identity, **found}
        pairs = {key: (self.identity.get(key, "nothing"), found.get(key, "nothing")) for key in keys}
        if changed := "; ".join(f"{key} = {now} (was {was})" for key, (now, was) in pairs.items() if now != was):
            raise RunError(
                f"{self.path} was made by another training: {changed}.",
                "A training is resumed only with the settings, seed, text, factors and model that began it.",
                "Give another directory with --out, or the old settings.",
            )


@dataclass
class TrainLog:
    """The lines of the steps. They wait for a second or a checkpoint, for a crash repeats what is newer than that.

    Attributes:
        path: of the .jsonl file; None keeps nothing.
        waiting: steps that are not on the disk yet.
    """

    path: Path | None
    waiting: list[TrainStep] = field(default_factory=list)
    _flushed_bytes: int = 0
    _flushed_at: float = 0.0

    def begin(self, step: int) -> None:
        """Cut off the lines of this step and later ones, which will be done again."""
        self._flushed_at = time.monotonic()
        if self.path and self.path.exists():
            kept = sum(record.step < step for record in read_records(self.path, TrainStep))
            lines = self.path.read_bytes().splitlines(keepends=True)
            self._flushed_bytes = sum(map(len, lines[:kept]))
            os.truncate(self.path, self._flushed_bytes)

    def add(self, record: TrainStep) -> None:
        """Take the record of a step."""
        self.waiting.append(record)
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Force all lines to disk; lines of a flush that was interrupted are written over."""
        if self.path and self.waiting:
            self.path.touch()
            os.truncate(self.path, self._flushed_bytes)
            append_records(self.path, self.waiting)
            self._flushed_bytes, self.waiting = self.path.stat().st_size, []
        self._flushed_at = time.monotonic()
