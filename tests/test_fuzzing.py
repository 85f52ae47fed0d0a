"""The fuzz itself: what it finds, and when the reading of an input counts as a hang."""

import time
from pathlib import Path

from fuzzing import Limits, Target, fuzz

SHORT = Limits(cpu_seconds=0.05, wall_seconds=0.3)


def spin(path: Path) -> None:
    """Take a second of the CPU, but for the unharmed file."""
    ends = time.process_time() + 1.0 * (path.read_bytes() != b"1\n")
    while time.process_time() < ends:
        pass


def sleep(path: Path, seconds: float) -> None:
    """Wait, but for the unharmed file."""
    time.sleep(seconds * (path.read_bytes() != b"1\n"))


def test_an_input_that_takes_the_cpu_too_long_is_a_hang(tmp_path: Path) -> None:
    patient = Limits(cpu_seconds=0.2, wall_seconds=60)  # others of a busy machine may have the CPU meanwhile
    report = fuzz("spin", Target(tmp_path / "x", 1, spin), inputs=2, limits=patient)
    assert [kind.split(": ")[1] for kind in report.problems] == ["more than 0.2 seconds of the CPU"]
    assert report.cpu_seconds > 0.3  # of two inputs; the limit and the clock differ by a few ticks


def test_one_that_waits_is_a_hang_later_for_the_machine_may_be_busy(tmp_path: Path) -> None:
    def wait(path: Path) -> None:
        sleep(path, 0.1)

    def wait_longer(path: Path) -> None:
        sleep(path, 1)

    assert fuzz("wait", Target(tmp_path / "x", 1, wait), inputs=2, limits=SHORT).problems == {}
    report = fuzz("wait", Target(tmp_path / "x", 1, wait_longer), inputs=2, limits=SHORT)
    assert [kind.split(": ")[1] for kind in report.problems] == ["more than 0.3 seconds of waiting"]
    assert report.cpu_seconds < 0.2 < report.seconds


def test_seconds_of_a_fuzz_are_of_the_cpu(tmp_path: Path) -> None:
    report = fuzz("wait", Target(tmp_path / "x", 1, lambda path: sleep(path, 0.02)), seconds=0.02)
    assert report.cpu_seconds >= 0.02
    assert report.seconds > 2 * report.cpu_seconds
