"""The long mode of the tests of reliability: many interruptions and a long fuzz of every reader, by many processes.

Run: python tests/reliability.py --out results/reliability/record.jsonl. Each line of the record is JSON: first what it
was made with, then a line for each case and each fuzzed reader. It ends with 1 where anything is wrong; the line
of that says by which command it is repeated.
"""

import argparse
import json
import os
import platform
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from fork_server import ForkServer
from fuzzing import Report, fuzz
from interruptions import COMMANDS, SEED, WAYS, Case, Trials, Whole, make_inputs, plan, why_no_mount

COUNTS = {"kill": 200, "full disk": 40, "power cut": 20}
LIBRARIES = ("longrope", "torch", "transformers", "numpy", "safetensors")
IN_NAMESPACE = "LONGROPE_IN_NAMESPACE"
SCRIPT = "python tests/reliability.py"
LONGEST_BEGINNING_SECONDS = 900  # of a process that fuzzes, on a busy machine, and of its last input
BUSIEST = 5  # at most so many seconds of the clock for one of the CPU


class Record:
    """The lines of a record, written as they come."""

    def __init__(self, path: Path, *, go_on: bool = False) -> None:
        """Begin it anew, or go on with one that is there, which may end within a line."""
        self.path, self.lock, self.wrong = path, threading.Lock(), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.read_text().splitlines(keepends=True) if go_on and path.exists() else []
        whole = [line for line in there if line.endswith("\n")]
        path.write_text("".join(whole))
        self.tried = {(line["kind"], line.get("number")) for line in map(json.loads, whole)}

    def add(self, line: dict[str, Any], *, wrong: bool = False) -> None:
        """Add a line; one that tells of something wrong is printed, too."""
        with self.lock, self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.wrong += wrong
        if wrong or line["kind"] == "fuzz":
            say(json.dumps(line)[:3000])


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    """Do what the command line asks for; 1 where anything is wrong."""
    asked = parse_arguments()
    if asked.target:
        say(json.dumps(asdict(fuzz_here(asked))))
        return 0
    began, record = time.monotonic(), Record(asked.out, go_on=asked.go_on)
    with tempfile.TemporaryDirectory(prefix="reliability-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        (folder / "tmp").mkdir()
        os.environ["TMPDIR"] = str(folder / "tmp")  # what killed processes leave
        reason = why_no_mount(folder)
        if reason:
            enter_namespace(folder)
        record.add({**session(), "processes": asked.processes, "mount": reason or "tmpfs"})
        with ThreadPoolExecutor(asked.processes) as pool:
            fuzzed = [pool.submit(fuzz_one, record, name, asked.fuzz_seconds, asked.first) for name in asked.targets]
            cases = list(chosen_cases(asked, mounts=not reason, record=record))
            if cases:
                try_cases(record, cases, folder, asked, began + asked.seconds)
            for each in fuzzed:
                each.result()
        if asked.keep:
            shutil.copytree(folder, asked.keep, ignore_dangling_symlinks=True)
    load = [round(each, 1) for each in os.getloadavg()]  # of the last 1, 5 and 15 minutes
    record.add({"kind": "end", "seconds": round(time.monotonic() - began, 1), "wrong": record.wrong, "load": load})
    say(f"{record.wrong} wrong; {time.monotonic() - began:.0f} s")
    return int(record.wrong > 0)


def parse_arguments() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("reliability.jsonl"), help="the record")
    for kind, count in COUNTS.items():
        parser.add_argument(f"--{kind.replace(' ', '-')}s", type=int, default=count, help="how many")
    parser.add_argument("--fuzz-seconds", type=float, default=600, help="of the CPU, for each reader")
    parser.add_argument("--targets", type=names, default=None, help="readers to fuzz, by commas; all by default")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that work at the same time")
    parser.add_argument("--go-on", action="store_true", help="with a record that is there: its cases are not repeated")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which no further case begins")
    parser.add_argument("--only", default="", help="one case: 'kill 17'")
    parser.add_argument("--commands", type=names, default=list(COMMANDS), help="to interrupt, by commas")
    parser.add_argument("--unopened", action="store_true", help="open no checkpoint in a process of its own, in haste")
    parser.add_argument("--keep", type=Path, help="a folder for what is left of the cases where something is wrong")
    parser.add_argument("--target", default="", help="fuzz this reader alone, in this process")
    parser.add_argument("--first", type=int, default=0, help="the number of the first input of a fuzz")
    parser.add_argument("--inputs", type=int, default=0, help="how many inputs, in the place of seconds")
    asked = parser.parse_args()
    if asked.targets is None:
        from fuzz_targets import TARGETS

        asked.targets = list(TARGETS) if asked.fuzz_seconds else []
    return asked


def names(text: str) -> list[str]:
    """Names by commas."""
    return [name for name in text.split(",") if name]


