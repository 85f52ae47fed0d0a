"""Text parts that transformers registers under the type of the whole model alone: Emu3's and Mllama's."""

import json
from pathlib import Path
from typing import Any

import families
import pico
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from longrope.models import load_model, save_model
from longrope.models.parts import as_registered

IDS = torch.arange(1, 40)[None]


@pytest.mark.parametrize(
    ("family", "changes"),
    [pytest.param("emu3", {"vocabulary_map": {"<image>": 9}}, marks=pytest.mark.slow), ("mllama", {})],
)
def test_the_text_part_of_a_whole_model_is_loaded_and_written_as_one(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Its logits are those of the whole model for text, also when plain transformers opens what was written."""
    torch.manual_seed(0)
    whole = AutoModelForImageTextToText.from_config(families.make_config(family, **changes)).eval()
    whole.save_pretrained(tmp_path / "whole")
    pico.make_tokenizer().save_pretrained(tmp_path / "whole")
    model = load_model(tmp_path / "whole", device="cpu", dtype="float32")
    with torch.inference_mode():
        wanted = whole(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
        torch.testing.assert_close(model.network(IDS).logits, wanted, rtol=1e-4, atol=1e-4)
        save_model(model, tmp_path / "part")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "part", dtype=torch.float32).eval()
        torch.testing.assert_close(plain(IDS).logits, wanted, rtol=1e-4, atol=1e-4)
    assert json.loads((tmp_path / "part" / "config.json").read_text())["model_type"] == family
    again = load_model(tmp_path / "part", device="cpu", dtype="float32")
    with torch.inference_mode():
        torch.testing.assert_close(again.network(IDS).logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3", "blt"])
def test_other_configs_are_registered_themselves(family: str) -> None:
    config = families.make_config(family)
    assert as_registered(config) is config
