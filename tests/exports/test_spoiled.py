"""Checkpoints that are spoiled on the way are noticed when they are reopened."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import sweep
import torch
from exporting import TOKENS, TWO, get_logits, make_factors, read_config, save_by

from longrope.errors import ExportError
from longrope.exports import comparison, export_hf
from longrope.models import LanguageModel, save_model
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors

# Exports that went wrong


def corrupt_lists(rope: dict[str, Any]) -> None:
    rope["long_factor"] = [1.0, 1.0, 3.0, 4.0]


def corrupt_short_list(rope: dict[str, Any]) -> None:
    rope["short_factor"] = [1.0, 1.0, 1.0, 1.3]


def swap_lists(rope: dict[str, Any]) -> None:
    rope["short_factor"], rope["long_factor"] = rope["long_factor"], rope["short_factor"]


def spoil_long_list(rope: dict[str, Any]) -> None:
    """Every logit above the switch is not a number, and below it all is well."""
    rope["long_factor"] = [math.nan] * 4


def corrupt_attention(rope: dict[str, Any]) -> None:
    rope["attention_factor"] = 1.0


def corrupt_theta(rope: dict[str, Any]) -> None:
    rope["rope_theta"] = 1.1e4


def corrupt_switch(rope: dict[str, Any]) -> None:
    rope["original_max_position_embeddings"] = 1024


def forget(rope: dict[str, Any]) -> None:
    theta = rope["rope_theta"]
    rope.clear()
    rope.update(rope_type="default", rope_theta=theta)


@pytest.mark.parametrize(
    "corrupt",
    [
        corrupt_lists,
        corrupt_short_list,
        swap_lists,
        spoil_long_list,
        corrupt_attention,
        corrupt_theta,
        corrupt_switch,
        forget,
    ],
)
def test_corrupted_export_is_noticed(
    corrupt: Callable[[dict[str, Any]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config.json that says anything else than the factors, slightly or wholly, is not reported as a success."""
    native = save_model

    def save(model: LanguageModel, folder: Path, *_: Any) -> None:
        native(model, folder)
        config = read_config(folder)
        corrupt(config["rope_parameters"])
        (folder / "config.json").write_text(json.dumps(config))

    model = pico.make_model("llama")
    save_by(monkeypatch, save)
    with pytest.raises(ExportError, match="other logits than ours"):
        export_hf(model, make_factors(model), tmp_path, settings=TWO, reopen=sweep.reopen_here)


def test_one_chaotic_position_neither_fails_nor_blinds_the_check() -> None:
    """The difference is the 90 % quantile over the 63 positions compared: six may be anything, seven may not."""
    rng = np.random.default_rng(3)
    ours = rng.standard_normal((1, 64, 50)).astype(np.float32)
    ours /= ours.std()
    theirs = ours.copy()
    theirs[0, :, 7] += 0.001
    assert comparison.logit_difference(ours, theirs) == pytest.approx(0.001, rel=0.01)
    theirs[0, 40, 9] += 0.4  # chaotic
    theirs[0, 63] += 100  # the last position is not compared
    assert comparison.logit_difference(ours, theirs) == pytest.approx(0.001, rel=0.01)
    theirs[0, :6, 9] += 0.4
    assert comparison.logit_difference(ours, theirs) > 0.01, "seven wrong positions are no accident"
    theirs[0, 20, 0] = np.nan
    assert not comparison.logit_difference(ours, theirs) <= 1e9


@pytest.mark.parametrize(("head_dim", "window", "target"), [(8, 4096, 32_768), (64, 8192, 2**21)], ids=["32k", "2048k"])
def test_lost_factor_of_the_slowest_pair_is_noticed(
    head_dim: int, window: int, target: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair that hardly turns in the trained window, whose factor matters only far away, is looked at too."""
    native = save_model

    def save(model: LanguageModel, folder: Path, *_: Any) -> None:
        native(model, folder)
        config = read_config(folder)
        config["rope_parameters"]["long_factor"][-1] = config["rope_parameters"]["short_factor"][-1] = 1.0
        (folder / "config.json").write_text(json.dumps(config))

    model = pico.make_model("llama", rope={"rope_theta": 1e6}, max_position_embeddings=window, head_dim=head_dim)
    lambdas = (1.0,) * (head_dim // 2 - 1) + (target / window,)
    factors = RescaleFactors(lambdas, target, model.spec.fingerprint)
    save_by(monkeypatch, save)
    with pytest.raises(ExportError, match="other logits than ours"):
        export_hf(model, factors, tmp_path, reopen=sweep.reopen_here)


@pytest.mark.parametrize("factor_sets", ["single", "two"])
@pytest.mark.parametrize("window", [2**17, 2**20])
def test_long_trained_windows_are_exported(window: int, factor_sets: str, tmp_path: Path) -> None:
    """Neither the rounding of native angles far out nor a switch that lies there is taken for another model."""
    model = pico.make_model("llama", max_position_embeddings=window, head_dim=64)
    lambdas = tuple(np.linspace(1, 2, model.spec.num_pairs).tolist())
    factors = RescaleFactors(lambdas, 2 * window, model.spec.fingerprint)
    report = export_hf(
        model, factors, tmp_path, settings=ExportRecipe(factor_sets=factor_sets), reopen=sweep.reopen_here
    )
    assert max(report.difference_short, report.difference_long) < 0.02
    assert (report.switch_tokens, report.target_window) == (window, 2 * window)


def test_corrupted_weights_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were lost on the way (here: one layer's) are noticed too."""
    native = save_model

    def save(model: LanguageModel, folder: Path, *_: Any) -> None:
        other = pico.make_model("llama")
        other.network.config.rope_parameters = model.network.config.rope_parameters
        other.network.model.layers[1].self_attn.q_proj.weight.mul_(0.5)
        native(other, folder)

    save_by(monkeypatch, save)
    model = pico.make_model("llama")
    with pytest.raises(ExportError, match="other logits than ours"):
        export_hf(model, make_factors(model), tmp_path, reopen=sweep.reopen_here)


def test_failed_save_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle of saving does not leave the exported config in memory."""
    model = pico.make_model("llama")
    before, config = get_logits(model.network, TOKENS), model.network.config.to_dict()

    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    save_by(monkeypatch, fail)
    with pytest.raises(ExportError, match="No space"):
        export_hf(model, make_factors(model), tmp_path)
    assert model.network.config.to_dict() == config
    assert torch.equal(get_logits(model.network, TOKENS), before)
