"""Marks of the direction of writing in names turn round no text of a page: they are shown as Python writes them."""

import json
from pathlib import Path

from hostile_inputs import SCORE

from longrope.report import write_report
from longrope.runs.run_dir import RunDir


def test_marks_of_direction_are_shown_and_do_not_act(tmp_path: Path) -> None:
    run, marks = tmp_path / "run", "\u202e\u2066\u200f"
    run.mkdir()
    names = {"method": f"{marks}ip", "model": f"l{marks}edom", "metric": "perplexity"}
    (run / "scores.jsonl").write_text(json.dumps({**SCORE, **names}) + "\n")
    page = write_report(RunDir(run), tmp_path / "page.html").read_text()
    assert not set(marks) & set(page)
    assert "l\\u202e\\u2066\\u200fedom" in page
    assert "\u05d0" in write_report(named(tmp_path, "\u05d0"), tmp_path / "b.html").read_text()


def named(folder: Path, model: str) -> RunDir:
    """A run of a model of that name: letters that are written from the right stay."""
    run = folder / "other"
    run.mkdir()
    (run / "scores.jsonl").write_text(json.dumps({**SCORE, "model": model}) + "\n")
    return RunDir(run)
