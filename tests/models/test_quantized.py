"""Weights of 8 and 4 bits: where they are refused, and what transformers is asked for. No GPU is needed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pico
import pytest
import torch

from longrope.data import TokenText
from longrope.errors import ModelError
from longrope.exports import export_hf
from longrope.models import load_model
from longrope.models.quantized import QUANTIZED, check_quantized, quantization_of
from longrope.rope import baseline_factors
from longrope.tuning import fine_tune

TEXT = TokenText(np.arange(2000, dtype=np.int32) % 300, "tune")


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_cpu_is_refused_before_weights_are_read(name: str, pico_folder: Path) -> None:
    with pytest.raises(ModelError, match="need a GPU with CUDA") as caught:
        load_model(pico_folder, device="cpu", dtype=name)
    assert f"{name!r} was asked for on a CPU" in str(caught.value)
    assert "Leave --dtype out" in caught.value.remedy


def test_gguf_and_a_missing_library_are_refused() -> None:
    with pytest.raises(ModelError, match="dequantized while they are loaded"):
        check_quantized("4bit", "cuda", is_gguf=True)
    check_quantized("bfloat16", "cpu", is_gguf=True)


def test_what_transformers_is_asked_for() -> None:
    """By its own class: products in the number format of the rest."""
    eight, four = (quantization_of(name, torch.bfloat16) for name in ("8bit", "4bit"))
    assert (eight.load_in_8bit, eight.load_in_4bit) == (True, False)
    assert (four.load_in_8bit, four.load_in_4bit) == (False, True)
    assert four.bnb_4bit_quant_type == "nf4"
    assert four.bnb_4bit_compute_dtype is torch.bfloat16
    assert quantization_of("bfloat16", torch.bfloat16) is None


def test_a_quantized_model_is_neither_trained_nor_exported(tmp_path: Path) -> None:
    model = replace(pico.make_model(), quantized="4bit")
    factors = baseline_factors(model.spec, "yarn", 4 * model.spec.trained_window).factor_sets[0]
    with pytest.raises(ModelError, match="A training needs the weights"):
        fine_tune(model, factors, TEXT)
    with pytest.raises(ModelError, match="An export needs the weights"):
        export_hf(model, factors, tmp_path / "out")
    assert not (tmp_path / "out").exists()
