"""Exports of a model, outside of any run: what is to be applied is written down beside them, too."""

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pico
import pytest
import sweep
from verifying import run_here

from longrope.checksums import record_path
from longrope.errors import FactorsError
from longrope.exports import hf
from longrope.models import load_model, read_gguf_file, read_gguf_spec
from longrope.pipeline import export_model, exporting
from longrope.recipe import ExportRecipe
from longrope.rope import RescaleFactors, RopeSpec
from longrope.verification.checking import verify
from longrope.verification.exported import verify_export

LAMBDAS = (1.0, 1.5, 2.5, 4.0)


def make_factors(spec: RopeSpec) -> RescaleFactors:
    return RescaleFactors(LAMBDAS, 256, spec.fingerprint, attention_factor=1.25)


def export(
    source: Path, spec: RopeSpec, path: Path, to: str, loading: dict[str, Any] | None = None, **options: str
) -> None:
    """Reopened in this process, and opened in no client."""
    with (
        mock.patch.object(hf, "reopen_alone", sweep.reopen_here),
        mock.patch.object(exporting, "verify_export", partial(verify_export, clients=[])),
    ):
        export_model(str(source), make_factors(spec), path, ExportRecipe(), to=to, options=options, loading=loading)


@pytest.fixture
def base(tmp_path: Path) -> tuple[Path, RopeSpec]:
    return pico.save_pico(tmp_path / "base", rope_theta=5e5), pico.make_model("llama", rope_theta=5e5).spec


def test_a_folder_that_was_changed_since_is_found(base: tuple[Path, RopeSpec], tmp_path: Path) -> None:
    """With its own config for the truth it would be right."""
    export(*base, tmp_path / "hf", "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    for scaling in (config["rope_parameters"], config["rope_scaling"]):
        scaling["long_factor"] = scaling["short_factor"] = [4.0, 2.5, 1.5, 1.0]
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    [done] = verify(tmp_path / "hf", ["transformers"], run=run_here, device="cpu")
    assert (done.verdict, done.findings[-1].as_) == ("other scaling", "its factors in reverse order")


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_model_is_exported_with_the_window_that_its_search_was_told(to: str, tmp_path: Path) -> None:
    """The factors belong to that geometry; a file is patched for it, and takes the long list where it ends."""
    if to == "gguf":
        source, path = pico.save_gguf(tmp_path / "base.gguf", pico.make_network("llama")), tmp_path / "new.gguf"
    else:
        source, path = pico.save_pico(tmp_path / "base"), tmp_path / "hf"
    spec = load_model(source, device="cpu", trained_window=128).spec
    with pytest.raises(FactorsError, match="with --trained-window and --rope-table as in their search"):
        export(source, spec, path, to)
    export(source, spec, path, to, loading={"trained_window": 128})
    assert json.loads(record_path(path).read_text())["original"]["trained_window"] == 128


@pytest.mark.parametrize("patched", [True, False], ids=["patched", "written"])
def test_a_file_has_the_record_of_its_scaling(patched: bool, base: tuple[Path, RopeSpec], tmp_path: Path) -> None:
    """A patched one, whose weights are not loaded, as well as one of weights."""
    source, spec = base
    if patched:
        source = pico.save_gguf(tmp_path / "base.gguf", pico.make_network("llama", rope_theta=5e5))
        spec = read_gguf_spec(read_gguf_file(source))
    export(source, spec, tmp_path / "x.gguf", "gguf")
    record = json.loads(record_path(tmp_path / "x.gguf").read_text())
    assert record["stated"]["native"]["lambdas"] == pytest.approx(LAMBDAS)
    assert record["stated"]["native"]["attention_factor"] == pytest.approx(1.25)
    assert record["stated"]["theta"] == record["original"]["theta"] == 5e5
    assert (record["original"]["native"], record["switch_tokens"]) == (None, 64)
