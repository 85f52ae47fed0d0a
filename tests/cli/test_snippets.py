"""``longrope export RUN --to snippet`` of a run with a checkpoint."""

import json
from pathlib import Path

import pico
import pytest
from commands import Command
from transformers import AutoConfig

from longrope.recipe import Recipe, Stage
from longrope.runs.run_dir import RunDir


def finished(path: Path, model: str, stages: tuple[Stage, ...] = ()) -> RunDir:
    """A run directory that holds what is read of it."""
    run = RunDir(path)
    run.bind(Recipe(model, 512, ("books",), stages=stages))
    run.checkpoint.mkdir()
    lists = {"rope_type": "longrope", "long_factor": [1.0, 2.5]}
    (run.checkpoint / "config.json").write_text(json.dumps({"rope_parameters": lists, "max_position_embeddings": 512}))
    run.export_report.write_text("{}")
    return run


def test_settings_of_a_run_are_printed(command: Command, tmp_path: Path) -> None:
    base = pico.save_pico(tmp_path / "base")
    result = command("export", finished(tmp_path / "run", str(base)).path, "--to", "snippet")
    assert result.code == 0, result.err
    assert f"from_pretrained('{base}')" in result.out
    assert "[1.0, 2.5]" in result.out


@pytest.mark.parametrize("kind", ["text and images", "adapter"])
def test_settings_that_would_not_act_are_not_printed(kind: str, command: Command, tmp_path: Path) -> None:
    """At the top of the config of a model of text and images nothing reads them."""
    base = tmp_path / "base"
    if kind == "adapter":
        base.mkdir()
        (base / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "nano"}))
        (base / "adapter_model.safetensors").touch()
    else:
        AutoConfig.for_model("gemma3", text_config=pico.BASE).save_pretrained(base)
    result = command("export", finished(tmp_path / "run", str(base)).path, "--to", "snippet")
    assert (result.code, result.out) == (2, "")
    assert f"{base} is a GGUF file, an adapter, or a model of text and images" in result.err


def test_the_bundled_model_is_named_by_its_folder(command: Command, tmp_path: Path) -> None:
    """transformers does not know it by its name."""
    result = command("export", finished(tmp_path / "run", "nano").path, "--to", "snippet")
    (named,) = {line.split("'")[1] for line in result.out.splitlines() if "AutoConfig.from_pretrained" in line}
    assert (Path(named) / "config.json").is_file()


def test_tuned_weights_are_not_left_out_without_a_word(command: Command, tmp_path: Path) -> None:
    run = finished(tmp_path / "run", "owner/name", (Stage(search=512), Stage(tune=512)))
    result = command("export", run.path, "--to", "snippet")
    assert result.code == 2
    assert f"weights of {run.path} were tuned" in result.err
    assert f"the folder {run.checkpoint}" in result.err
