"""The command line in processes of its own."""

import os
import subprocess
import sys

from commands import Result

SANDBOX = """
import sys, types
fake = types.ModuleType("longrope.pipeline")
def inspect(*_): raise ValueError("a fault of ours")
fake.inspect = inspect
import longrope
sys.modules["longrope.pipeline"] = longrope.pipeline = fake
from longrope.cli import main
sys.argv = ["longrope", "inspect", "model"]
main()
"""
HELP = """
import sys
from longrope.cli import main
for arguments in ["--help"], ["extend", "--help"], ["measure", "--help"], ["export", "--help"]:
    sys.argv = ["longrope", *arguments]
    try:
        main()
    except SystemExit as ended:
        print(ended.code, sorted({"torch", "transformers"} & set(sys.modules)), file=sys.stderr)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start Python with these arguments."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def end(process: subprocess.Popen[str]) -> Result:
    """Wait for what a process has said."""
    out, err = process.communicate()
    return Result(process.returncode, out, err)


def test_help_does_not_load_torch() -> None:
    result = end(start("-c", HELP))
    assert result.err.splitlines() == ["0 []"] * 4
    assert "--measure-data" in result.out
    assert "perplexity" in result.out


def test_our_own_fault_ends_with_a_traceback_and_code_1() -> None:
    result = end(start("-c", SANDBOX))
    assert (result.code, result.out) == (1, "")
    assert "Traceback (most recent call last)" in result.err
    assert result.err.rstrip().endswith("ValueError: a fault of ours")
