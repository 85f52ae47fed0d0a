"""Which modules load torch, and which are commands: asked in processes of their own."""

import subprocess
import sys

import pytest

HELP = """
import sys, longrope.cli
sys.argv = ["longrope", "--help"]
try:
    longrope.cli.main()
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize("code", ["import longrope", "import longrope.cli", HELP], ids=["package", "cli", "help"])
def test_light_import_leaves_torch_alone(code: str) -> None:
    check = "\nimport sys; sys.exit(', '.join({'torch', 'transformers', 'datasets'} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_module_prints_its_help() -> None:
    command = [sys.executable, "-m", "longrope", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "extend" in done.stdout
