"""How far long steps are: in words, and as a line every 30 seconds where there is no bar."""

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from commands import Command, report_at_once

from longrope.data import Texts, load_texts
from longrope.pipeline.callbacks import Callbacks
from longrope.pipeline.progress import Reminder, Sparsely, WorkDone, reminding


def test_texts_within_thirty_seconds_are_left_out() -> None:
    said, now = list[str](), 0.0
    sparsely = Sparsely(said.append, lambda: now)
    for second in range(0, 100, 7):
        now = float(second)
        sparsely(f"{second}")
    assert said == ["35", "70"]
    assert all(int(later) - int(earlier) >= 30 for earlier, later in pairwise(said))


@pytest.mark.parametrize(
    ("work", "text"),
    [
        (WorkDone("read texts", 1_234_567, 0, "bytes"), "read texts: 1.23 MB"),
        (WorkDone("measure YaRN", 3, 12_000, "passes"), "measure YaRN: 3 of 12,000 passes"),
        (WorkDone("count", 3, 0, "rows"), "count: 3 rows"),
    ],
)
def test_work_is_described_in_words(work: WorkDone, text: str) -> None:
    assert str(work) == text


def test_each_run_has_a_clock_of_its_own() -> None:
    assert Callbacks().on_progress is not Callbacks().on_progress
    assert Callbacks().on_trial is not Callbacks().on_trial


def test_silence_is_broken_every_thirty_seconds() -> None:
    """By what was said last and how long ago; never before anything was said, nor soon after another line."""
    said, now = list[str](), 0.0
    reminder = Reminder(said.append, lambda: now)
    lines = {40: "load model\nof two lines", 60: "export", 145: "read " + 100 * "x"}
    for second in range(0, 180, 5):
        now = float(second)
        if second in lines:
            reminder.heard(lines[second])
        reminder.look()
    assert said == [
        "still working, 30 s after: export",
        "still working, 1.0 min after: export",
        f"still working, 30 s after: read {75 * 'x'} ...",
    ]


def test_a_thread_reminds_until_the_end_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    report_at_once(monkeypatch)
    looked = threading.Event()

    def say(_: str) -> None:
        looked.set()

    reminder = Reminder(say)
    reminder.heard("load model")
    with reminding(reminder, wait_seconds=0.001):
        looked.wait()
    assert not [thread for thread in threading.enumerate() if thread.name == "longrope-reminder"]
    looked.clear()
    with reminding(reminder, wait_seconds=0.001) as ended:
        ended.set()
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "longrope-reminder")
        thread.join()


def test_a_command_reports_progress_without_a_terminal(
    command: Command, pico_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no time between two lines, so that each is printed."""
    report_at_once(monkeypatch)
    Path("book.txt").write_text("one two three " * 400)
    result = command("measure", pico_folder, "--metrics", "perplexity", "--lengths", 64, "--measure-data", "book.txt")
    assert result.code == 0, result.err
    assert "read texts: 5.6 kB\n" in result.err


@pytest.mark.parametrize("option", ["-v", "-q"])
def test_a_step_that_says_nothing_is_still_heard_of(
    option: str, command: Command, pico_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the reading of texts, which goes on until the reminder has come; quiet commands say nothing."""
    report_at_once(monkeypatch)
    looked = threading.Event()
    heard, look = list[str](), Reminder.look

    def look_at_once(reminder: Reminder) -> None:
        look(reminder)
        heard.append(reminder._last_line)
        if heard[-1].startswith("read "):
            looked.set()

    def read_slowly(*given: Any, **options: Any) -> Texts:
        if option == "-v":
            looked.wait()
        return load_texts(*given, **options)

    monkeypatch.setattr(Reminder, "look", look_at_once)
    monkeypatch.setattr("longrope.pipeline.session.load_texts", read_slowly)
    Path("book.txt").write_text("one two three " * 400)
    given = ("measure", pico_folder, "--metrics", "perplexity", "--lengths", 64, "--measure-data", "book.txt")
    result = command(option, *given)
    assert result.code == 0, result.err
    assert ("after: read book.txt" in result.err) is (option == "-v")
