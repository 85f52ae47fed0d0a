"""A structure-aware fuzz of every reader: whatever it is given, it reads it or raises an error of ours.

``python tests/reliability.py --fuzz-seconds 600`` does so for ten minutes each.
"""

from pathlib import Path

import pytest
from fuzz_targets import TARGETS
from fuzzing import fuzz

INPUTS = 60
LOADED = ("tokenizer", "tokenizer's config", "weights")  # with the whole model, which takes longer


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_is_read_or_refused(name: str, tmp_path: Path) -> None:
    inputs = INPUTS // (5 if name in LOADED else 2 if name.startswith("page: ") else 1)
    report = fuzz(name, TARGETS[name](tmp_path), inputs=inputs)
    assert report.problems == {}
    assert report.refused > 0
