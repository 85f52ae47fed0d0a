"""Gemma-4's checkpoints: its head dimension, against which transformers checks longrope's lists, differs by layer."""

from pathlib import Path

import families
import numpy as np
import pico
import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM

from longrope.exports import export_hf
from longrope.models import LanguageModel, load_model, read_tables, rescaled
from longrope.rope import RescaleFactors

LOADS_AGAIN = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 20)  # long factors do not run before
TOKENS = torch.randint(1, families.VOCABULARY, (1, 40), generator=torch.Generator().manual_seed(3))


def make_model(family: str) -> LanguageModel:
    network = families.build_network(family)
    return LanguageModel(network, pico.make_tokenizer(), read_tables(network.config), family)


def make_factors(model: LanguageModel) -> RescaleFactors:
    lambdas = tuple(np.linspace(1.5, 4, model.spec.num_pairs).tolist())
    return RescaleFactors(lambdas, 256, model.spec.fingerprint, attention_factor=1.1)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma4_text", "gemma4_unified_text"])
def test_plain_transformers_gives_the_same_logits_in_one_pass_and_from_its_cache(family: str, tmp_path: Path) -> None:
    """The global layers have the factors, the sliding ones stay; what the config allows changes no cache."""
    model = make_model(family)
    factors, before = make_factors(model), model.network.config.to_dict()
    report = export_hf(model, factors, tmp_path)
    assert max(report.difference_short, report.difference_long) < 1e-3
    assert {**model.network.config.to_dict(), "architectures": None} == {
        **before,
        "allow_global_per_layer_attribute_access": False,
    }
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert [each.head_dim for each in plain.config.per_layer_config] == [16, 512]
    with torch.inference_mode(), rescaled(model, factors):
        ours = model.network(TOKENS, use_cache=False).logits
        torch.testing.assert_close(plain(TOKENS, use_cache=False).logits, ours, rtol=1e-3, atol=1e-3)
        given = {
            "attention_mask": torch.ones_like(TOKENS),
            "max_new_tokens": 12,
            "do_sample": False,
            "eos_token_id": None,
        }
        with_cache, without = (plain.generate(TOKENS, use_cache=cached, **given) for cached in (True, False))
    assert torch.equal(with_cache, without)
    if LOADS_AGAIN:
        assert_loaded_again(tmp_path, model, factors, ours)


def assert_loaded_again(folder: Path, model: LanguageModel, factors: RescaleFactors, ours: Tensor) -> None:
    """The checkpoint has the scaling that was exported."""
    again = load_model(folder, device="cpu", dtype="float32")
    assert again.table.name == model.table.name
    wanted = model.spec.plain_frequencies / (model.spec.lambdas_at(256) * factors.lambdas)
    np.testing.assert_allclose(again.spec.frequencies_at(256)[: len(wanted)], wanted, rtol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(again.network(TOKENS, use_cache=False).logits, ours, rtol=1e-3, atol=1e-3)
