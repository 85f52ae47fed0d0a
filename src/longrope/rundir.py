"""A run directory: where each artifact of a run lives. What is written last means finished, so a run can be resumed."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from longrope.errors import RunError
from longrope.recipe import Recipe, dump_recipe, load_recipe

STAGE_FINISHED = "stage.json"


class RunDir:
    """The directory of one run; created when missing, opened again to resume.

    Files: ``recipe.toml``, ``factors.json`` (written when a search is finished), ``trials.jsonl``, ``train.jsonl``,
    ``tuning.safetensors`` (the weights of a training, with Adam's moments while it is not finished), ``scores.jsonl``,
    ``samples/`` (what the scores are computed from), ``costs.json`` (what each search took), ``scan.json`` (what the
    baseline of two scanned numbers found), ``hf/`` (the exported checkpoint), ``export.json`` (written when it was
    reopened and compared), where it was asked for ``gguf/`` (a file for llama.cpp, and how it compared), ``rope.json``
    and ``provenance.json`` (the geometry, and versions, device and command of every walk), and ``report.html``.
    """

    def __init__(self, path: str | Path) -> None:
        """Open or create the directory (raises RunError if the path is a file)."""
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file.", "A run needs a directory.", "Give another path with --out.")
        self.path.mkdir(parents=True, exist_ok=True)

    def discard_if_empty(self) -> None:
        """Remove the directory of a run that did not begin."""
        with suppress(OSError):  # not empty
            self.path.rmdir()

    @property
    def trials(self) -> Path:
        """Every evaluation of the searches, one record a line."""
        return self.path / "trials.jsonl"

    @property
    def train(self) -> Path:
        """Every step of a training of weights, one record a line."""
        return self.path / "train.jsonl"

    @property
    def tuning(self) -> Path:
        """The weights of a training, with Adam's moments while it is not finished."""
        return self.path / "tuning.safetensors"

    @property
    def stages(self) -> Path:
        """The stages of a progressive walk, each a run directory of its own."""
        return self.path / "stages"

    @property
    def finished(self) -> Path:
        """What a stage was made of; written last, so it means finished."""
        return self.path / STAGE_FINISHED

    @property
    def walked(self) -> Path:
        """What all stages of a walk were made of, and how it is exported, in a word."""
        return self.path / "walk.txt"

    @property
    def adapters(self) -> Path:
        """The low-rank adapters of a training, as peft saves them, before they were merged."""
        return self.path / "adapter"

    @property
    def scores(self) -> Path:
        """Every measured number, one record a line."""
        return self.path / "scores.jsonl"

    def samples(self, name: str) -> Path:
        """The samples of one measurement, such as losses or answers: numpy arrays by name."""
        return self.path / "samples" / f"{name}.npz"

    @property
    def rope(self) -> Path:
        """The geometry of the model's RoPE, with the factors of the closed forms."""
        return self.path / "rope.json"

    @property
    def provenance(self) -> Path:
        """Versions, device and command of every walk that wrote here."""
        return self.path / "provenance.json"

    @property
    def costs(self) -> Path:
        """What each search took."""
        return self.path / "costs.json"

    @property
    def scan(self) -> Path:
        """What the scan of base and attention factor has found, and at what cost."""
        return self.path / "scan.json"

    def factors(self, method: str = "") -> Path:
        """The factors of the run, or those of one method in a comparison."""
        return self.path / (f"factors-{method}.json" if method else "factors.json")

    @property
    def checkpoint(self) -> Path:
        """The exported checkpoint."""
        return self.path / "hf"

    def exported(self, file: str) -> Path:
        """The checkpoint in another format, by the name of its file in the registry."""
        return self.path / file

    @property
    def export_report(self) -> Path:
        """How the reopened checkpoint compared with ours; written last, so it means exported."""
        return self.path / "export.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory against a second process (raises RunError if another one holds it)."""
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"The run directory {self.path} is in use by another process.",
                "One process may work in it at a time.",
                "Wait for it, or give another directory with --out.",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def bind(self, recipe: Recipe) -> None:
        """Write the recipe into a new directory, or check that an existing one was made by the same recipe.

        A walk of stages may change: each stage knows what it was made of, so what is the same is not done again.
        """
        self.check(recipe)
        if not (self.path / "recipe.toml").exists() or self.recipe() != recipe:
            self.write_text(self.path / "recipe.toml", dump_recipe(recipe))

    def check(self, recipe: Recipe) -> None:
        """Raise RunError if another recipe began this run."""
        if (self.path / "recipe.toml").exists() and not _resumable(self.recipe(), recipe):
            before, now = _flatten(asdict(self.recipe())), _flatten(asdict(recipe))
            changed = "; ".join(f"{key} = {now[key]!r} (was {before[key]!r})" for key in now if before[key] != now[key])
            raise RunError(
                f"The run directory {self.path} was made by another recipe: {changed}.",
                "A run is resumed only with the recipe that began it.",
                "Give another directory with --out, or the old settings.",
            )

    def recipe(self) -> Recipe:
        """The recipe that this run was begun with (raises RunError in a directory that is no run)."""
        path = self.path / "recipe.toml"
        if not path.exists():
            raise RunError(
                f"{self.path} holds no recipe.toml.", "A run directory is needed.", "Make one with `longrope extend`."
            )
        return load_recipe(path)

    def write_text(self, path: Path, text: str) -> None:
        """Write a file atomically: after a crash it is either absent, old or whole."""
        _write(path, lambda file: file.write(text.encode()))

    def write_arrays(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write numpy arrays by name atomically, as ``write_text`` does."""
        path.parent.mkdir(exist_ok=True)
        _write(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]  # it takes all names but its own options

    @contextmanager
    def replacing(self, folder: Path) -> Iterator[Path]:
        """Fill a folder under another name and move it into place at the end, replacing an older one."""
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)


def _resumable(before: Recipe, now: Recipe) -> bool:
    """Whether a run can go on so: by the same recipe, or by a walk of other stages from the same model and texts.

    A tail of another length is no part of scores that are there already.
    """
    if not (before.stages and now.stages):
        return before == now
    free = {key: getattr(now, key) for key in ("target_tokens", "stages", "search", "tune", "measure", "export")}
    return replace(before, **free) == now and before.measure.tail_tokens == now.measure.tail_tokens


def _write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
