"""End a test that waits for ever: one whose processes have computed nothing for five minutes.

A limit on the wall clock would fail tests of a busy or suspended machine. CPU time does not: whatever can run gets its
share of a core, and a suspended machine takes no samples.
"""

import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SAMPLES, SECONDS = 30, 10.0  # as many samples in a row without work, so far apart
LEAST_SHARE = (
    0.02  # of a core; a launch that hangs polls with 0.01, what computes gets 0.06 at a load of 32 on two cores
)
TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def cpu_seconds() -> dict[int, float]:
    """The CPU time of this process and of each of its descendants, those included that have ended, by process id."""
    parents, seconds = dict[int, int](), dict[int, float]()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(path.parent.name)] = int(fields[1])
        seconds[int(path.parent.name)] = sum(map(int, fields[11:15])) / TICK
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return {pid: seconds[pid] for pid in family}


def seconds_of_others() -> float:
    """The CPU time of all of them, without that of the thread that asks."""
    return sum(cpu_seconds().values()) - time.thread_time()


def watch(over: threading.Event, end: Callable[[], None], samples: int, seconds: float) -> None:
    """Call ``end`` after so many samples in a row without work, unless the test is over before."""
    idle, before = 0, math.inf  # no sample yet: most tests are over before the first
    while idle < samples:
        if over.wait(seconds):
            return
        now = seconds_of_others()
        idle = idle + 1 if abs(now - before) <= LEAST_SHARE * seconds else 0  # less where a child of a child has ended
        before = now
    end()


def end_process(config: Any) -> None:
    """Show where each thread waits; end the processes that were started, and this one."""
    config.pluginmanager.getplugin("capturemanager").suspend_global_capture(in_=True)
    sys.__stderr__.write("Nothing was computed for minutes: the test hangs. Its threads wait here:\n")  # type: ignore[union-attr]
    faulthandler.dump_traceback(file=sys.__stderr__)  # type: ignore[arg-type]
    sys.__stderr__.flush()  # type: ignore[union-attr]
    for pid in cpu_seconds().keys() - {os.getpid()}:
        os.kill(pid, signal.SIGKILL)
    os._exit(1)


@contextmanager
def ended_when_idle(end: Callable[[], None], *, samples: int = SAMPLES, seconds: float = SECONDS) -> Iterator[None]:
    """Watch the work within, where Linux's /proc tells CPU times."""
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(over, end, samples, seconds), daemon=True)
    if Path("/proc/self/stat").exists():
        watcher.start()
    try:
        yield
    finally:
        over.set()
        if watcher.ident:
            watcher.join()
