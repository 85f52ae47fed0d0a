"""Structure-aware fuzzing: whatever a reader is given, it reads it or raises an error of ours.

A ``Target`` is a file and what reads it. Each input has a random generator of its own, so its number makes it again.
"""

import copy
import json
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from longrope.errors import LongRopeError

SEED = 20_241
MOST_PROBLEMS = 20
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53, 2**53 + 1, 10**30, 10**400, -(10**400)),
    *(0.0, -0.0, 1e-300, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *("", "x", "\0", "\x1b[31m", "[/red]", "<script>", "../..", "9" * 5000, "\ud800", "\u202e"),
    *([], [[]], {}, [1, "x"], {"a": {}}, [0.5] * 5, "nan"),
)


def dump(content: Any) -> bytes:
    """Content as a line of JSON."""
    return json.dumps(content).encode("utf-8", "surrogatepass") + b"\n"


class Target(NamedTuple):
    """A file and what reads it.

    Attributes:
        path: of the file.
        whole: its unharmed content: bytes, or what JSON can hold.
        read: reads it.
        pack: makes the bytes of the file from what JSON can hold.
        bytes_share: of the inputs, whose bytes are changed and not their values.
    """

    path: Path
    whole: Any
    read: Callable[[Path], object]
    pack: Callable[[Any], bytes] = dump
    bytes_share: float = 0.2

    def make(self, name: str, number: int) -> bytes:
        """The input of this number."""
        rng = random.Random(f"{SEED} {name} {number}")  # noqa: S311  # nothing is kept secret by it
        if isinstance(self.whole, bytes):
            return flipped(self.whole, rng)
        if rng.random() < self.bytes_share:
            return flipped(self.pack(self.whole), rng)
        return self.pack(changed(self.whole, rng))


@dataclass
class Report:
    """What came of fuzzing a target.

    Attributes:
        target: its name.
        inputs: how many it was given.
        refused: how many of them it refused.
        seconds: by the clock.
        cpu_seconds: of this process.
        problems: by kind the first input.
    """

    target: str
    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    problems: dict[str, str] = field(default_factory=dict)


class Limits(NamedTuple):
    """How long the reading of an input may take.

    Attributes:
        cpu_seconds: of this process, which other processes do not make longer.
        wall_seconds: by the clock, for what waits.
    """

    cpu_seconds: float = 20
    wall_seconds: float = 200


class HangError(BaseException):
    """An input took too long; no reader may catch it."""


def changed(content: Any, rng: random.Random) -> Any:
    """JSON content with one to three values changed, removed, doubled or nested, anywhere in it."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(content))
        if not places:
            return rng.choice(VALUES)
        parent, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.6:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind < 0.75:
            del parent[key]
        elif kind < 0.9 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            parent[key] = {"a": [parent[key]]} if rng.random() < 0.5 else [parent[key]]
    return content


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Bytes with some of them changed, removed or repeated."""
    edited = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(edited) or 1)
        kind = rng.random()
        if kind < 0.6 and edited:
            edited[place] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind < 0.8:
            del edited[place : place + rng.choice((1, 8, 100))]
        else:
            edited[place:place] = edited[place : place + rng.choice((1, 8, 100))]
    return bytes(edited)


def fuzz(
    name: str, target: Target, *, inputs: int = 0, seconds: float = 0, first: int = 0, limits: Limits | None = None
) -> Report:
    """Give a target its unharmed file, which it must read, then so many inputs, or for so many seconds.

    Args:
        name: of the target.
        target: it.
        inputs: how many.
        seconds: for how long, if the number is 0, of the CPU: the others of a busy machine get the rest.
        first: the number of the first input.
        limits: of the reading of each.
    """
    target.path.write_bytes(target.whole if isinstance(target.whole, bytes) else target.pack(target.whole))
    target.read(target.path)
    report, number, began, cpu_began = Report(name), first, time.monotonic(), time.process_time()
    while number - first < inputs if inputs else time.process_time() - cpu_began < seconds:
        content = target.make(name, number)
        target.path.write_bytes(content)
        try:
            with _limited(limits or Limits()):
                target.read(target.path)
        except LongRopeError:
            report.refused += 1
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  # a panic of Rust is no Exception
            if len(report.problems) < MOST_PROBLEMS:
                report.problems.setdefault(_where(error), f"input {number}: {content[:1000]!r}")
        number += 1
    report.inputs, report.seconds = number - first, time.monotonic() - began
    report.cpu_seconds = time.process_time() - cpu_began
    return report


@contextmanager
def _limited(limits: Limits) -> Iterator[None]:
    def end(number: int, _: object) -> None:
        most = limits.cpu_seconds if number == signal.SIGPROF else limits.wall_seconds
        raise HangError(f"more than {most} seconds of {'the CPU' if number == signal.SIGPROF else 'waiting'}")

    before = {number: signal.signal(number, end) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, limits.cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _where(error: BaseException) -> str:
    """The kind of a problem: the error, and the last line of ours that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/longrope/" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "no line of ours"
    return f"{type(error).__name__} at {place}: {str(error)[:100]}"
