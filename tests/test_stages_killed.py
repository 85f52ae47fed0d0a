"""Runs killed in every stage, at random moments, end as one that nobody has disturbed: to the bit.

Each process is a real one and dies by SIGKILL when it is about to force a write to the disk, before what it wrote is
safe; of a line, the last bytes are torn off. The next process goes on, and dies in the next stage.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from worker_schedule import MEASURED

from longrope.evaluation.samples import SECONDS
from longrope.recipe import (
    ExportRecipe,
    GradientRecipe,
    MeasureRecipe,
    Recipe,
    SearchRecipe,
    Stage,
    TuneRecipe,
    dump_recipe,
)
from longrope.runs.records import Score, TrainStep, Trial, read_records
from longrope.runs.run_dir import RunDir

WORKER = Path(__file__).parent / "worker_schedule.py"
RunKilled = Callable[[Path, Sequence[tuple[int, int, int] | None]], list[dict[str, Any]]]
SEED = 20260722
ROUNDS = 2
MOST_TORN_BYTES = 40
STAGES = (Stage(search=128), Stage(tune=128), Stage(search=256), Stage(short=64))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the worker asks Linux for names of files"),
]
CLOCKS = (".lock", "provenance.json", "costs.json", "report.html")  # and what tells of them
PARTS = (0, *range(1, len(STAGES) + 1), MEASURED)


@pytest.fixture(scope="module")
def recipe_file(pico_folder: Path, text_folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in about a second; both of its trainings' settings draw at random."""
    recipe = Recipe(
        str(pico_folder),
        256,
        (str(text_folders[0]),),
        (str(text_folders[1]),),
        seed=5,
        device="cpu",
        stages=STAGES,
        search=SearchRecipe(validation_windows=1, gradient=GradientRecipe(steps=3, validate_every=2, scan_windows=1)),
        tune=TuneRecipe(
            steps=7, batch_windows=2, learning_rate=3e-3, warmup_steps=1, checkpoint_every=2, short_share=0.25
        ),
        measure=MeasureRecipe(lengths=(64, 256), windows=2, tail_tokens=16, passkeys=10, metrics=("perplexity",)),
        export=ExportRecipe(drop_start_tokens=True),
    )
    path = tmp_path_factory.mktemp("killed") / "recipe.toml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run_killed(recipe_file: Path) -> Iterator[RunKilled]:
    """Let a process for each moment run in a run directory, one after the other; how each of them ended."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(WORKER)]
    worker = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(out: Path, moments: Sequence[tuple[int, int, int] | None]) -> list[dict[str, Any]]:
        assert worker.stdin
        assert worker.stdout
        worker.stdin.write(json.dumps([str(recipe_file), str(out), moments]) + "\n")
        worker.stdin.flush()
        return json.loads(worker.stdout.readline())  # type: ignore[no-any-return]

    yield ask
    worker.communicate()
    assert worker.returncode == 0


@pytest.fixture(scope="module")
def undisturbed(run_killed: RunKilled, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, dict[int, int]]:
    """A run in one go, and the writes of each of its parts."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    (ended,) = run_killed(out, [None])
    assert (ended["signal"], ended["exit"]) == (0, 0)
    return RunDir(out), {int(part): number for part, number in ended["writes"].items()}


def artifacts(run: RunDir) -> dict[str, Any]:
    """Everything that a run leaves, without wall clocks: what is not read by its kind is taken as bytes."""
    found: dict[str, Any] = {}
    kinds: dict[str, Any] = {"trials.jsonl": Trial, "train.jsonl": TrainStep, "scores.jsonl": Score}
    for path in sorted(run.path.rglob("*")):
        name = path.relative_to(run.path).as_posix()
        if path.name in kinds:
            found[name] = [timeless(record) for record in read_records(path, kinds[path.name])]
        elif path.name == "stage.json":
            found[name] = json.loads(path.read_text()) | {"seconds": 0.0}
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                found[name] = file.metadata()
        elif path.suffix == ".npz":
            with np.load(path) as samples:
                found[name] = {array: samples[array].tobytes() for array in samples.files if array != SECONDS}
        elif path.is_file() and path.name not in CLOCKS:
            found[name] = path.read_bytes()
    return found


def timeless(record: Any) -> Any:
    """A record without what clocks say."""
    clocks = {"seconds": 0.0} | ({"tokens_per_second": 0.0} if isinstance(record, TrainStep) else {})
    return replace(record, **clocks)


def assert_same_weights(run: RunDir, other: RunDir) -> None:
    """Tuned weights and those of the checkpoint, to the bit."""
    for path in sorted(run.path.rglob("*.safetensors")):
        ours, theirs = load_file(path), load_file(other.path / path.relative_to(run.path))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, theirs[name]), (path, name)


def random_moments(rng: np.random.Generator, writes: dict[int, int]) -> list[tuple[int, int, int]]:
    """One in every part, by the number of a write in it, in the order of the run."""
    return [(part, int(rng.integers(1, writes[part] + 1)), int(rng.integers(MOST_TORN_BYTES))) for part in PARTS]


def test_every_part_of_a_schedule_writes(undisturbed: tuple[RunDir, dict[int, int]]) -> None:
    """So a moment in each can be drawn, and together they are all writes there are."""
    _, writes = undisturbed
    assert set(writes) == set(PARTS)
    assert min(writes[part] for part in (1, 2, 3, 4)) >= 6


@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_schedule_killed_in_every_stage_ends_as_if_nothing_had_been(
    number: int, run_killed: RunKilled, undisturbed: tuple[RunDir, dict[int, int]], tmp_path: Path
) -> None:
    whole, writes = undisturbed
    moments = random_moments(np.random.default_rng([SEED, number]), writes)
    messages = f"seed {SEED}, round {number}: (part, write, torn bytes) {moments}, writes {writes}"
    *killed, last = run_killed(tmp_path / "run", [*moments, None])
    assert [ended["signal"] for ended in killed] == [signal.SIGKILL] * len(moments), messages
    assert last["exit"] == 0, messages
    run = RunDir(tmp_path / "run")
    assert artifacts(run) == artifacts(whole), messages
    assert_same_weights(run, whole)


@pytest.mark.parametrize("part", [2, 3])
def test_a_stage_killed_again_and_again_goes_on_each_time(
    part: int, run_killed: RunKilled, undisturbed: tuple[RunDir, dict[int, int]], tmp_path: Path
) -> None:
    """Every process gets a few writes further into one stage, so it ends; steps after a checkpoint are done again."""
    whole, writes = undisturbed
    rounds = 1 + writes[part] // 4
    *ends, last = run_killed(tmp_path / "run", [*([(part, 6, 7)] * rounds), None])
    signals = [ended["signal"] for ended in ends]
    assert len(signals) == rounds
    assert signals[:2] == [signal.SIGKILL] * 2
    assert signals[-1] == 0
    assert last["exit"] == 0
    run = RunDir(tmp_path / "run")
    assert artifacts(run) == artifacts(whole)
    assert_same_weights(run, whole)
