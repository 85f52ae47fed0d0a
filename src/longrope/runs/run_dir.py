"""A run directory: where each artifact of a run lives. What is written last means finished, so a run can be resumed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from longrope.errors import RunError, converting_errors
from longrope.recipe import Recipe, dump_recipe, load_recipe
from longrope.rope import FactorTable, RescaleFactors, dump_factors, load_factors
from longrope.runs.files import (
    check_no_link,
    is_main,
    make_folder,
    on_main,
    read_bytes_of_run,
    remove_file,
    write_file,
    writing,
)
from longrope.runs.identity import check_same
from longrope.runs.records import SampleSummary, Score, TrainStep, Trial, append_records, read_records

STAGE_FINISHED = "stage.json"


class RunDir:
    """The directory of one run; created when missing, opened again to resume.

    Attributes:
        path: of the directory. The others are files and folders in it.
        trials: every evaluation of the searches, one record a line.
        train: every step of a training of weights, one record a line.
        tuning: the weights of a training, with Adam's moments while it is not finished.
        adapters: the low-rank adapters of a training, as peft saves them, before they were merged, or
            the weights that it has chosen.
        stages: the stages of a progressive schedule, each a run directory of its own.
        finished: what a stage was made of; written last, so it means finished.
        scores: every measured number, one record a line.
        summaries: what comparisons with other runs need of the samples, which are large, one record a line.
        rope: the geometry of the model's RoPE, with the factors of the baselines.
        provenance: versions, device and command of every session that wrote here.
        costs: what each search took.
        scan: what the scan of base and attention factor has found, and at what cost.
        checkpoint: the exported checkpoint.
        export_report: how the reopened checkpoint compared with ours; written last, so it means exported.
    """

    def __init__(self, path: str | Path) -> None:
        """Open or create the directory (raises RunError if the path is a file, or empty)."""
        if path == "":
            raise RunError(
                "The path of a run is empty.", "It would mean the current folder.", "Give the folder itself."
            )
        self.path = Path(path)
        self.trials = self.path / "trials.jsonl"
        self.train = self.path / "train.jsonl"
        self.tuning = self.path / "tuning.safetensors"
        self.adapters = self.path / "adapter"
        self.stages = self.path / "stages"
        self.finished = self.path / STAGE_FINISHED
        self.scores = self.path / "scores.jsonl"
        self.summaries = self.path / "sample-summaries.jsonl"
        self.rope = self.path / "rope.json"
        self.provenance = self.path / "provenance.json"
        self.costs = self.path / "costs.json"
        self.scan = self.path / "scan.json"
        self.checkpoint = self.path / "hf"
        self.export_report = self.path / "export.json"
        self._recipe = self.path / "recipe.toml"
        self._preprocess = self.path / "preprocess.txt"
        self._made: list[Path] = []  # the folder itself and those above it that were not there
        on_main(self._create)

    def _create(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file.", "A run needs a directory.", "Give another path with --out.")
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        make_folder(self.path, linked=True)

    def discard_if_empty(self) -> None:
        """Remove the directories that were made for a run that did not begin.

        No process waits here, for another may be lost.
        """
        if is_main():
            with suppress(OSError):  # not empty
                for folder in self._made:
                    folder.rmdir()

    @property
    def scheduled(self) -> Path:
        """What all stages of a schedule were made of, and how it is exported, in a word."""
        former = self.path / "walk.txt"
        return former if former.exists() else self.path / "schedule.txt"

    def samples(self, name: str) -> Path:
        """The samples of one measurement, such as losses or answers: numpy arrays by name."""
        return self.path / "samples" / f"{name}.npz"

    def factors(self, method: str = "") -> Path:
        """The factors of the run, or those of one method in a comparison."""
        return self.path / (f"factors-{method}.json" if method else "factors.json")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory against a second launch (raises RunError if another one holds it)."""
        for place in (*self.path.iterdir(), *self.stages.glob("*")):  # of a stranger's run directory
            check_no_link(place)
        lock = FileLock(self.path / ".lock")
        on_main(partial(self._acquire, lock))
        try:
            yield
        finally:
            lock.release()  # without effect in processes that do not hold it

    def _acquire(self, lock: FileLock) -> None:
        with writing(self.path / ".lock"):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise RunError(
                    f"The run directory {self.path} is in use by another process.",
                    "One process may work in it at a time.",
                    "Wait for it, or give another directory with --out.",
                ) from None

    def bind(self, recipe: Recipe, preprocess: str = "") -> None:
        """Write the recipe into a new directory, or check that an existing one was made by the same recipe.

        A schedule may change: each stage knows its inputs, so stages with the same inputs are not repeated.
        """
        self.check(recipe, preprocess)
        if preprocess:
            self.write_text(self._preprocess, preprocess + "\n")
        if not self.has(self._recipe) or self.recipe() != recipe:
            self.write_text(self._recipe, dump_recipe(recipe))

    def check(self, recipe: Recipe, preprocess: str = "") -> None:
        """Raise RunError if another recipe began this run, or the texts went through another function."""
        if self.has(self._recipe) and not _resumable(self.recipe(), recipe):
            before, now = _written(asdict(self.recipe())), _written(asdict(recipe))
            needed = "A run is resumed only with the recipe that began it."
            if any(before[key] != now[key] for key in ("model", "data", "measure_data")):
                needed += " If a model or texts were only moved, a link is needed at the old path."
            check_same(f"The run directory {self.path}", "recipe", before, now, needed=needed)
        function = self.preprocess
        if self.has(self._recipe) and function != preprocess:
            raise RunError(
                f"The texts of {self.path} went through {function or 'no function'}, and now {preprocess or 'none'}.",
                "A run goes on with the texts that began it, and so does its export.",
                f"Give --preprocess {function}." if function else "Leave --preprocess out, or begin another run.",
            )

    def recipe(self) -> Recipe:
        """The recipe that this run was begun with (raises RunError in a directory that is no run)."""
        if not self.has(self._recipe):
            raise RunError(
                f"{self.path} holds no recipe.toml.", "A run directory is needed.", "Make one with `longrope extend`."
            )
        return on_main(partial(load_recipe, self._recipe, trust_task_files=True))

    @property
    def preprocess(self) -> str:
        """The name of the function that the texts of this run went through; empty if none did."""
        return (self.read_text(self._preprocess) or "").strip()

    @property
    def is_exported(self) -> bool:
        """Whether the checkpoint is there, and was compared; the same in all processes."""
        return on_main(lambda: self.export_report.exists() and (self.checkpoint / "config.json").exists())

    def has(self, path: Path) -> bool:
        """Whether a file is there; the same in all processes."""
        return on_main(path.exists)

    def append(self, *records: Trial | TrainStep | Score | SampleSummary) -> None:
        """Add records of one kind to its file and force them to disk."""
        files = {Trial: self.trials, TrainStep: self.train, Score: self.scores, SampleSummary: self.summaries}
        if records:
            append_records(files[type(records[0])], records)

    def read_trials(self) -> list[Trial]:
        """Every evaluation of the searches."""
        return read_records(self.trials, Trial)

    def read_steps(self) -> list[TrainStep]:
        """Every step of a training."""
        return read_records(self.train, TrainStep)

    def read_scores(self) -> list[Score]:
        """Every measured number."""
        return read_records(self.scores, Score)

    def read_summaries(self) -> list[SampleSummary]:
        """What comparisons with other runs need of the samples, one for each score that has pairs."""
        return read_records(self.summaries, SampleSummary)

    def read_factors(self) -> FactorTable | None:
        """The factors of the run, None before a search is finished (raises FactorsError if the file is damaged)."""
        path = self.factors()
        return on_main(lambda: load_factors(path) if path.exists() else None)

    def write_factors(self, factors: RescaleFactors | FactorTable, method: str = "") -> None:
        """Write the factors of the run, or those of one method in a comparison."""
        self.write_text(self.factors(method), dump_factors(factors))

    def read_text(self, path: Path) -> str | None:
        """The text of a file, None where there is none."""
        return on_main(lambda: read_bytes_of_run(path).decode(errors="replace") if path.exists() else None)

    def remove(self, path: Path) -> None:
        """Remove a file if it is there; it is gone from the disk, too, when this returns."""
        on_main(partial(remove_file, path))

    def write_text(self, path: Path, text: str) -> None:
        """Write a file atomically: after a crash it is either absent, old or whole."""
        write_file(path, lambda unfinished: unfinished.write_bytes(text.encode(errors="backslashreplace")))

    def write_samples(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the samples of one measurement atomically: numpy arrays by name."""

        def write(unfinished: Path) -> None:
            with unfinished.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # it takes all names but its own options

        path = self.samples(name)
        on_main(partial(make_folder, path.parent))
        write_file(path, write)

    def read_samples(self, name: str) -> dict[str, NDArray[Any]] | None:
        """The samples of one measurement, None where there are none (raises RunError if the file is damaged)."""
        return on_main(partial(_read_arrays, self.samples(name)))


def lost_weights(run: RunDir) -> RunError:
    """The error of a training whose weights are gone from the directory of the run itself."""
    return RunError(
        f"{run.tuning} is not there, though {run.path} holds a training.",
        "Its weights are what is exported, and what a training goes on with.",
        "Put the file back, or train again in another directory.",
    )


def is_finished(folder: Path) -> bool:
    """Whether the directory of a stage is that of a finished one; none is created."""
    return on_main((folder / STAGE_FINISHED).exists)


def _resumable(before: Recipe, now: Recipe) -> bool:
    """Whether a run can go on so: by the same recipe, or by a schedule of other stages from the same model and texts.

    A tail of another length is no part of scores that are there already. Other factors from elsewhere change nothing of
    what was done.
    """
    now = replace(now, factors=before.factors)
    if not (before.stages and now.stages):
        return before == now
    free = {key: getattr(now, key) for key in ("target_tokens", "stages", "search", "tune", "measure", "export")}
    return replace(before, **free) == now and before.measure.tail_tokens == now.measure.tail_tokens


def _read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    if not path.exists():
        return None
    needed, remedy = "A file of numpy arrays is needed.", "Remove it; its samples are made again."
    with (
        converting_errors(RunError, f"{path} cannot be read", needed, remedy),
        np.load(path, allow_pickle=False) as file,
    ):
        return dict(file)


def _written(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted key, each as Python writes it."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= _written(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: repr(value)}
    return flat
