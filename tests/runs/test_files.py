"""What a run writes: never through a link, never in the place of what is no regular file, whole or not at all."""

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from disk import note_syncs

from longrope.errors import RunError
from longrope.runs import files
from longrope.runs.run_dir import RunDir

WRITERS: dict[str, Callable[[Path], None]] = {
    "whole": lambda path: files.write_file(path, lambda unfinished: unfinished.write_text("new")),
    "line": lambda path: files.append_text(path, "new"),
    "cut": lambda path: files.truncate_file(path, 0),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_what_is_no_regular_file_stays(writer: str, kind: str, tmp_path: Path) -> None:
    path, victim = tmp_path / "x.json", tmp_path / "victim"
    if kind == "link":
        victim.write_text("precious")
    if kind.endswith("link"):
        path.symlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    before = path.lstat()
    with pytest.raises(RunError, match=r"x\.json is (a link|no regular file|a folder)"):
        WRITERS[writer](path)
    assert path.lstat() == before
    assert victim.exists() == (kind == "link")
    assert not victim.exists() or victim.read_text() == "precious"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("place", ["samples", "stages", "stages/1-search", "scores.jsonl", ".lock"])
def test_a_run_with_links_in_it_is_not_written(place: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = RunDir(tmp_path / "run")
    (run.path / place).parent.mkdir(exist_ok=True)
    (run.path / place).symlink_to(elsewhere)
    with pytest.raises(RunError, match="is a link"), run.locked():
        pass
    assert not list(elsewhere.iterdir())


def test_unfinished_files_have_names_that_nobody_can_guess(tmp_path: Path) -> None:
    names: list[str] = []
    for _ in range(2):
        files.write_file(tmp_path / "x.json", lambda unfinished: names.append(unfinished.name))
    assert len({*names, "x.json"}) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    left, ours = tmp_path / f".x.json.{'0' * 16}.partial.json", tmp_path / "x.json"
    left.write_text("of a process that was killed")
    with files.unfinished_file(ours) as first:
        assert not left.exists()
        with files.unfinished_file(ours) as second:
            assert first.exists()
            second.write_text("second")
        first.write_text("first")
    assert ours.read_text() == "first"
    assert list(tmp_path.iterdir()) == [ours]


def test_a_full_disk_takes_back_what_was_added(tmp_path: Path) -> None:
    """In a child, whose files cannot be larger than 1,000 bytes."""
    path = tmp_path / "scores.jsonl"
    path.write_text("x" * 900)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            files.append_text(path, "y" * 200)
        except RunError as error:
            os._exit(42 if str(path) in error.found and "File too large" in error.found else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert path.read_text() == "x" * 900


def test_a_folder_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file and folder in it, and then the folder that holds the name."""
    synced: list[int] = []
    note_syncs(monkeypatch, lambda place: synced.append(os.fstat(place).st_ino))
    with files.replacing_folder(tmp_path / "hf") as folder:
        (folder / "deep").mkdir()
        for name in ("deep/a", "b"):
            (folder / name).write_text(name)
    inside = {path.stat().st_ino for path in (tmp_path / "hf").rglob("*")}
    assert inside <= set(synced[:-1])
    assert synced[-1] == tmp_path.stat().st_ino


def test_json_of_a_run_is_checked_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    assert files.read_json_of_run(path, list) is None
    wrong = {"{}": "list of tables", "[1]": "list of tables", "[": "JSONDecodeError", "[" * 99999: "RecursionError"}
    wrong |= {'[{"steps": 9007199254740993}]': r"\[0\].steps", '[{"steps": ' + "9" * 5000 + "}]": "4300 digits"}
    for content, words in wrong.items():
        path.write_text(content)
        with pytest.raises(RunError, match=rf"costs\.json cannot be read \(.*{words}"):
            files.read_json_of_run(path, list)
    path.write_text('[{"steps": 9007199254740992}]')
    assert files.read_json_of_run(path, list) == [{"steps": 2**53}]


def test_what_was_unfinished_beside_something_unfinished_is_removed_too(tmp_path: Path) -> None:
    """A checkpoint is written into an unfinished folder, beside another one that the run moves into place."""
    left = [tmp_path / name for name in (".hf.0a.partial", "..hf.0a.partial.0b.partial.partial")]
    stays = [tmp_path / name for name in (".hf2.0a.partial", "hf.0a.partial")]
    for folder in (*left, *stays):
        folder.mkdir()
        (folder / "README.md").write_text("begun")
    with files.unfinished_folder(tmp_path / "hf"):
        assert not any(folder.exists() for folder in left)
    assert all(folder.exists() for folder in stays)
