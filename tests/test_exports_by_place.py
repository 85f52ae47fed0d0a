"""Checkpoints of layers that take a token's position for its place: MiniMax-M3's, whose indexers count keys so."""

from pathlib import Path
from unittest import mock

import families
import numpy as np
import pico
import pytest
import sweep
import torch
from transformers import AutoModelForCausalLM

from longrope.errors import ExportError
from longrope.exports import ExportReport, export_hf
from longrope.models import LanguageModel, read_tables
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors


def export(folder: Path, factor_sets: str) -> ExportReport:
    network = families.build_network("minimax_m3_vl_text")
    model = LanguageModel(network, pico.make_tokenizer(), read_tables(network.config), "m3")
    lambdas = tuple(np.linspace(1.5, 4, model.spec.num_pairs).tolist())
    factors = RescaleFactors(lambdas, 256, model.spec.fingerprint, attention_factor=1.1)
    return export_hf(model, factors, folder, settings=ExportRecipe(factor_sets=factor_sets), reopen=sweep.reopen_here)


def test_its_tokens_stand_side_by_side_when_it_is_compared(tmp_path: Path) -> None:
    report = export(tmp_path, "single")
    assert max(report.difference_short, report.difference_long) < 1e-3


def test_two_factor_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'minimax_m3_vl_text' takes positions for places"):
        export(tmp_path, "two")


def test_other_factors_are_seen_there(tmp_path: Path) -> None:
    """Where plain transformers would open the checkpoint without its scaling."""

    def unscaled(folder: Path, **_: object) -> object:
        config = families.make_config("minimax_m3_vl_text")
        return AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)

    with (
        mock.patch.object(sweep, "AutoModelForCausalLM", mock.Mock(from_pretrained=unscaled)),
        pytest.raises(ExportError, match="gives other logits than ours"),
    ):
        export(tmp_path, "single")


def test_why_positions_that_jump_are_no_way() -> None:
    """transformers' own code fails there: it counts blocks of keys by positions."""
    network = families.build_network("minimax_m3_vl_text")
    with pytest.raises((RuntimeError, IndexError)):
        network(torch.arange(1, 9)[None], position_ids=torch.arange(0, 80, 10)[None], use_cache=False)
