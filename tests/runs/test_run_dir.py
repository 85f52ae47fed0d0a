"""The run directory under crashes, second processes and changed recipes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from disk import note_names, note_syncs
from spying import before

from longrope.errors import RecipeError, RunError
from longrope.recipe import EvolutionRecipe, GradientRecipe, MeasureRecipe, Recipe, SearchRecipe, load_recipe
from longrope.runs.files import replacing_folder
from longrope.runs.run_dir import RunDir

RECIPE = Recipe("m", 65536, ("books", "papers"))


class CrashError(Exception):
    """What these tests let happen in the middle of a write."""


def crash(*_: object) -> None:
    """Stand in for a call that never returns."""
    raise CrashError


# Opening


def test_a_missing_directory_is_created_and_an_existing_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    RunDir(str(path)).trials.write_text("kept")
    assert RunDir(path).trials.read_text() == "kept"


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        RunDir(tmp_path / "run")


def test_every_artifact_has_its_own_place_inside(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    places = [run.trials, run.scores, run.factors(), run.factors("yarn"), run.checkpoint, run.export_report]
    assert len(set(places)) == len(places)
    assert {place.parent for place in places} == {tmp_path}


# The recipe


def test_a_new_directory_keeps_the_recipe_and_the_same_one_resumes(tmp_path: Path) -> None:
    RunDir(tmp_path).bind(RECIPE)
    assert load_recipe(tmp_path / "recipe.toml") == RECIPE
    written = (tmp_path / "recipe.toml").stat().st_mtime_ns
    RunDir(tmp_path).bind(Recipe("m", 65536, ("books", "papers")))
    assert (tmp_path / "recipe.toml").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed = 1"),
        ({"target_tokens": 131072}, "target_tokens = 131072"),
        ({"data": ("books", "papers", "code")}, "code"),
        ({"data": ("books",)}, "data"),
        ({"data": ("papers", "books")}, "data"),
        ({"search": SearchRecipe(method="evolution")}, "evolution"),
        ({"search": SearchRecipe(evolution=EvolutionRecipe(population=8))}, "population = 8"),
        # these two settings take values that a namesake in another table has already
        ({"search": SearchRecipe(gradient=GradientRecipe(validate_every=5))}, "validate_every"),
        ({"search": SearchRecipe(tail_tokens=1024)}, "tail_tokens"),
        ({"measure": MeasureRecipe(windows=1)}, "windows = 1"),
    ],
)
def test_another_recipe_is_refused_naming_the_change(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    RunDir(tmp_path).bind(RECIPE)
    before = (tmp_path / "recipe.toml").read_bytes()
    with pytest.raises(RunError) as caught:
        RunDir(tmp_path).bind(replace(RECIPE, **change))
    assert named in caught.value.found.replace(str(tmp_path), "")
    assert ("link" in caught.value.needed) == ("data" in change), "texts may have been moved"
    assert (tmp_path / "recipe.toml").read_bytes() == before


def test_a_damaged_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("model =")
    with pytest.raises(RecipeError, match=r"recipe\.toml"):
        RunDir(tmp_path).bind(RECIPE)


# The lock

HOLD = """
import sys
from longrope.runs.run_dir import RunDir
with RunDir(sys.argv[1]).locked():
    print(flush=True)
    input()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    """Even if the first was killed: a lock that outlives its holder would forbid resuming."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n"
        with pytest.raises(RunError) as caught, RunDir(tmp_path).locked():
            pass
        assert str(tmp_path) in caught.value.found
        holder.kill()
    with RunDir(tmp_path).locked():
        pass


def test_a_second_holder_in_this_process_is_refused(tmp_path: Path) -> None:
    with RunDir(tmp_path).locked(), pytest.raises(RunError, match="in use"), RunDir(tmp_path).locked():
        pass


def test_a_failure_inside_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(CrashError), RunDir(tmp_path).locked():
        crash()
    with RunDir(tmp_path).locked():
        pass


# Atomic writes


def test_a_text_is_whole_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = RunDir(tmp_path), tmp_path / "factors.json"
    run.write_text(path, "old")
    synced: list[tuple[int, int]] = []

    def look(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))

    def compare(source: Path, target: Path) -> None:
        assert source.parent == target.parent  # one file system
        assert (source.read_text(), target.read_text()) == ("new", "old")
        assert synced == [(source.stat().st_ino, len("new"))]

    note_syncs(monkeypatch, look)
    note_names(monkeypatch, compare)
    run.write_text(path, "new")
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["factors.json"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_crash_leaves_the_old_text_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, old: str | None
) -> None:
    run, path = RunDir(tmp_path), tmp_path / "factors.json"
    if old is not None:
        run.write_text(path, old)
    with monkeypatch.context() as patch:
        before(patch, os if moment == "fsync" else Path, moment, crash)
        with pytest.raises(CrashError):
            run.write_text(path, "new")
    assert (path.read_text() if path.exists() else None) == old
    run.write_text(path, "newer")
    assert path.read_text() == "newer"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for name in ("first", "second"):
        with replacing_folder(run.checkpoint) as folder:
            assert list(folder.iterdir()) == []
            (folder / name).write_text(name)
            assert not (run.checkpoint / name).exists()
    assert [entry.name for entry in run.checkpoint.iterdir()] == ["second"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_crash_leaves_the_old_folder_or_none(tmp_path: Path, exists: bool) -> None:
    run = RunDir(tmp_path)
    if exists:
        with replacing_folder(run.checkpoint) as folder:
            (folder / "old").write_text("old")

    def fill_half() -> None:
        with replacing_folder(run.checkpoint) as folder:
            (folder / "half").write_text("half")
            crash()

    with pytest.raises(CrashError):
        fill_half()
    assert [entry.name for entry in run.checkpoint.glob("*")] == (["old"] if exists else [])
    assert run.checkpoint.exists() == exists
    with replacing_folder(run.checkpoint) as folder:
        assert list(folder.iterdir()) == []  # nothing of the crashed attempt
        (folder / "new").write_text("new")
    assert [entry.name for entry in run.checkpoint.iterdir()] == ["new"]


def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="The path of a run is empty"):
        RunDir("")


def test_a_folder_that_was_there_stays_where_a_run_does_not_begin(tmp_path: Path) -> None:
    """Those that were made for it go."""
    there = tmp_path / "there"
    there.mkdir()
    RunDir(there).discard_if_empty()
    RunDir(there / "new" / "run").discard_if_empty()
    assert list(there.iterdir()) == []
