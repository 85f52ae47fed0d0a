"""A pico Llama with another theta than the usual one, exported in both layouts, with the record of its RoPE."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pico
import pytest
import sweep

from longrope.exports import export_hf
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors
from longrope.verification.truth import write_record

LAMBDAS = (1.0, 1.5, 2.5, 4.0)


def export_pico(folder: Path, factor_sets: str) -> None:
    model = pico.make_model("llama", rope_theta=5e5)
    factors = RescaleFactors(LAMBDAS, 256, model.spec.fingerprint, attention_factor=1.25)
    export_hf(model, factors, folder, settings=ExportRecipe(factor_sets=factor_sets), reopen=sweep.reopen_here)
    write_record(folder, model.spec, pico.WINDOW)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of each layout; read them only."""
    folders = {name: tmp_path_factory.mktemp("verified") / name for name in ("single", "two")}
    for name, folder in folders.items():
        export_pico(folder, name)
    return folders


@pytest.fixture
def copied(exported: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Makes a copy of a layout that may be changed."""

    def copy(layout: str) -> Path:
        return Path(shutil.copytree(exported[layout], tmp_path / f"copy-{layout}"))

    return copy