def enter_namespace(folder: Path) -> None:
    """Become the same command in a name space in which file systems can be mounted, where that is allowed."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = [*unshare, "mount", "-t", "tmpfs", "tmpfs", str(folder / "mount")]
    if IN_NAMESPACE in os.environ or not shutil.which("unshare"):
        return
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return
    os.environ[IN_NAMESPACE] = "1"
    os.execvp(unshare[0], [*unshare, sys.executable, *sys.argv])  # noqa: S606


def session() -> dict[str, Any]:
    """With what and when a record was made."""
    versions = {name: str(import_module(name).__version__) for name in LIBRARIES}
    return {
        "kind": "session",
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": SEED,
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def chosen_cases(asked: argparse.Namespace, *, mounts: bool, record: Record) -> Iterator[Case]:
    """The cases that are asked for; those that this machine does not allow are recorded as skipped."""
    for kind in WAYS:
        for case in plan(kind, getattr(asked, f"{kind.replace(' ', '_')}s"), asked.commands):
            if (asked.only and asked.only != f"{case.kind} {case.number}") or (kind, case.number) in record.tried:
                continue
            if case.way == "file system" and not mounts:
                record.add({**case._asdict(), "skipped": "no file system can be mounted"})
            else:
                yield case


def try_cases(record: Record, cases: Sequence[Case], folder: Path, asked: argparse.Namespace, ends: float) -> None:
    """Make what undisturbed commands make, then begin all cases before an end (a time), by a few fork servers."""
    processes = max(1, asked.processes - len(asked.targets))
    inputs, wholes = make_inputs(folder), dict[str, Whole]()
    needed = {case.command for case in cases}
    with workers(folder, inputs, wholes, min(processes, len(cases)), unopened=asked.unopened) as (pool, work):

        def make(command: str) -> None:
            work(lambda trials: trials.make_whole(command))

        alone = [pool.submit(make, command) for command in needed - {"export", "extend"}]
        if needed & {"export", "extend"}:
            make("extend")
        if "export" in needed:
            make("export")
        wait(alone)
        say(f"undisturbed: {', '.join(f'{name} {whole.seconds:.1f} s' for name, whole in wholes.items())}")
        wait([pool.submit(work, one_case(record, case, ends)) for case in cases])


def one_case(record: Record, case: Case, ends: float) -> Callable[[Trials], None]:
    """What tries a case before an end and records it."""

    def attempt(trials: Trials) -> None:
        if time.monotonic() > ends:
            return
        result = trials.attempt(case)
        line = {**case._asdict(), "hit": result.hit, "wrong": result.wrong, "seconds": round(result.seconds, 2)}
        if result.wrong:
            line["repeat"] = f"{SCRIPT} --fuzz-seconds 0 --only '{case.kind} {case.number}'"
        record.add(line, wrong=bool(result.wrong))

    return attempt


@contextmanager
def workers(
    folder: Path, inputs: dict[str, Path], wholes: dict[str, Whole], count: int, *, unopened: bool
) -> Iterator[tuple[ThreadPoolExecutor, Callable[[Callable[[Trials], None]], None]]]:
    """Threads with a fork server each, and what lets one of them do something."""
    free: queue.SimpleQueue[Trials] = queue.SimpleQueue()
    servers = [ForkServer() for _ in range(count)]
    for server in servers:
        free.put(Trials(server, folder, inputs, unopened, wholes))

    def work(what: Callable[[Trials], None]) -> None:
        trials = free.get()
        try:
            what(trials)
        finally:
            free.put(trials)

    with ThreadPoolExecutor(count) as pool:
        yield pool, work
    for server in servers:
        server.close()


def wait(futures: Sequence[Future[None]]) -> None:
    """Wait for all, and raise what one of them raised."""
    for future in futures:
        future.result()


def fuzz_here(asked: argparse.Namespace) -> Report:
    """Fuzz a reader in this process."""
    from fuzz_targets import TARGETS

    with tempfile.TemporaryDirectory() as folder:
        target = TARGETS[asked.target](Path(folder))
        return fuzz(asked.target, target, inputs=asked.inputs, seconds=asked.fuzz_seconds, first=asked.first)


def fuzz_one(record: Record, name: str, seconds: float, first: int) -> None:
    """Fuzz a reader in a process of its own, which a crash of the interpreter ends, and record what came of it."""
    command = [sys.executable, __file__, "--target", name, "--fuzz-seconds", str(seconds), "--first", str(first)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # as many processes as cores or more run at a time
            capture_output=True,
            text=True,
            timeout=BUSIEST * seconds + LONGEST_BEGINNING_SECONDS,
            check=False,
        )
        line, error = (json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}), done.stderr[-2000:]
    except subprocess.TimeoutExpired:
        line, error = {}, "it does not end"
    wrong = line.get("problems") if line else {"the process ended": error}
    again = f"{SCRIPT} --target '{name}' --first NUMBER --inputs 1"
    record.add(
        {"kind": "fuzz", "target": name, **line, "problems": wrong, **({"repeat": again} if wrong else {})},
        wrong=bool(wrong),
    )


if __name__ == "__main__":
    sys.exit(main())
