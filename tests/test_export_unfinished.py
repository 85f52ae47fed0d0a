"""An export that fails leaves nothing behind, and one that succeeds removes nothing but what it replaces."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pico
import pytest
import sweep

from longrope.errors import ExportError, RunError
from longrope.exports import export_hf
from longrope.exports.comparison import Arrays
from longrope.models import LanguageModel
from longrope.rope import RescaleFactors
from longrope.runs.files import replacing_folder


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return pico.make_model("llama")


def export(
    model: LanguageModel, folder: Path, reopen: Callable[[Path, str, Arrays], Arrays] = sweep.reopen_here
) -> None:
    factors = RescaleFactors((1.0, 1.5, 3.0, 4.0), 256, model.spec.fingerprint, attention_factor=1.2)
    export_hf(model, factors, folder, reopen=reopen)


def reopen_wrongly(folder: Path, device: str, probe: Arrays) -> Arrays:
    """The logits of the folder, with noise."""
    right = sweep.reopen_here(folder, device, probe)
    rng = np.random.default_rng(0)
    return {side: logits + rng.normal(size=logits.shape).astype("f4") for side, logits in right.items()}


@pytest.mark.parametrize("there_before", [False, True])
def test_a_checkpoint_that_fails_its_check_is_removed(there_before: bool, model: LanguageModel, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "hf"
    if there_before:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"rope_type": "longrope"}')
    with pytest.raises(ExportError, match=f"The checkpoint for {folder} gives other logits"):
        export(model, folder, reopen_wrongly)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["config.json"] * there_before
    assert not there_before or (folder / "config.json").read_text() == '{"rope_type": "longrope"}'


def test_other_files_stay(model: LanguageModel, tmp_path: Path) -> None:
    """What the export writes takes the place of what has its name."""
    (tmp_path / "hf").mkdir()
    for name in ("README.md", "notes.txt"):
        (tmp_path / "hf" / name).write_text("before")
    export(model, tmp_path / "hf")
    assert (tmp_path / "hf" / "notes.txt").read_text() == "before"
    assert "longrope" in (tmp_path / "hf" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(model: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")
    with pytest.raises(ExportError, match="cannot be written"):
        export(model, tmp_path / "file" / "hf")


def test_a_folder_of_a_run_that_fails_is_removed(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "old").touch()
    with pytest.raises(RunError, match="No such file"), replacing_folder(tmp_path / "hf") as folder:
        folder.joinpath("new").rename(folder / "absent" / "new")
    assert [path.name for path in tmp_path.rglob("*")] == ["hf", "old"]
