"""Quantized GGUF files in llama.cpp, which rounds what their weights multiply, too."""

from dataclasses import replace
from pathlib import Path

import pytest

import longrope
from longrope.exports import export_gguf
from longrope.verification.checking import is_quantized, verify
from longrope.verification.truth import write_record

FACTORS = Path(__file__).parents[2] / "results" / "demo" / "factors.json"


@pytest.mark.slow
def test_a_quantized_file_is_applied_and_its_faults_are_found(tmp_path: Path) -> None:
    """The bundled model in 8 bits, and the same file beside a record of other factors."""
    model = longrope.load_model("nano", device="cpu")
    factors = longrope.load_factors(FACTORS).factor_sets[-1]
    for name, made in {"right": factors, "plain": replace(factors, attention_factor=1.0)}.items():
        export_gguf(model, made, tmp_path / f"{name}.gguf", dtype="q8_0")
        write_record(tmp_path / f"{name}.gguf", model.spec, 256)
    assert is_quantized(tmp_path / "right.gguf")
    [right] = verify(tmp_path / "right.gguf", ["llama.cpp"], device="cpu")
    assert right.verdict == "applied", right.findings
    [lost] = verify(tmp_path / "plain.gguf", ["llama.cpp"], reference=tmp_path / "right.gguf", device="cpu")
    assert lost.verdict == "other scaling"
    assert {finding.as_ for finding in lost.findings} == {"without its attention factor"}


def test_whole_numbers_and_folders_are_not_quantized(exported: dict[str, Path], tmp_path: Path) -> None:
    model = longrope.load_model("nano", device="cpu")
    factors = longrope.load_factors(FACTORS).factor_sets[-1]
    export_gguf(model, factors, tmp_path / "model.gguf", dtype="bf16")
    assert not is_quantized(tmp_path / "model.gguf")
    assert not is_quantized(exported["single"])
