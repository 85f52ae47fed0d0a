"""The .jsonl files: what is written comes back, torn ends are cut, and anything else is refused by line."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from disk import note_syncs

from longrope.errors import RunError
from longrope.runs.records import Score, TrainStep, Trial, append_records, read_records

TRIAL = Trial(
    method="longrope-gradient",
    model="pico",
    texts_fingerprint="0123456789abcdef",
    step=3,
    kind="gradient",
    origin="gradient",
    lambdas=(1.0, 1 / 3 + 1, 2.5),
    start_tokens=4,
    attention_factor=1.1,
    loss_nats=2.718281828459045,
    num_tokens=65535,
    token_passes=262144,
    seconds=0.1 + 0.2,
    gradient=(-0.25, 1e-300, 0.0, 3.0),
)
SCORE = Score(
    metric="perplexity",
    value=20.2,
    low=19.9,
    high=20.5,
    method="none",
    context_tokens=8192,
    num_tokens=24573,
    num_windows=3,
    seed=0,
    model='a "model"\nof two lines\u2028and more \U0001f40d',
    texts_fingerprint="0123456789abcdef",
    factors_fingerprint="",
    seconds=1.5,
)


STEP = TrainStep(3, 2.5, 188, 752, 1e-3, 0.75, 0.5, 384.0, 0.4, 9.5)


@pytest.mark.parametrize(
    "records",
    [
        [TRIAL, replace(TRIAL, gradient=()), replace(TRIAL, step=4)],
        [SCORE, replace(SCORE, value=float("inf")), replace(SCORE, chosen_by="a search", factors_method="yarn")],
        [STEP, replace(STEP, loss_nats=float("inf"))],
    ],
    ids=["trials", "scores", "steps"],
)
def test_records_come_back_as_they_were(tmp_path: Path, records: list[Any]) -> None:
    path = tmp_path / "records.jsonl"
    for number, record in enumerate(records, 1):
        append_records(path, [record])
        assert path.read_bytes().count(b"\n") == number
        assert read_records(path, type(record)) == records[:number]
    again = read_records(path, type(records[0]))
    assert [hash(record) for record in again] == [hash(record) for record in records]  # lists became tuples


def test_a_score_without_who_chose_its_factors_is_read(tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    path = tmp_path / "scores.jsonl"
    append_records(path, [SCORE])
    line = json.loads(path.read_text())
    del line["chosen_by"], line["factors_method"]
    path.write_text(json.dumps(line) + "\n")
    assert read_records(path, Score) == [replace(SCORE, chosen_by="", factors_method="")]


def test_a_missing_or_empty_file_has_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "absent.jsonl", Trial) == []
    assert not (tmp_path / "absent.jsonl").exists()
    (tmp_path / "empty.jsonl").touch()
    assert read_records(tmp_path / "empty.jsonl", Trial) == []


def test_a_record_is_on_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of fsync another reader already finds the whole line."""
    path, synced = tmp_path / "scores.jsonl", list[str]()

    def look(descriptor: int) -> None:
        assert os.fstat(descriptor).st_ino == (path, tmp_path)[len(synced)].stat().st_ino, "then the name"
        synced.append(path.read_text())

    note_syncs(monkeypatch, look)
    append_records(path, [SCORE])
    assert len(synced) == 2
    assert synced[0].endswith("\n")
    assert json.loads(synced[0])["metric"] == "perplexity"


def test_a_torn_last_line_is_cut_off_wherever_it_tore(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    append_records(path, [SCORE])
    first = path.read_bytes()
    append_records(path, [replace(SCORE, seed=1)])
    both = path.read_bytes()
    for end in range(len(first), len(both)):
        path.write_bytes(both[:end])
        assert read_records(path, Score) == [SCORE]
        assert path.read_bytes() == first
    append_records(path, [replace(SCORE, seed=2)])
    assert [score.seed for score in read_records(path, Score)] == [0, 2]


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_bytes(b'{"metric": "perp')
    assert read_records(path, Score) == []
    assert path.read_bytes() == b""


def broken(**changes: object) -> str:
    """The line of SCORE with fields added, or removed by None."""
    return json.dumps({k: v for k, v in {**vars(SCORE), **changes}.items() if v is not None})


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (broken(extra=1), "extra"),
        (broken(metric=None), "metric"),
        (broken(metric=None, metrics="perplexity"), "metrics"),
        ("{torn", "Score"),
        ("", "Score"),
        ("{}", "metric"),
        ("[]", "Score"),
        ("null", "Score"),
        ("7", "Score"),
    ],
)
def test_a_wrong_line_is_refused_by_number(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "scores.jsonl"
    append_records(path, [SCORE])
    with path.open("a") as file:
        file.write(line + "\n")
    append_records(path, [SCORE])
    before = path.read_bytes()
    with pytest.raises(RunError) as caught:
        read_records(path, Score)
    assert f"{path}:2: " in caught.value.found
    assert named in caught.value.found
    assert path.read_bytes() == before


def test_lines_of_an_earlier_version_have_the_defaults_of_newer_fields(tmp_path: Path) -> None:
    """Fields without a default must be there, whichever others are."""
    path, line = tmp_path / "train.jsonl", dict(vars(STEP))
    newer = ("tokens_per_second", "peak_share", "memory_gib")
    old = {key: value for key, value in line.items() if key not in newer}
    path.write_text(json.dumps(old) + "\n" + json.dumps({**old, "peak_share": 0.4}) + "\n")
    plain = replace(STEP, tokens_per_second=0, peak_share=0, memory_gib=0)
    assert read_records(path, TrainStep) == [plain, replace(plain, peak_share=0.4)]
    for wrong, named in (({**line, "lr": 1}, "lr"), ({k: v for k, v in line.items() if k != "seconds"}, "seconds")):
        path.write_text(json.dumps(wrong) + "\n")
        with pytest.raises(RunError) as caught:
            read_records(path, TrainStep)
        assert f"fields ['{named}']" in caught.value.found


def test_bytes_that_are_no_text_are_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    append_records(path, [SCORE])
    with path.open("ab") as file:
        file.write(b"\xff\xfe\n")
    with pytest.raises(RunError, match=":2: "):
        read_records(path, Score)


def test_records_of_one_kind_are_not_read_as_another(tmp_path: Path) -> None:
    append_records(tmp_path / "trials.jsonl", [TRIAL])
    with pytest.raises(RunError, match=":1: no Score record"):
        read_records(tmp_path / "trials.jsonl", Score)
