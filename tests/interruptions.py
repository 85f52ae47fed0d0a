"""Commands that are killed, meet a full disk or a power cut, and go on: what they make is that of undisturbed ones.

What happens to a command is a ``Case``; its number and the seed decide it. ``Trials`` tries one in the fork server.
"""

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pico
from disasters import DROPPED, REORDERED, Disaster, after_cut, counted
from fork_server import ForkServer, Outcome

from longrope.evaluation.samples import SECONDS
from longrope.models import read_spec
from longrope.recipe import (
    EvolutionRecipe,
    GradientRecipe,
    MeasureRecipe,
    Recipe,
    SearchRecipe,
    Stage,
    TuneRecipe,
    dump_recipe,
)
from longrope.rope import RescaleFactors, dump_factors

SEED = 20_261
LONGEST_SECONDS = 300
SIGNALS = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}  # and the exit code of each
WAYS = {  # kinds of what happens, and how each of them does
    "kill": tuple(SIGNALS),
    "full disk": ("RLIMIT_FSIZE", "file system"),
    "power cut": (DROPPED, REORDERED),
}
CLOCKS = ("seconds", "seconds_to_common", "tokens_per_second")
UNTIMELY = (".lock", "provenance.json", "report.html")  # they tell when a run went on, and with what
GOES_ON = "the same command goes on from here"
COMMANDS = {  # of the long mode; export starts from a finished run
    "search": "search --recipe {recipe} --out run",
    "tune": "tune {model} --factors {factors} --recipe {recipe} --out run",
    "compare": "compare --recipe {recipe} --out run",
    "extend": "extend --recipe {recipe} --out run",
    "extend in stages": "extend --recipe {stages} --out run",
    "export": "export run --factor-sets two --drop-start-tokens",
}


class Case(NamedTuple):
    """What happens to a command.

    Attributes:
        kind: kill, full disk or power cut.
        number: of the case among those of its kind.
        command: a key of ``COMMANDS``.
        way: how it happens, of ``WAYS``.
        moment: the share of the command's writes, bytes or seconds after which it does.
        timed: whether that is of its seconds, and not of its writes.
    """

    kind: str
    number: int
    command: str
    way: str
    moment: float
    timed: bool


@dataclass(frozen=True)
class Whole:
    """What an undisturbed command makes, and what that takes.

    Attributes:
        artifacts: see ``artifacts``.
        seconds: wall clock.
        moments: as disasters.py counts them.
        bytes_made: of all files in its directory.
        bytes_largest: of the largest one.
    """

    artifacts: Mapping[str, object]
    seconds: float
    moments: int
    bytes_made: int
    bytes_largest: int


@dataclass
class Result:
    """What came of a case: whether the command was ended by it, and what is wrong, if anything is."""

    case: Case
    hit: bool = False
    wrong: str = ""
    seconds: float = 0.0


