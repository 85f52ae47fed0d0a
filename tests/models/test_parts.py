"""Of a model of text and images the text part is loaded, and it is said."""

from pathlib import Path
from typing import Any

import pico
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from longrope.errors import ModelError
from longrope.models import load_config, load_model

VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**VISION, "image_size": 28, "patch_size": 14}
TYPES = ["sliding_attention", "full_attention"]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gemma3": (
        {"head_dim": 16, "sliding_window": 32, "layer_types": TYPES},
        {"model_type": "siglip_vision_model", **VISION},
    ),
    "mistral3": ({"model_type": "mistral", "head_dim": 8}, {"model_type": "pixtral", **VISION}),
    "llava": ({"model_type": "llama"}, {"model_type": "clip_vision_model", "projection_dim": 16, **VISION}),
}


def save(folder: Path, family: str) -> Any:
    """A random model of text and images on the disk."""
    text, vision = CASES[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, text_config={**pico.BASE, **text}, vision_config=vision)
    whole = AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(folder)
    pico.make_tokenizer().save_pretrained(folder)
    return whole


@pytest.mark.parametrize("family", CASES)
def test_text_part_is_loaded(family: str, tmp_path: Path) -> None:
    """Its logits are those of the whole model for text, no weight is random, and the choice is said."""
    whole = save(tmp_path, family)
    model = load_model(tmp_path, device="cpu")
    ids = torch.arange(1, 40)[None]
    with torch.inference_mode():
        expected = whole(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.allclose(model.network(ids).logits, expected, atol=1e-5)
    assert f"the text part of the {family} model alone" in model.choices
    assert load_config(tmp_path).model_type == model.network.config.model_type != family


def test_a_text_part_with_a_missing_weight_is_refused(tmp_path: Path) -> None:
    """Weights of other parts are passed over, those of the text part are not."""
    whole = save(tmp_path, "llava")
    weights = {name: value for name, value in whole.state_dict().items() if "layers.1.mlp.up_proj" not in name}
    whole.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ModelError, match="missing"):
        load_model(tmp_path, device="cpu")
