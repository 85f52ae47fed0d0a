"""The first line of what was read, of files and of what is none."""

from pathlib import Path

import pytest

from longrope.data.texts_report import TextsReport


@pytest.mark.parametrize(
    ("files", "size", "line"),
    [(0, 42_900, "read 42.9 kB: "), (1, 500, "read 1 file, 500 bytes: "), (0, 0, "read 0 files, 0 bytes: ")],
)
def test_texts_without_files_are_not_counted_as_files(files: int, size: int, line: str) -> None:
    """As rows of a data set; where nothing at all was read, it is said."""
    assert TextsReport([Path("a")] * files, bytes_read=size).lines() == [line]
