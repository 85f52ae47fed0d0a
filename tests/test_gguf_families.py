"""Exports to GGUF are refused in our words for families that it is not written of, whatever their configs lack."""

from pathlib import Path
from typing import Any

import pico
import pytest

from longrope.errors import ExportError
from longrope.exports import export_gguf
from longrope.rope import RescaleFactors

OTHERS: dict[str, dict[str, Any]] = {
    "gemma2": {},
    "qwen3": {},
    "olmo2": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}


@pytest.mark.parametrize("family", OTHERS)
def test_another_family_is_refused_by_its_type(family: str, tmp_path: Path) -> None:
    """The configs of Gemma-2 and LFM2 have no hidden_act."""
    model = pico.make_model(family, **OTHERS[family])
    factors = RescaleFactors((2.0,) * model.spec.num_pairs, 128, model.spec.fingerprint)
    with pytest.raises(ExportError, match=f"model type is '{family}'"):
        export_gguf(model, factors, tmp_path / "x.gguf")
    assert not list(tmp_path.iterdir())
