"""Runs the command line in forked children of one process that has imported all libraries.

Each line of standard input is a job in JSON: ``arguments``, ``folder`` (the working directory), ``seconds``,
``file_bytes`` (the largest file that the child may write; 0 for any), ``stop`` (a signal and the seconds before it, or
null), ``disaster`` (what comes at one of its writes, see disasters.py, or null) and ``unopened`` (whether checkpoints
are not opened in processes of their own, which takes seconds). Each line of standard output is what came of it:
``code`` (of the child; the negative number of a signal; null if it hung), ``out`` and ``err``.
"""

import fcntl
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from disasters import Disaster, meet

TICK_SECONDS = 0.005
PIPE_BYTES = 2**20  # of what a child may print


class Outcome(NamedTuple):
    """What came of a command: its exit code (None: it hung), and what it printed."""

    code: int | None
    out: str
    err: str


class ForkServer:
    """The warmed process, as its user sees it."""

    def __init__(self, **environment: str) -> None:
        """Start it; it imports while the caller goes on."""
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
        )

    def run(
        self,
        arguments: Sequence[object],
        folder: Path,
        *,
        seconds: float = 20,
        file_bytes: int = 0,
        stop: tuple[int, float] | None = None,
        disaster: Disaster | None = None,
        unopened: bool = False,
    ) -> Outcome:
        """Run ``longrope`` with these arguments in a folder; ``stop`` is a signal, and the seconds before it."""
        assert self._process.stdin
        assert self._process.stdout
        job: dict[str, Any] = {"arguments": [str(x) for x in arguments], "folder": str(folder), "seconds": seconds}
        job |= {"file_bytes": file_bytes, "stop": stop, "disaster": disaster and disaster._asdict()}
        job["unopened"] = unopened
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _warm() -> None:
    """Import what the commands import, and load a model, whose kind transformers gets to know then."""
    import outcomes  # noqa: F401
    import pico
    import torch
    import transformers

    for name in ("cli", "exports", "generation", "models", "pipeline", "report", "search", "tuning"):
        importlib.import_module(f"longrope.{name}")
    for name in ("AutoModelForCausalLM", "AutoTokenizer", "LlamaForCausalLM", "PreTrainedTokenizerFast"):
        getattr(transformers, name)
    for name in ("longrope.cli.bars", "pydantic.type_adapter", "rich.progress", "rich.table"):
        importlib.import_module(name)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        importlib.import_module("longrope.models").load_model(pico.save_pico(Path(folder, "model")), device="cpu")
    gc.collect()
    gc.freeze()  # children neither search nor copy what is here


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    _warm()
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), file=answers, flush=True)


def _run(job: Mapping[str, Any]) -> dict[str, Any]:
    (out_read, out), (err_read, err) = (os.pipe() for _ in range(2))
    for place in (out, err):
        with suppress(OSError):  # many users of pipes
            fcntl.fcntl(place, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    child = os.fork()
    if child == 0:
        _be_command(job, out, err)
    os.close(out)
    os.close(err)
    if job["stop"]:
        number, after = job["stop"]
        done = _wait_a_while(child, after)
        if done is None:
            os.kill(child, number)
    code = done if job["stop"] and done is not None else _wait(child, job["seconds"])
    said = {}
    for name, place in {"out": out_read, "err": err_read}.items():
        os.set_blocking(place, False)  # a child of the child may live on with the other end
        with os.fdopen(place, "rb") as file:
            said[name] = (file.read() or b"").decode(errors="replace")
    return {"code": code, **said}


def _wait(child: int, seconds: float) -> int | None:
    """The exit code of a child, None for one that had to be killed after so many seconds."""
    code = _wait_a_while(child, seconds)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return code


def _wait_a_while(child: int, seconds: float) -> int | None:
    """The exit code of a child, None for one that still runs after so many seconds."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(TICK_SECONDS)
    return None


def _be_command(job: Mapping[str, Any], out: int, err: int) -> None:
    """Be the command in a child, and end it."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(i, "r" if i == 0 else "w", closefd=False) for i in range(3))
        os.chdir(job["folder"])
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets processes in the background ignore it
        if job["file_bytes"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"],) * 2)
        sys.argv = ["longrope", *job["arguments"]]
        import pytest
        from outcomes import leave_unopened

        from longrope.__main__ import main

        if job["unopened"]:
            leave_unopened(pytest.MonkeyPatch())
        with meet(job["disaster"] and Disaster(**job["disaster"]), Path(job["folder"])):
            main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001  # what Python does with it at the end of a process
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


if __name__ == "__main__":
    _serve()
