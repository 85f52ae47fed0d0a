"""A library that some of the texts need and that is missing is named before anything is loaded or read."""

import sys
from pathlib import Path

import pytest

from longrope.data import check_sources
from longrope.errors import TextsError
from longrope.pipeline.callbacks import Callbacks
from longrope.pipeline.session import load_inputs
from longrope.recipe import Recipe


@pytest.mark.parametrize(
    ("name", "library"), [("a.parquet", "pyarrow"), ("A.PARQUET", "pyarrow"), ("a.jsonl.zst", "pyarrow")]
)
def test_a_file_inside_a_folder_names_the_extra(
    name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).touch()
    (tmp_path / "b.jsonl").touch()
    check_sources([tmp_path])
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TextsError, match=rf"{name} needs the package {library}") as caught:
        check_sources([tmp_path])
    assert caught.value.remedy == "pip install 'longrope[data]'"
    (tmp_path / name).unlink()
    check_sources([tmp_path])


def test_a_data_set_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TextsError, match="hf:emozilla/pg19:test needs the package datasets"):
        check_sources(["hf:emozilla/pg19:test"])


def test_it_is_said_before_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    steps = list[str]()
    with pytest.raises(TextsError, match="pyarrow"):
        load_inputs(Recipe("no-model", 512, (str(tmp_path),)), Callbacks(on_step=steps.append))
    assert steps == []
