"""Folders of texts that the system does not let be read, or that vanish meanwhile: refused, not passed over."""

import os
from pathlib import Path
from typing import Any

import pytest

from longrope.data.sources import list_files
from longrope.data.texts_report import TextsReport
from longrope.errors import TextsError


def write(folder: Path) -> Path:
    for name in ("a.txt", "b/c.txt", ".d/e.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")
    (folder / "b/up").symlink_to("..")
    return folder


def unreadable(monkeypatch: pytest.MonkeyPatch, place: Path, error: type[OSError]) -> None:
    """Let the system refuse a folder, also to a user who may read all."""
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == place:
            raise error(13, "refused", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)


def test_files_below_a_folder_are_listed_and_links_are_not_followed(tmp_path: Path) -> None:
    report = TextsReport()
    assert list_files(write(tmp_path), report) == [tmp_path / "a.txt", tmp_path / "b/c.txt"]
    assert report.hidden == 1
    assert [path for path, _ in report.skipped] == [tmp_path / "b/up"]


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
@pytest.mark.parametrize("name", ["", "b"])
def test_a_folder_that_cannot_be_read_is_refused(
    name: str, error: type[OSError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable(monkeypatch, write(tmp_path) / name, error)
    with pytest.raises(TextsError, match=r"cannot be read .*refused"):
        list_files(tmp_path, TextsReport())


def test_a_hidden_one_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unreadable(monkeypatch, write(tmp_path) / ".d", PermissionError)
    assert len(list_files(tmp_path, TextsReport())) == 2
