"""Commands in processes of their own that share one import of torch: children of one process, which this file is.

Run: python forked.py. Each line of its standard input is a command, a JSON list of the arguments of ``longrope``; each
line of its output the exit code, the standard output and the standard error of one.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any


class Longrope:
    """The command line in processes with an environment of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Send commands to a process of ``forked``."""
        self._process = process

    def __call__(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        assert self._process.stdin
        assert self._process.stdout
        command = list(map(str, arguments))
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return subprocess.CompletedProcess(command, *json.loads(self._process.stdout.readline()))


@contextmanager
def forked(environment: dict[str, str]) -> Iterator[Longrope]:
    """Run commands inside a ``with`` block."""
    command = [sys.executable, __file__]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        yield Longrope(process)
        assert process.stdin
        process.stdin.close()
        process.wait(timeout=60)


def run(arguments: list[str], out: IO[str], err: IO[str]) -> int:
    """Run a command in a child whose output goes into files; return its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    from longrope import cli

    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.argv, code = ["longrope", *arguments], 0
    try:
        cli.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:  # noqa: BLE001  # a child must not go on with its parent's work
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Run commands one by one, all of which share the imports."""
    import transformers.models.auto.modeling_auto  # noqa: F401

    import longrope.cli
    import longrope.models  # noqa: F401

    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            code = run(json.loads(line), out, err)
            said = []
            for file in (out, err):
                file.seek(0)
                said.append(file.read())
        print(json.dumps([code, *said]), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
