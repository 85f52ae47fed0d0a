"""What tests/test_stages_killed.py runs in a process of its own: runs that die in the middle of a write.

Each line of standard input is a JSON list of the path of a recipe, that of a run directory, and moments. A moment is
[part, number, torn bytes] or null: for each of them a child of this process runs there and kills itself (SIGKILL) when
it is about to force the write of that number in that part of the run to the disk, the last bytes of a line being torn
off; null lets it go to the end. Part 0 comes before the stages, part n is stage n, what comes after the last one is
``MEASURED``.

Each line of standard output is a JSON list of what came of each child: the signal that ended it, and how many writes
each part has forced.
"""

import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from outcomes import leave_unopened

from longrope import pipeline
from longrope.pipeline import Callbacks
from longrope.recipe import load_recipe
from longrope.runs import train_log
from longrope.runs.run_dir import RunDir

MEASURED = 99


def run(recipe: Path, out: Path, moment: list[int] | None) -> Counter[int]:
    """Run until the moment, or to the end; return the writes that each part has forced."""
    counts, part, force = Counter[int](), 0, os.fsync

    def on_step(text: str) -> None:
        nonlocal part
        if found := re.match(r"stage (\d+) of", text):
            part = int(found[1])
        elif text.startswith("measure LongRoPE"):
            part = MEASURED

    def force_or_die(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        counts[part] += 1
        if moment and [part, counts[part]] == moment[:2]:
            if Path(f"/proc/self/fd/{number}").readlink().suffix == ".jsonl":
                os.ftruncate(number, os.fstat(number).st_size - moment[2])
            os.kill(os.getpid(), signal.SIGKILL)
        force(descriptor)

    os.fsync = force_or_die  # type: ignore[assignment]  # this process is for nothing else
    leave_unopened(pytest.MonkeyPatch())
    train_log.FLUSH_SECONDS = -1.0  # every step at once, so that the number of writes does not hang on the clock
    pipeline.extend(load_recipe(recipe), RunDir(out), Callbacks(on_step=on_step))
    return counts


def end_of_child(recipe: Path, out: Path, moment: list[int] | None) -> dict[str, Any]:
    """Fork a child, which shares our imports, and wait for its end."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        counts = run(recipe, out, moment)
        os.write(writable, json.dumps(counts).encode())
        os._exit(0)
    os.close(writable)
    _, status = os.waitpid(child, 0)
    counted = os.read(readable, 10**6)
    os.close(readable)
    ended = {"signal": os.WTERMSIG(status), "exit": os.waitstatus_to_exitcode(status)}
    return {**ended, "writes": json.loads(counted or "{}")}


def main() -> None:
    """Answer line by line."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        recipe, out, moments = json.loads(line)
        ends = [end_of_child(Path(recipe), Path(out), moment) for moment in moments]
        sys.stdout.write(json.dumps(ends) + "\n")
        sys.stdout.flush()  # or the next child would have the line in its buffer, too, and tell it again


if __name__ == "__main__":
    main()