def plan(kind: str, count: int, commands: Sequence[str] = tuple(COMMANDS)) -> list[Case]:
    """Cases of one kind: each command and each way in turn, the moments at random by the seed."""
    ways, cases = WAYS[kind], []
    for number in range(count):
        rng = random.Random(f"{SEED} {kind} {number}")  # noqa: S311  # nothing is kept secret by it
        command, way = commands[number % len(commands)], ways[number // len(commands) % len(ways)]
        timed = kind == "kill" and rng.random() < 0.5
        cases.append(Case(kind, number, command, way, rng.random(), timed))
    return cases


def make_inputs(folder: Path) -> dict[str, Path]:
    """Write a pico model, texts, factors and recipes into a folder; where they are, by name in ``COMMANDS``."""
    model, texts = pico.save_pico(folder / "model"), pico.save_texts(folder / "texts")
    gradient = GradientRecipe(steps=3, scan_windows=1, validate_every=2)
    evolution = EvolutionRecipe(population=4, parents=2, mutations=1, crossovers=1, generations=2, windows=1)
    search = SearchRecipe(validation_windows=1, gradient=gradient, evolution=evolution)
    tune = TuneRecipe(steps=7, batch_windows=2, learning_rate=3e-3, warmup_steps=1, checkpoint_every=2)
    measured = MeasureRecipe(lengths=(64, 256), metrics=("perplexity",), windows=2, tail_tokens=16)
    data, held_out = ((str(each),) for each in texts)
    recipe = Recipe(str(model), 256, data, held_out, device="cpu", search=search, tune=tune, measure=measured)
    recipe = replace(recipe, export=replace(recipe.export, drop_start_tokens=True))
    stages = (Stage(search=128), Stage(tune=128), Stage(search=256), Stage(short=64))
    factors = RescaleFactors((1.0, 2.0, 3.0, 4.0), 256, read_spec(pico.make_network().config).fingerprint)
    places = {name: folder / f"{name}.toml" for name in ("recipe", "stages")}
    places["recipe"].write_text(dump_recipe(recipe))
    places["stages"].write_text(dump_recipe(replace(recipe, stages=stages)))
    places["factors"] = folder / "factors.json"
    places["factors"].write_text(dump_factors(factors))
    return {**places, "model": model}


def artifacts(run: Path) -> dict[str, object]:
    """What a run has made, without the clock: records and samples as values, all else as bytes."""
    found: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_dir():
            found[name] = "a folder"
        elif path.suffix == ".jsonl":
            found[name] = [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name in ("stage.json", "costs.json"):
            found[name] = _timeless(json.loads(path.read_text()))
        elif path.suffix == ".safetensors":
            found[name] = _tensors(path.read_bytes())
        elif path.suffix == ".npz":
            with np.load(path) as samples:
                found[name] = {array: samples[array].tobytes() for array in samples.files if array != SECONDS}
        elif path.name not in UNTIMELY:
            found[name] = path.read_bytes()
    return found


def _timeless(content: Any) -> Any:
    if isinstance(content, list):
        return [_timeless(item) for item in content]
    return {key: value for key, value in content.items() if key not in CLOCKS}


def _tensors(content: bytes) -> tuple[object, bytes]:
    """The header of a safetensors file as values, for the order of its metadata is chance, and its tensors."""
    size = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:size]), content[size:]


def differences(found: Mapping[str, object], whole: Mapping[str, object]) -> str:
    """The names of what differs, and how; empty if nothing does."""
    missing, extra = whole.keys() - found.keys(), found.keys() - whole.keys()
    changed = [name for name in whole.keys() & found.keys() if found[name] != whole[name]]
    sides = {"missing": sorted(missing), "extra": sorted(extra), "other": sorted(changed)}
    return "; ".join(f"{side}: {', '.join(names)}" for side, names in sides.items() if names)


