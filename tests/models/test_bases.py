"""An adapter and trained weights find their base from any folder, and are refused on another one."""

import json
import os
import shutil
from pathlib import Path

import pico
import pytest
import torch
from rotary_oracles import get_logits

from longrope.errors import ModelError
from longrope.models import load_config, load_model, save_model
from longrope.recipe import TuneRecipe
from longrope.tuning.adapters import adapted

KINDS = {"adapter": TuneRecipe(lora_rank=2), "trained weights": TuneRecipe(parameters=("*.q_proj.*",))}

CONFIGS = {"adapter": "adapter_config.json", "trained weights": "trained_weights.json"}


def train(settings: TuneRecipe, base: str, folder: Path) -> torch.Tensor:
    """Change what is trained of a base, by hand, and leave it in a folder; the logits of the changed model."""
    network = load_model(base, device="cpu").network
    with adapted(network, settings, 0, folder, base) as weights, torch.no_grad():
        for weight in weights.values():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return get_logits(network)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, which is the current one."""
    pico.save_pico(tmp_path / "project" / "models" / "base")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_is_found_from_another_folder(kind: str, project: Path) -> None:
    wanted = train(KINDS[kind], "models/base", project / "own")
    for place in ("elsewhere", "project"):
        (project / place).mkdir(exist_ok=True)
        os.chdir(project / place)
        model = load_model(project / "own", device="cpu", dtype="float32")
        torch.testing.assert_close(get_logits(model.network), wanted, rtol=1e-4, atol=1e-5)
    shutil.move(project / "project", project / "moved")
    os.chdir(project / "moved")
    again = load_model(project / "own", device="cpu", dtype="float32")
    torch.testing.assert_close(get_logits(again.network), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_another_model_in_the_place_of_the_base_is_refused(kind: str, project: Path) -> None:
    train(KINDS[kind], "models/base", project / "own")
    other = load_model("models/base", device="cpu")
    with torch.no_grad():
        other.network.model.layers[0].mlp.up_proj.weight.mul_(2)
    save_model(other, project / "elsewhere" / "models" / "base")
    os.chdir(project / "elsewhere")
    with pytest.raises(ModelError, match="other weights"):
        load_model(project / "own", device="cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_folder_says_where_its_base_is_written_down(kind: str, project: Path) -> None:
    """And opens as before when that is done."""
    wanted = train(KINDS[kind], "models/base", project / "own")
    for former in (project / "project", project / "own"):
        shutil.move(former, project / "moved" / former.name)
    (own, base), config = (project / "moved" / part for part in ("own", "project/models/base")), CONFIGS[kind]
    os.chdir(project)
    for act in (load_model, load_config):
        with pytest.raises(ModelError) as error:
            act(own)
        assert error.value.found == (
            f"The base of {str(own)!r} is not here: it was trained on 'models/base', which was "
            f"{project / 'project' / 'models' / 'base'}."
        )
        assert error.value.remedy == f"Write its folder or hub name as base_model_name_or_path into {own / config}."
    stated = json.loads((own / config).read_text())
    (own / config).write_text(json.dumps({**stated, "base_model_name_or_path": str(base)}))
    torch.testing.assert_close(get_logits(load_model(own, device="cpu", dtype="float32").network), wanted)


def test_a_base_whose_numbers_cannot_be_compared_is_taken(project: Path) -> None:
    """Of weights that are quantized while loading, some keep a number format in which they could be."""
    train(KINDS["adapter"], "models/base", project / "own")
    assert load_model(project / "own", device="cpu", dtype="8bit").quantized == "8bit"


def test_the_adapter_of_a_second_training_is_not_put_over_the_first_base(project: Path) -> None:
    """Its base has the adapter of the first one, which its folder does not hold."""
    network = load_model("models/base", device="cpu").network
    for folder in ("first", "second"):
        with adapted(network, KINDS["adapter"], 0, project / folder, "models/base") as weights, torch.no_grad():
            for weight in weights.values():
                weight.add_(0.05)
    load_model(project / "first", device="cpu")
    with pytest.raises(ModelError, match="or give the exported checkpoint of the run"):
        load_model(project / "second", device="cpu")
