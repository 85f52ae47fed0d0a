"""What the tests of the page share."""

from pathlib import Path

import pytest
from handmade import EXPORT, FACTORS, add_factors, make_run

from longrope.exports import dump_report
from longrope.rope import dump_factors
from longrope.runs.run_dir import RunDir


@pytest.fixture
def extended(tmp_path: Path) -> RunDir:
    """What ``longrope extend`` leaves: two files with the same factors, and how the checkpoint was reopened."""
    run = make_run(tmp_path / "extended")
    add_factors(run, FACTORS)
    run.factors().write_text(dump_factors(FACTORS))
    run.export_report.write_text(dump_report(EXPORT))
    return run
