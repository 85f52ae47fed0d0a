"""Files from anywhere: what is no regular file is refused before it is read, and every value of a record is checked."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from longrope.errors import LongRopeError, RunError, printable
from longrope.reading import LARGEST_WHOLE, NoRegularFileError, read_bytes, record_of, show_value


@dataclass(frozen=True)
class Row:
    """One of each type that records have."""

    name: str
    count: int
    value: float
    done: bool = False
    parts: tuple[float, ...] = ()
    cost: int | None = None


RIGHT = {"name": "x", "count": 3, "value": 0.5}


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "no regular"), ("/dev/zero", "no regular"), (tmp_path, "a folder")):
        with pytest.raises(NoRegularFileError, match=words):
            read_bytes(path)
    (tmp_path / "large").write_bytes(b"12345")
    assert read_bytes(tmp_path / "large", 5) == b"12345"
    with pytest.raises(NoRegularFileError, match="more than 4 bytes"):
        read_bytes(tmp_path / "large", 4)


def test_a_record_comes_from_its_json() -> None:
    full = {**RIGHT, "done": True, "parts": [1, 2.5], "cost": 7}
    assert record_of(Row, json.loads(json.dumps(full))) == Row("x", 3, 0.5, done=True, parts=(1, 2.5), cost=7)
    assert record_of(Row, {**RIGHT, "cost": None, "value": LARGEST_WHOLE}).value == LARGEST_WHOLE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": 1}, "name is 1, not a text"),
        ({"count": 1.5}, "count is 1.5, not a whole number"),
        ({"count": True}, "count is True"),
        ({"count": 2**53 + 1}, "count is a whole number of 54 bits"),
        ({"count": -1}, "count is -1, not a whole number from 0"),
        ({"count": None}, "count is None"),
        ({"value": "x"}, "value is 'x', not a number"),
        ({"value": 10**400}, "value is a whole number of 1329 bits"),
        ({"value": {}}, "value is {}"),
        ({"done": 1}, "done is 1, not true or false"),
        ({"parts": 1}, "parts is 1, not a list"),
        ({"parts": [1, "2"]}, r"parts\[1\] is '2'"),
        ({"cost": 1.5}, "cost is 1.5"),
        ({"more": 1}, r"fields \['more'\]"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        record_of(Row, {**RIGHT, **change})


def test_values_are_shown_short() -> None:
    assert len(show_value("x" * 10**6)) < 100
    assert show_value(10**5000) == "a whole number of 16610 bits"


def test_a_paragraph_is_one_line_of_a_thousand_characters() -> None:
    error = RunError("x" * 5000 + "\x1b[31m\nend", "y" * 2000, "z")
    assert len("longrope: " + error.paragraph) <= 1000
    assert error.paragraph.endswith("yyy z")
    for lengths in ((5000, 5000, 5000), (10, 2000, 10), (400, 400, 400), (700, 10, 280)):
        assert 900 < len("longrope: " + RunError(*("x" * length for length in lengths)).paragraph) <= 1000
    assert "\\x1b[31m\\nend" in error.paragraph
    assert error.paragraph.isprintable()
    assert LongRopeError("found.", "needed.", "remedy.").paragraph == "found. needed. remedy."
    assert printable("a\u202eb\ud800", keep="\n") == "a\\u202eb\\ud800"
