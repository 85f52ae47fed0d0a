"""How far long work is: in words, and as lines that are far enough apart."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from longrope.data.texts_report import format_bytes

QUIET_SECONDS = 30.0
SHOWN_CHARACTERS = 80  # of a line that is repeated
LONG_UNITS = ((86_400, "days"), (3600, "hours"))  # seconds


def describe_seconds(seconds: float) -> str:
    """A duration in seconds below a minute, in minutes, from two hours on in hours, and from two days on in days."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    size, unit = next(((size, unit) for size, unit in LONG_UNITS if seconds >= 2 * size), (60, "min"))
    return f"{seconds / size:,.1f} {unit}"


class WorkDone(NamedTuple):
    """How far a long step has come: what it does, how much of it is done, of how much (0 if unknown), in which unit."""

    what: str
    done: int
    total: int
    unit: str

    def __str__(self) -> str:
        """As a few words: ``read texts: 1.2 GB``, ``measure YaRN: 3 of 12 passes``."""
        if self.unit == "bytes":
            return f"{self.what}: {format_bytes(self.done)}"
        return f"{self.what}: {self.done:,}{f' of {self.total:,}' if self.total else ''} {self.unit}"


class Sparsely:
    """Pass on a text at most every 30 seconds, for what happens too often for a line each."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Pass texts to ``say``; ``clock`` gives seconds."""
        self._say, self._clock, self._last = say, clock, clock()

    def __call__(self, text: object) -> None:
        """Pass on ``text`` if the last one, or the beginning, is long ago."""
        if (now := self._clock()) - self._last >= QUIET_SECONDS:
            self._last = now
            self._say(f"{text}")


class Reminder:
    """Say that work goes on, where nothing has been said for 30 seconds."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Pass lines to ``say``; ``clock`` gives seconds."""
        self._say, self._clock, self._last_line, self._reminded = say, clock, "", clock()
        self._last = self._reminded

    def heard(self, line: str) -> None:
        """Note that another line was said."""
        self._last_line, self._last = line.partition("\n")[0], self._clock()

    def look(self) -> None:
        """Say what was said last, and how long ago, if that or the last reminder is long ago."""
        now = self._clock()
        if self._last_line and now - max(self._last, self._reminded) >= QUIET_SECONDS:
            self._reminded, line = now, self._last_line
            shown = line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]} ..."
            self._say(f"still working, {describe_seconds(now - self._last)} after: {shown}")


@contextmanager
def reminding(reminder: Reminder, wait_seconds: float = 1.0) -> Iterator[threading.Event]:
    """Let a thread look every second whether to remind, in this block or until the event that is given is set."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(wait_seconds):
            reminder.look()

    thread = threading.Thread(target=watch, name="longrope-reminder", daemon=True)
    thread.start()
    try:
        yield ended
    finally:
        ended.set()
        thread.join()
