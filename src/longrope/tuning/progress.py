"""The checkpoint of a training, from which it is resumed."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longrope import distributed
from longrope.errors import RunError
from longrope.runs.files import write_file
from longrope.runs.identity import check_same


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
        metadata = {**self.identity, "step": str(step)}
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

    def _read(self, path: Path) -> tuple[int, dict[str, Tensor]]:
        try:
            with safe_open(path, framework="pt") as file:
                found = dict(file.metadata() or {})
                step = int(found.pop("step", "0"))
                needed = "A training is resumed only with the settings, seed, text, factors and model that began it."
                check_same(str(path), "training", found, self.identity, needed=needed)
                return step, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
        except SafetensorError as error:
            raise RunError(
                f"{path} cannot be read ({error}).",
                "A checkpoint of a training is needed, or none.",
                "Remove the file to train from the start, or give another directory with --out.",
            ) from None
