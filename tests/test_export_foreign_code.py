"""A checkpoint that brings code of its own is reopened without it, whoever answers the question whether to run it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from longrope.exports import hf
from longrope.models import ASSETS, EMBEDDED

CODE = """
import pathlib
pathlib.Path({file!r}).touch()
from transformers import PreTrainedConfig
class Strange(PreTrainedConfig):
    model_type = "strange"
"""


@pytest.mark.slow
def test_reopening_runs_no_code_of_the_checkpoint(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSETS / EMBEDDED / name, tmp_path)
    ran, probe = tmp_path / "ran", tmp_path / "probe.npz"
    stated = {"model_type": "strange", "auto_map": {"AutoConfig": "strange.Strange"}}
    (tmp_path / "config.json").write_text(json.dumps(stated))
    (tmp_path / "strange.py").write_text(CODE.format(file=str(ran)))
    np.savez(probe, tokens=np.zeros((1, 4), dtype=np.int64))
    command = [sys.executable, "-c", hf.REOPEN, str(tmp_path), str(probe), str(tmp_path / "out.npz"), "cpu"]
    done = subprocess.run(command, input="y\n" * 5, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode
    assert "trust_remote_code" in done.stderr
    assert not ran.exists()
