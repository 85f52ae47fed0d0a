"""The command-line interface: it parses, calls and prints, and computes nothing."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from longrope.cli import results, verification  # their commands come after those of a run
from longrope.cli.commands import DEFAULT_RECIPE, app
from longrope.errors import LongRopeError, ProcessLostError, RecipeError, from_system

__all__ = ["DEFAULT_RECIPE", "app", "main", "results", "verification"]
INTERRUPTED, TERMINATED = 130, 143  # 128 and the number of the signal
MAY_BE_EMPTY = ("--prompt",)


def main() -> None:
    """Run the command line; bad input ends in one paragraph and exit code 2."""
    with _stopping_at_sigterm() as stopped:
        try:
            _refuse_empty(sys.argv[1:])
            app(prog_name="longrope")  # python -m longrope is the same command
        except SystemExit as stop:
            if stop.code == INTERRUPTED:
                word = "stopped by SIGTERM" if stopped else "interrupted"
                print(f"longrope: {word}; the same command goes on from here.", file=sys.stderr)
                sys.exit(TERMINATED if stopped else INTERRUPTED)
            raise
        except Exception as error:
            ours = error if isinstance(error, LongRopeError) else from_system(error)
            if ours is None:
                raise
            _end(ours, error)


def _end(ours: LongRopeError, error: Exception) -> NoReturn:
    """Print one paragraph, and the traceback where it is asked for, and end."""
    if os.environ.get("LONGROPE_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    print(f"longrope: {ours.paragraph}", file=sys.stderr)
    sys.exit(1 if isinstance(ours, ProcessLostError) else 2)


@contextmanager
def _stopping_at_sigterm() -> Iterator[list[int]]:
    """In this block SIGTERM does what Ctrl-C does, and the list that is given then has it; in the main thread alone."""
    stopped: list[int] = []

    def stop(number: int, _: object) -> NoReturn:
        stopped.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Raise RecipeError for an empty argument, which would be taken for the current folder."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        option, equals, value = argument.partition("=")
        empty = not argument or (option.startswith("--") and equals and not value)
        if empty and (option or before) not in MAY_BE_EMPTY:
            raise RecipeError(
                f"An empty argument is given{f' to {option or before}' if option or before else ''}.",
                "A value is needed: an empty one would mean the current folder.",
                "Give one, or leave the option out.",
            )
