"""The log of a training: one line for every step."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from longrope.runs.files import is_main, on_main, read_bytes_of_run, truncate_file
from longrope.runs.records import TrainStep, read_records, write_lines

FLUSH_SECONDS = 1.0


@dataclass
class TrainLog:
    """The records of the steps, which the main process writes.

    They are buffered for up to one second: steps after the last checkpoint are repeated after a crash anyway. Processes
    do not wait for each other here, for each of them has its own clock.

    Attributes:
        path: of the .jsonl file; None keeps nothing.
        waiting: steps that are not on the disk yet.
        clock: gives seconds.
    """

    path: Path | None
    waiting: list[TrainStep] = field(default_factory=list)
    clock: Callable[[], float] = time.monotonic
    _flushed_bytes: int = 0
    _flushed_at: float = 0.0

    def begin(self, step: int) -> None:
        """Cut off the records of this step and later ones, which will be repeated (raises RunError if damaged)."""
        self._flushed_at = self.clock()
        path = self.path
        if path:
            self._flushed_bytes = on_main(lambda: _cut(path, step))

    def add(self, record: TrainStep) -> None:
        """Take the record of a step."""
        self.waiting.append(record)
        if self.clock() - self._flushed_at > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Force all records to disk; lines of a flush that was interrupted are written over."""
        if self.path and self.waiting and is_main():
            if self.path.exists():
                truncate_file(self.path, self._flushed_bytes)
            write_lines(self.path, self.waiting)
            self._flushed_bytes = self.path.stat().st_size
        self.waiting = []
        self._flushed_at = self.clock()


def _cut(path: Path, step: int) -> int:
    """Cut off the records from this step on; the bytes that are left."""
    if not path.exists():
        return 0
    kept = sum(record.step < step for record in read_records(path, TrainStep))
    size = sum(map(len, read_bytes_of_run(path).splitlines(keepends=True)[:kept]))
    truncate_file(path, size)
    return size
