"""Writers of a run that are killed or lose the power at each of their writes; and the model of a disk for it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from disasters import DROPPED, REORDERED, Disaster, after_cut, counted, meet

from longrope.runs import files
from longrope.runs.run_dir import RunDir


def content(folder: Path) -> dict[str, str]:
    """The text of each file by its name, without what is unfinished."""
    names = {path: path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_text() for path, name in names.items() if not name.startswith(".")}


def hit(folder: Path, write: Callable[[Path], object], disaster: Disaster) -> int:
    """Write in a child process that a disaster hits; the number of its moments, 0 if it was ended."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        with meet(disaster, folder):
            write(folder)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, -9)
    if after_cut(folder).exists():
        shutil.rmtree(folder)
        after_cut(folder).rename(folder)
    return 0 if ended else int(counted(folder).read_text())


def states(tmp_path: Path, begin: Callable[[Path], object], write: Callable[[Path], object]) -> list[dict[str, str]]:
    """What a folder may hold after a kill or a power cut at each write, and at the end."""
    found: list[dict[str, str]] = []
    ways = [("SIGKILL", 0), (DROPPED, 0), *((REORDERED, seed) for seed in range(2))]
    for number, (kind, seed) in enumerate(ways):
        moment, ended = 0, 0
        while not ended:
            moment += 1
            folder = tmp_path / f"{number}-{moment}"
            folder.mkdir()
            begin(folder)
            ended = hit(folder, write, Disaster(kind, moment, seed))
            found.append(content(folder))
        assert moment == ended + 1
    return found


def fill(folder: Path, text: str) -> None:
    folder.mkdir()
    for name in "abc":
        (folder / name).write_text(text)


def replace(folder: Path) -> None:
    with files.replacing_folder(folder / "hf") as unfinished:
        for name in "abc":
            (unfinished / name).write_text("new")


@pytest.mark.slow
def test_a_folder_is_old_new_or_absent(tmp_path: Path) -> None:
    """Never a part of one: what vouches for a checkpoint may outlive a part of its removal."""
    old, new = ({f"hf/{name}": text for name in "abc"} for text in ("old", "new"))
    found = states(tmp_path, lambda folder: fill(folder / "hf", "old"), replace)
    assert all(state in (old, new, {}) for state in found)
    assert old in found
    assert found[-1] == new


@pytest.mark.slow
def test_what_vouches_for_a_folder_is_gone_before_the_folder_changes(tmp_path: Path) -> None:
    """An export is made anew: its report, which means that it is finished, never stands beside another or no folder."""

    def begin(folder: Path) -> None:
        fill(folder / "hf", "old")
        (folder / "export.json").write_text("old")

    def write(folder: Path) -> None:
        run = RunDir(folder)
        run.remove(run.export_report)
        replace(folder)
        run.write_text(run.export_report, "new")

    for state in states(tmp_path, begin, write):
        if report := state.pop("export.json", ""):
            assert state == {f"hf/{name}": report for name in "abc"}


@pytest.mark.parametrize("kind", [DROPPED, REORDERED])
def test_a_write_without_a_sync_is_lost(kind: str, tmp_path: Path) -> None:
    """So the model of a disk finds a writer that forgets one."""

    def write(folder: Path) -> None:
        (folder / "a").write_text("new")
        (folder / "a").replace(folder / "b")
        files.sync(folder)
        (folder / "c").write_text("last")

    found = states(tmp_path, lambda folder: None, write)
    assert {"b": ""} in found
