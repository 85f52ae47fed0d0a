"""What a folder holds for mlx-lm: a config that it refuses, and a file with which it derives our attention factor."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pico
import pytest
import sweep

from longrope.exports import export_hf
from longrope.exports.mlx import FILE
from longrope.models import load_model
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors


def export(folder: Path, family: str, attention: float, sets: str = "single") -> dict[str, Any]:
    """The content of the config.json of a pico model that was exported."""
    model = pico.make_model(family)
    factors = RescaleFactors((2.0,) * model.spec.num_pairs, 256, model.spec.fingerprint, attention_factor=attention)
    export_hf(model, factors, folder, settings=ExportRecipe(factor_sets=sets), reopen=sweep.reopen_here)
    return dict(json.loads((folder / "config.json").read_text()))


def run_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("custom_model", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class PlainArgs:
    """In the place of the class in mlx-lm that takes a config's content; it returns what it was given."""

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> dict[str, Any]:
        return params


@pytest.mark.parametrize(
    ("family", "sets", "module", "place"),
    [
        ("llama", "two", "llama", "rope_scaling"),
        ("mistral", "two", "llama", "rope_scaling"),
        ("phi3", "single", "phi3", ""),
    ],
)
def test_the_file_gives_the_window_that_yields_the_attention_factor(
    family: str, sets: str, module: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By mlx-lm's own formula, sqrt(1 + ln(W / L) / ln L); all else of the config stays."""
    config = export(tmp_path, family, 1.2, sets)
    assert config["model_file"] == FILE
    stand_in = SimpleNamespace(Model=object, ModelArgs=PlainArgs)
    monkeypatch.setitem(sys.modules, f"mlx_lm.models.{module}", stand_in)
    for parent in ("mlx_lm", "mlx_lm.models"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    given = run_file(tmp_path / FILE).ModelArgs.from_dict(config)
    stated = given[place] if place else given
    original = stated.pop("original_max_position_embeddings")
    assert math.sqrt(1 + math.log(256 / original) / math.log(original)) == pytest.approx(1.2, rel=2e-3)
    (config[place] if place else config).pop("original_max_position_embeddings")
    assert given == config


@pytest.mark.parametrize(("family", "attention"), [("gemma2", 1.2), ("llama", 0.9)])
def test_the_file_says_why_mlx_cannot_run_it(family: str, attention: float, tmp_path: Path) -> None:
    assert export(tmp_path, family, attention)["model_file"] == FILE
    with pytest.raises(ImportError, match="mlx-lm"):
        run_file(tmp_path / FILE)


def test_a_folder_that_mlx_runs_rightly_has_none_of_it(tmp_path: Path) -> None:
    """Nor one that was made of a folder with it."""
    assert "model_file" not in export(tmp_path / "right", "llama", 1.2)
    assert not (tmp_path / "right" / FILE).exists()
    export(tmp_path / "two", "llama", 1.2, "two")
    pico.make_tokenizer().save_pretrained(tmp_path / "two")
    again = load_model(tmp_path / "two", device="cpu")
    factors = RescaleFactors((1.5,) * again.spec.num_pairs, 512, again.spec.fingerprint)
    export_hf(again, factors, tmp_path / "again", reopen=sweep.reopen_here)
    assert "model_file" not in json.loads((tmp_path / "again" / "config.json").read_text())


def test_the_file_of_another_stays(tmp_path: Path) -> None:
    """mlx-lm refuses such a folder as it is."""
    model = pico.make_model("llama")
    model.network.config.model_file = "theirs.py"
    factors = RescaleFactors((2.0,) * model.spec.num_pairs, 256, model.spec.fingerprint, attention_factor=1.2)
    export_hf(model, factors, tmp_path, settings=ExportRecipe(factor_sets="two"), reopen=sweep.reopen_here)
    assert json.loads((tmp_path / "config.json").read_text())["model_file"] == "theirs.py"
    assert not (tmp_path / FILE).exists()
