"""The command-line interface: it parses, calls and prints, and computes nothing."""

import sys
import traceback

from longrope.cli import results, uploading, verification  # their commands come after those of a run
from longrope.cli.commands import DEFAULT_RECIPE, app
from longrope.errors import LongRopeError, ProcessLostError, wants_traceback

__all__ = ["DEFAULT_RECIPE", "app", "main", "results", "uploading", "verification"]
INTERRUPTED = 130


def main() -> None:
    """Run the command line; bad input ends in one paragraph and exit code 2."""
    try:
        app(prog_name="longrope")  # python -m longrope is the same command
    except LongRopeError as error:
        if wants_traceback():
            traceback.print_exception(error)
        print(f"longrope: {error}", file=sys.stderr)
        sys.exit(1 if isinstance(error, ProcessLostError) else 2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("longrope: interrupted; the same command goes on from here.", file=sys.stderr)
        raise
