"""Launches of tests/worker_parallel.py."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from longrope.runs.records import Score
from longrope.runs.run_dir import RunDir

WORKER = Path(__file__).parent / "worker_parallel.py"


KEPT_TRIALS = 9  # of the search that is resumed


@dataclass(frozen=True)
class Alone:
    """What one process made of the recipe."""

    run: RunDir
    scores: list[Score]


@dataclass(frozen=True)
class Launch:
    """A launch that has ended: its folder, and what the cases returned, by rank."""

    folder: Path
    results: list[dict[str, Any]]

    def all(self, case: str) -> list[Any]:
        """The results of a case in all processes."""
        return [result[case] for result in self.results]

    def same(self, case: str) -> Any:
        """The result of a case, which must be that of all processes."""
        first, *others = self.all(case)
        assert all(other == first for other in others), (first, others)
        return first


@contextlib.contextmanager
def launched(ranks: int, *arguments: object, restarts: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A launch of this many processes of tests/worker_parallel.py; what of it is still there at the end is ended.

    torchrun starts all of them again, so many times, when one is lost.
    """
    options = ["--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    command = [sys.executable, "-m", "torch.distributed.run", *options]
    launcher = subprocess.Popen(
        [*command, *map(str, (WORKER, *arguments))],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield launcher
    finally:
        launcher.terminate()  # and it its processes, which a kill would leave
        launcher.wait()


def timeless(record: Any) -> Any:
    return replace(record, seconds=0.0)
