"""A model that is larger than the memory is refused from its config, before its weights are read."""

from pathlib import Path

import pico
import pytest
import torch

from longrope.errors import ModelError
from longrope.models import load_model
from longrope.models.fitting import check_fits


def test_the_weights_are_counted_without_them() -> None:
    network = pico.make_network()
    size = sum(weight.nbytes for weight in network.parameters())
    check_fits("pico", network.config, torch.float32, "cpu", free=size)
    with pytest.raises(ModelError) as caught:
        check_fits("pico", network.config, torch.float32, "cpu", free=size - 1)
    assert f"The {size // 4:,} weights of 'pico'" in caught.value.found
    assert caught.value.remedy.startswith("Take --dtype bfloat16 (0.0 GiB), or take a smaller model")
    with pytest.raises(ModelError) as caught:
        check_fits("pico", network.config, torch.float32, "cpu", free=size // 2 - 1)
    assert caught.value.remedy == "Take a smaller model, or a machine with more memory."


def test_a_model_of_a_hundred_billion_weights_is_refused_in_a_second(pico_folder: Path, tmp_path: Path) -> None:
    """Its files hold the weights of another one: they are not looked at."""
    for file in pico_folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    config = pico.make_config(hidden_size=16384, intermediate_size=65536, num_attention_heads=128, num_hidden_layers=64)
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="GiB in float32") as caught:
        load_model(tmp_path, device="cpu")
    assert caught.value.needed.startswith("They must fit into the ")
