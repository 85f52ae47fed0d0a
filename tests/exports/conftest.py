"""Checkpoints reopened in this process."""

import runpy
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture
def reopened_here(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the script that reopens without the seconds that a fresh process takes to import transformers."""
    script = tmp_path_factory.mktemp("script") / "reopen.py"

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        executable, option, source, *arguments = command
        assert (executable, option) == (sys.executable, "-c")
        script.write_text(source)
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        runpy.run_path(str(script))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", run)
