"""Lost processes: telling them from faults of our own, and letting one process alone report why a launch ends."""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import torch.distributed as dist

from longrope.distributed.state import current
from longrope.errors import ProcessLostError

SECONDS_TO_END = 5.0  # for the main thread to report an error, where SIGTERM comes meanwhile

_ending = threading.Lock()  # held by the thread that brings this process to its end


@contextmanager
def detecting_lost_processes() -> Iterator[None]:
    """Raise ProcessLostError where a collective in this block fails because another process has died."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo/" in str(error):  # it names the file of gloo that noticed
            sign = re.sub(r"^\[\S*\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
            raise _lost(f"A process of this launch was lost ({sign}).") from error
        raise


def claim_report() -> bool:
    """Whether this process may report why the launch ends: it is the first to ask. Ask once, when ending."""
    store = current().store
    if store is None:
        return os.environ.get("LOCAL_RANK", "0") == "0"
    _ending.acquire(timeout=SECONDS_TO_END)  # never released: what ends the process goes on to the end
    with suppress(RuntimeError):  # the store went with its process
        return int(store.add("reported", 1)) == 1
    return True


@contextmanager
def ending_at_sigterm() -> Iterator[None]:
    """In this block report SIGTERM, by which torchrun ends the processes that are left, and end.

    A thread does it, since the main one may wait for ever in a collective on GPUs with a process that is gone.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # so that it is written to the pipe
    threading.Thread(target=_end_at_sigterm, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        if not _ending.locked():  # else an error is to be reported first
            signal.signal(signal.SIGTERM, before)
        os.close(writer)


def _lost(found: str) -> ProcessLostError:
    return ProcessLostError(
        found,
        "All of its processes are needed; what the run directory holds is kept.",
        "Look for the cause in torchrun's report; the same command then goes on where it was.",
    )


def _end_at_sigterm(reader: int) -> None:
    with os.fdopen(reader, "rb", buffering=0) as signals:
        while received := signals.read(1):
            if received[0] == signal.SIGTERM:
                _end()


def _end() -> NoReturn:
    try:
        if claim_report():
            error = _lost("This launch received SIGTERM, which torchrun sends when one of its processes is lost.")
            sys.stderr.write(f"longrope: {error.paragraph}\n")
            sys.stderr.flush()
    finally:  # even where nobody reads standard error any more
        os._exit(1)
