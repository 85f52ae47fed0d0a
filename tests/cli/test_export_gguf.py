"""``longrope export --to gguf``: of a run, and of a model with factors, without a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pico
import pytest
from commands import Command
from gguf import GGUFReader

from longrope.models import load_model, read_spec
from longrope.recipe import dump_recipe, load_recipe
from longrope.rope import FactorTable, RescaleFactors, dump_factors
from longrope.runs.run_dir import RunDir

pytestmark = pytest.mark.usefixtures("unopened")
LAMBDAS = (1.0, 1.5, 3.0, 4.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return pico.save_gguf(tmp_path / "source.gguf", pico.make_network("llama"))


@pytest.fixture
def factors(tmp_path: Path) -> RescaleFactors:
    made = RescaleFactors(LAMBDAS, 256, read_spec(pico.make_network().config).fingerprint)
    (tmp_path / "factors.json").write_text(dump_factors(made))
    return made


def kinds(path: str | Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


def test_a_gguf_file_is_patched(command: Command, source: Path, factors: RescaleFactors, tmp_path: Path) -> None:
    """Without a run; the longest of several factor sets is taken."""
    table = FactorTable((replace(factors, lambdas=(1.0,) * 4, target_window=128), factors))
    (tmp_path / "table.json").write_text(dump_factors(table))
    given = ("export", "--model", source, "--factors", tmp_path / "table.json", "--to", "gguf", "--out", "new/x.gguf")
    result = command(*given, "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["source"], report["layout"], report["target_window"]) == ("source.gguf", "static", 256)
    assert kinds("new/x.gguf") == kinds(source) | {"rope_freqs.weight": "F32"}
    assert command(*given, "--layout", "longrope").out == "checkpoint: new/x.gguf\n"
    assert {"rope_factors_long.weight", "rope_factors_short.weight"} < set(kinds("new/x.gguf"))
    native = load_model("new/x.gguf", device="cpu").spec.native
    assert native
    assert native.lambdas == LAMBDAS


@pytest.mark.usefixtures("unopened")
def test_weights_are_written_anew_where_a_number_format_is_asked_for(
    command: Command, source: Path, factors: RescaleFactors, pico_folder: Path, tmp_path: Path
) -> None:
    """Of a GGUF file, and of a folder, which has no other way; a folder is written of either."""
    for model in (source, pico_folder):
        given = ("export", "--model", model, "--factors", tmp_path / "factors.json", "--out")
        result = command(*given, "x.gguf", "--to", "gguf", "--dtype", "q8_0", "--json")
        assert result.code == 0, result.err
        assert json.loads(result.out)["difference_long"] < 0.01
        assert kinds("x.gguf")["blk.0.attn_q.weight"] == "Q8_0"
    result = command(*given, "folder", "--dtype", "f16")
    assert result.code == 0, result.err
    config = json.loads(Path("folder/config.json").read_text())
    assert config["rope_parameters"]["long_factor"] == list(factors.lambdas)
    assert config["dtype"] == "float16"


def make_run(path: Path, model: Path, recipe_file: Path, factors: RescaleFactors) -> RunDir:
    """A run that has its factors."""
    run = RunDir(path)
    recipe = load_recipe(recipe_file)
    run.write_text(run.path / "recipe.toml", dump_recipe(replace(recipe, model=str(model), dtype="bfloat16")))
    run.write_factors(factors)
    return run


def test_a_run_of_a_gguf_file_patches_it(
    command: Command, source: Path, factors: RescaleFactors, recipe_file: Path
) -> None:
    """Although the run dequantized it to bfloat16; with --dtype these weights are written."""
    make_run(Path("run"), source, recipe_file, factors)
    result = command("export", "run", "--to", "gguf", "--json")
    assert result.code == 0, result.err
    report = json.loads(Path("run/gguf/export.json").read_text())
    assert report == json.loads(result.out)
    assert report["source"] == "source.gguf"
    before, after = GGUFReader(source), GGUFReader("run/gguf/model.gguf")
    for old, new in zip(before.tensors, after.tensors, strict=False):
        assert (old.name, old.data.tobytes()) == (new.name, new.data.tobytes())
    assert [tensor.name for tensor in after.tensors[len(before.tensors) :]] == ["rope_freqs.weight"]
    assert command("export", "run", "--to", "gguf", "--dtype", "bf16").code == 0
    assert kinds("run/gguf/model.gguf")["blk.0.attn_q.weight"] == "BF16"


def test_start_tokens_of_a_run_are_dropped_from_a_patched_file(
    command: Command, source: Path, factors: RescaleFactors, recipe_file: Path
) -> None:
    """The change of the loss is measured on the run's texts, as of every export."""
    make_run(Path("run"), source, recipe_file, replace(factors, start_tokens=16))
    assert "start tokens" in command("export", "run", "--to", "gguf").err
    assert not list(Path("run").glob("gguf*/*.gguf"))
    result = command("export", "run", "--to", "gguf", "--drop-start-tokens", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["source"], report["start_tokens_dropped"]) == ("source.gguf", 16)
    assert np.isfinite(report["loss_change_nats"])
    assert report["loss_change_nats"] != 0
