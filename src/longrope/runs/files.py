"""Files written whole or not at all, by the main process for all."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

R = TypeVar("R")
DISTRIBUTED = "longrope.distributed"


def on_main(work: Callable[[], R]) -> R:
    """As ``distributed.on_main``, without importing torch: a process that has not imported ``distributed`` is alone."""
    if DISTRIBUTED not in sys.modules:
        return work()
    from longrope import distributed

    return distributed.on_main(work)


def is_main() -> bool:
    """As ``distributed.is_main``, without importing torch."""
    if DISTRIBUTED not in sys.modules:
        return True
    from longrope import distributed

    return distributed.is_main()


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: after a crash it is absent, old or whole.

    Args:
        path: of the file; its folder exists.
        write: called in the main process with the path of a file beside it, which then replaces it.
    """

    def work() -> None:
        unfinished = path.with_name(path.name + ".partial")
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)

    on_main(work)