@dataclass
class Trials:
    """Tries cases in a folder, one after the other.

    Attributes:
        server: runs the commands.
        folder: for the directories of the cases.
        inputs: of ``make_inputs``.
        unopened: whether checkpoints are not opened in processes of their own.
        wholes: by command what undisturbed ones make; a finished run to export is the directory ``finished``.
    """

    server: ForkServer
    folder: Path
    inputs: Mapping[str, Path]
    unopened: bool = False
    wholes: dict[str, Whole] = field(default_factory=dict)

    def make_whole(self, command: str) -> None:
        """Run a command undisturbed, and keep what it makes; extend before export."""
        self.server.run(["--version"], self.folder, seconds=LONGEST_SECONDS)  # it has imported all
        place = self.begin(command, f"whole {command}")
        began = time.monotonic()
        outcome = self._run(command, place, disaster=Disaster())
        seconds = time.monotonic() - began
        assert outcome.code == 0, (command, outcome.err)
        sizes = [path.stat().st_size for path in (place / "run").rglob("*") if path.is_file()]
        moments = int(counted(place).read_text())
        self.wholes[command] = Whole(artifacts(place / "run"), seconds, moments, sum(sizes), max(sizes))
        if command == "extend":
            shutil.copytree(place / "run", self.folder / "finished")

    def attempt(self, case: Case) -> Result:
        """Let a case happen, go on with the same command, and compare; its directory stays where something is wrong."""
        began, result = time.monotonic(), Result(case)
        try:
            with self._place(case) as place:
                first = self.disturb(case, place)
                result.hit = first.code != 0
                result.wrong = wrong_end(case, first)
                self._make_space(case, place)
                result.wrong = result.wrong or self.finish(case.command, place)
                if not result.wrong:
                    shutil.rmtree(place)
        except (OSError, ValueError) as error:  # of a file that it has made, or of this machine
            result.wrong = f"{type(error).__name__}: {error}"[:1000]
        result.seconds = time.monotonic() - began
        return result

    def disturb(self, case: Case, place: Path) -> Outcome:
        """Run the command of a case in a directory, and let the case happen to it."""
        whole = self.wholes[case.command]
        if case.kind == "full disk":
            limit = int(100 + case.moment * whole.bytes_largest) if case.way == "RLIMIT_FSIZE" else 0
            return self._run(case.command, place, file_bytes=limit)
        if case.timed:
            after = 0.1 + case.moment * whole.seconds
            return self._run(case.command, place, stop=(signal.Signals[case.way], after))
        moment = 1 + int(case.moment * whole.moments)
        outcome = self._run(case.command, place, disaster=Disaster(case.way, moment, case.number))
        if case.kind == "power cut" and after_cut(place).exists():
            shutil.rmtree(place)
            after_cut(place).rename(place)
        return outcome

    def finish(self, command: str, place: Path) -> str:
        """Go on with the same command; what is wrong with what it makes."""
        outcome = self._run(command, place)
        if outcome.code != 0:
            return f"it does not go on ({outcome.code}): {outcome.err[-1000:]}"
        return differences(artifacts(place / "run"), self.wholes[command].artifacts)

    def _run(self, command: str, place: Path, **options: Any) -> Outcome:
        words = [word.format(**self.inputs) for word in COMMANDS[command].split()]
        return self.server.run(words, place, seconds=LONGEST_SECONDS, unopened=self.unopened, **options)

    def begin(self, command: str, name: str) -> Path:
        """A new directory for a command."""
        place = self.folder / name
        place.mkdir()
        if command == "export":
            shutil.copytree(self.folder / "finished", place / "run")
        return place

    @contextmanager
    def _place(self, case: Case) -> Any:
        """The directory of a case, on a small file system if it wants one."""
        name = f"{case.kind} {case.number}"
        if case.way != "file system":
            yield self.begin(case.command, name)
            return
        mounted = self.folder / f"disk {case.number}"
        mounted.mkdir()
        whole = self.wholes[case.command]
        mount("tmpfs", mounted, int(2**14 + case.moment * whole.bytes_made))
        try:
            place = mounted / name
            place.mkdir()
            if case.command == "export":
                mount("remount", mounted, 2**30)
                shutil.copytree(self.folder / "finished", place / "run")
                used = sum(path.stat().st_blocks * 512 for path in place.rglob("*"))
                mount("remount", mounted, int(2**14 + used + case.moment * whole.bytes_made))
            yield place
        finally:
            unmount(mounted)

    @staticmethod
    def _make_space(case: Case, place: Path) -> None:
        if case.way == "file system":
            mount("remount", place.parent, 2**30)


def mount(kind: str, folder: Path, size: int) -> None:
    """Mount a file system of so many bytes in a folder, or make that which is there so large (raises OSError)."""
    options = f"{'remount,' if kind == 'remount' else ''}size={size}"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())


def unmount(folder: Path) -> None:
    """Undo it."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607  # wherever the system has it


def why_no_mount(folder: Path) -> str:
    """Why no small file system can be mounted; empty if one can."""
    place = folder / "mount"
    place.mkdir(exist_ok=True)
    try:
        mount("tmpfs", place, 2**20)
    except OSError as error:
        return f"{error}" or "mount failed"
    unmount(place)
    return ""


def wrong_end(case: Case, outcome: Outcome) -> str:
    """What is wrong with how a disturbed command has ended."""
    if "Traceback" in outcome.err:
        return f"a traceback: {outcome.err[-1500:]}"
    right = {"kill": SIGNALS.get(case.way), "full disk": 2, "power cut": -9}[case.kind]
    if outcome.code not in (0, right):
        return f"exit code {outcome.code}: {outcome.err[-1000:]}"
    if case.kind == "full disk" and outcome.code and GOES_ON not in outcome.err.splitlines()[-1]:
        return f"it does not say how to go on: {outcome.err[-1000:]}"
    return ""
