"""PhiMoE states an attention factor for each of its lists: read as its own module applies them, or refused by name."""

from typing import Any

import pico
import pytest
import torch
from rotary_oracles import gap

from longrope.errors import ModelError
from longrope.models import LanguageModel, rescaled
from longrope.rope import RescaleFactors

FACTORS = [1.0, 2.0, 5.0, 8.0]
LISTS: dict[str, Any] = {"rope_type": "longrope", "short_factor": FACTORS, "long_factor": FACTORS}
LISTS = {**LISTS, "original_max_position_embeddings": 64}
CHANGES: dict[str, Any] = {"max_position_embeddings": 256, "num_local_experts": 2}


def make(**changes: Any) -> LanguageModel:
    return pico.make_model("phimoe", rope={**LISTS, "short_mscale": 1.24, "long_mscale": 1.24, **changes}, **CHANGES)


@pytest.mark.parametrize("stated", [{}, {"attention_factor": 1.1}], ids=["alone", "beside another"])
def test_the_mscales_are_the_attention_factor(stated: dict[str, Any]) -> None:
    model = make(**stated)
    assert model.spec.attention_factor == 1.24
    near = RescaleFactors((1 + 1e-9,) * 4, 256, model.spec.fingerprint)
    for tokens in (48, 100):
        ids = (torch.arange(tokens) * 37 % 320)[None]
        with torch.inference_mode():
            before = model.network(ids, use_cache=False).logits
            with rescaled(model, near):
                assert gap(model.network(ids, use_cache=False).logits, before) < 1e-3


def test_two_different_ones_are_refused() -> None:
    with pytest.raises(ModelError, match=r"short_mscale = 1.1 and long_mscale = 1.24"):
        make(short_mscale=1.1)
