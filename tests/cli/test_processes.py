"""The command line in a process of its own."""

import os
import subprocess
import sys

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


def test_help_does_not_load_torch() -> None:
    environment = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.splitlines() == ["0 []"] * 4
    assert "--measure-data" in done.stdout
    assert "perplexity" in done.stdout
