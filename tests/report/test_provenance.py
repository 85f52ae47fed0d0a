"""What a run writes for its report."""

import json
import math
import platform
import sys
from pathlib import Path

import pytest

import longrope
from longrope.rope import RopeSpec
from longrope.runs.provenance import describe_command, record_rope, record_session
from longrope.runs.run_dir import RunDir


def test_rope_json_is_what_the_formulas_say(tmp_path: Path) -> None:
    """A geometry of four pairs, written out by hand."""
    run, spec = RunDir(tmp_path), RopeSpec(8, 8, 1e4, 64)
    record_rope(run, spec, 256)
    rope = json.loads(run.rope.read_text())
    assert [pair["wavelength_tokens"] for pair in rope["pairs"]] == pytest.approx(
        [2 * math.pi * 10**i for i in range(4)]
    )
    assert [pair["ntk"] for pair in rope["pairs"]] == pytest.approx([4 ** (i / 3) for i in range(4)])
    assert [pair["critical"] for pair in rope["pairs"]] == pytest.approx([1, 2, 4, 4])  # the second turns in 63 tokens
    assert [pair["ntk-critical"] for pair in rope["pairs"]] == pytest.approx([1, 2, 4, 8])
    factors = {row["method"]: (row["formula"], round(row["attention_factor"], 5)) for row in rope["methods"]}
    assert factors == {
        **dict.fromkeys(("pi", "ntk", "ntk-critical", "dynamic-ntk"), ("1", 1.0)),
        "yarn": ("0.1 ln s + 1", 1.13863),
        **dict.fromkeys(("critical", "critical-real"), ("sqrt(1 + ln s / ln L)", 1.1547)),  # ln 4 / ln 64 is a third
    }
    assert (rope["pairs_that_turn_fully"], rope["fingerprint"]) == (2, spec.fingerprint)
    assert (rope["trained_window"], rope["target_window"]) == (64, 256)


def test_provenance_has_one_entry_for_each_different_schedule(tmp_path: Path) -> None:
    """A run that is resumed by the same command on the same machine adds nothing."""
    run = RunDir(tmp_path)
    for device in ("cpu", "cpu", "GPU"):
        record_session(run, device=device, choices=("device cpu (no GPU is here)",))
    first, second = json.loads(run.provenance.read_text())
    assert first["command"] == describe_command(sys.argv)
    called = describe_command(["/home/someone/bin/longrope", "extend", "--out", "my run"])
    assert called == "longrope extend --out 'my run'"
    assert (first["device"], second["device"]) == ("cpu", "GPU")
    assert first["python"] == platform.python_version()
    assert first["longrope"] == longrope.__version__
