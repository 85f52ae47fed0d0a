"""Commands that are killed, stopped or meet a full disk at random go on to what undisturbed ones have made.

A few of each here; ``LONGROPE_INTERRUPTIONS=200`` tries so many kills and a fifth as many full disks.
"""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fork_server import ForkServer

from longrope.recipe import GradientRecipe, MeasureRecipe, Recipe, SearchRecipe, dump_recipe

pytestmark = pytest.mark.slow
SEED = 20_261
KILLS = int(os.environ.get("LONGROPE_INTERRUPTIONS", "6"))
SIGNALS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}  # and the exit code of each
COMMANDS = ("search", "search", "compare", "extend") if KILLS > 20 else ("search",)
CLOCKS = ("seconds", "seconds_to_common")


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    started = ForkServer()
    yield started
    started.close()


@pytest.fixture(scope="module")
def recipe_file(pico_folder: Path, text_folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    search = SearchRecipe(validation_windows=1, gradient=GradientRecipe(steps=3, scan_windows=1, validate_every=2))
    measured = MeasureRecipe(lengths=(64, 256), metrics=("perplexity",), windows=2, tail_tokens=16)
    data, held_out = ((str(folder),) for folder in text_folders)
    recipe = Recipe(str(pico_folder), 256, data, held_out, device="cpu", search=search, measure=measured)
    recipe = replace(recipe, export=replace(recipe.export, drop_start_tokens=True))
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(dump_recipe(recipe))
    return path


@pytest.fixture(scope="module")
def undisturbed(
    server: ForkServer, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[float, dict[str, object]]]:
    """Of each command the seconds that it takes, and what it makes."""
    made = {}
    server.run(["--version"], recipe_file.parent, seconds=300)  # it has imported all
    for command in set(COMMANDS):
        folder, began = tmp_path_factory.mktemp(command), time.monotonic()
        outcome = server.run([command, "--recipe", recipe_file, "--out", "run"], folder, seconds=300)
        assert outcome.code == 0, outcome.err
        made[command] = (time.monotonic() - began, artifacts(folder / "run"))
    return made


def artifacts(run: Path) -> dict[str, object]:
    """What a run has made, without the clock: factors, weights and configs as bytes, records as values."""
    found: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.suffix == ".jsonl":
            lines = map(json.loads, path.read_text().splitlines())
            found[name] = [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]
        elif path.name.startswith("factors") or path.suffix == ".safetensors" or path.name == "config.json":
            found[name] = path.read_bytes()
    return found


def finish(server: ForkServer, arguments: list[object], folder: Path) -> dict[str, object]:
    """What the same command makes when it goes on; nothing unfinished is left."""
    outcome = server.run(arguments, folder, seconds=300)
    assert outcome.code == 0, outcome.err
    assert not list((folder / "run").rglob("*.partial*"))
    return artifacts(folder / "run")


def test_killed_and_stopped_commands_go_on(
    server: ForkServer,
    recipe_file: Path,
    undisturbed: dict[str, tuple[float, dict[str, object]]],
    tmp_path: Path,
) -> None:
    rng = random.Random(SEED)  # noqa: S311  # nothing is kept secret by it
    hit = 0
    for number in range(KILLS):
        command, kind = COMMANDS[number % len(COMMANDS)], list(SIGNALS)[number % len(SIGNALS)]
        arguments, folder = [command, "--recipe", recipe_file, "--out", "run"], tmp_path / str(number)
        folder.mkdir()
        seconds, whole = undisturbed[command]
        outcome = server.run(arguments, folder, seconds=300, stop=(kind, rng.uniform(0.05, seconds)))
        assert outcome.code in (0, SIGNALS[kind]), (command, kind, outcome.err)
        assert "Traceback" not in outcome.err, (command, kind, outcome.err)
        hit += outcome.code != 0
        assert finish(server, arguments, folder) == whole, (command, kind)
    assert hit >= KILLS // 3


def test_commands_that_met_a_full_disk_go_on(
    server: ForkServer,
    recipe_file: Path,
    undisturbed: dict[str, tuple[float, dict[str, object]]],
    tmp_path: Path,
) -> None:
    rng = random.Random(SEED)  # noqa: S311  # nothing is kept secret by it
    for number in range(max(2, KILLS // 5)):
        command = COMMANDS[number % len(COMMANDS)]
        arguments, folder = [command, "--recipe", recipe_file, "--out", "run"], tmp_path / str(number)
        folder.mkdir()
        outcome = server.run(arguments, folder, seconds=300, file_bytes=int(10 ** rng.uniform(2, 4.5)))
        assert outcome.code in (0, 2), (command, outcome.err)
        assert "Traceback" not in outcome.err
        if outcome.code:
            assert "the same command goes on from here" in outcome.err.splitlines()[-1]
        assert finish(server, arguments, folder) == undisturbed[command][1], command
