"""A test that hangs is ended, whoever waits; one that computes is not, whoever does."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from idle import ended_when_idle

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux's /proc is not here")
HANGING = "import threading; threading.Event().wait()"
HANGING_TEST = f"""
import subprocess, sys
from functools import partial
from idle import end_process, ended_when_idle

def test_hanging(pytestconfig):
    with ended_when_idle(partial(end_process, pytestconfig), samples=2, seconds=1.0):
        subprocess.run([sys.executable, "-c", {HANGING!r}])
"""


def test_a_hanging_test_is_ended_with_its_children(tmp_path: Path) -> None:
    """Also where pytest captures what it writes; where it waited is shown."""
    (tmp_path / "test_hanging.py").write_text(HANGING_TEST)
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", str(tmp_path)]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(Path(__file__).parent)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "the test hangs" in done.stderr
    assert "in test_hanging" in done.stderr


@pytest.mark.parametrize("code", ["while True: pass", HANGING], ids=["computing", "waiting"])
def test_what_a_child_computes_counts(code: str) -> None:
    ended = threading.Event()
    with (
        subprocess.Popen([sys.executable, "-c", code]) as child,
        ended_when_idle(ended.set, samples=4, seconds=1.0),
    ):
        try:
            waited = ended.wait(120 if "wait" in code else 6)
        finally:
            child.kill()
    assert waited == ("wait" in code)


def test_what_is_over_is_not_ended() -> None:
    ended = threading.Event()
    with ended_when_idle(ended.set, samples=1, seconds=0.2):
        pass
    time.sleep(0.5)
    assert not ended.is_set()
