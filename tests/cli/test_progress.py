"""How far long steps are: in words, and as a line every 30 seconds where there is no bar."""

from itertools import pairwise
from pathlib import Path

import pytest
from commands import Command, report_at_once

from longrope.pipeline.callbacks import Callbacks, Sparsely, WorkDone


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


def test_a_command_reports_progress_without_a_terminal(
    command: Command, pico_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no time between two lines, so that each is printed."""
    report_at_once(monkeypatch)
    Path("book.txt").write_text("one two three " * 400)
    result = command("measure", pico_folder, "--metrics", "perplexity", "--lengths", 64, "--measure-data", "book.txt")
    assert result.code == 0, result.err
    assert "read texts: 5.6 kB\n" in result.err
