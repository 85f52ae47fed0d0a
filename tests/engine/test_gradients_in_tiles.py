"""Gradients over windows of more than a tile: the loss that one tile gives, in families whose modules are unusual."""

import json
from pathlib import Path

import families
import numpy as np
import pico
import pytest
import torch
from torch.nn import functional

from longrope.engine.gradients import factor_gradient
from longrope.engine.passes import token_losses
from longrope.models import LanguageModel, load_model, read_tables
from longrope.rope import RescaleFactors

TOKENS = np.random.default_rng(0).integers(1, 300, (1, 400))


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt_oss", {}),  # whose MLP gives its router's scores, too
        ("axk2", {}),  # which has norms within norms
        ("stablelm", {"qk_layernorm": True}),
        ("gemma3n_text", {}),  # whose last layers read keys of earlier ones
    ],
)
def test_loss_and_gradient_are_those_of_one_tile(family: str, changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = families.build_network(family, **changes)
    model = LanguageModel(network, None, read_tables(network.config), family)
    factors = RescaleFactors((2.0,) * model.spec.num_pairs, 2048, model.spec.fingerprint)
    weights = np.full((1, 399), 1 / 399)
    loss, by_lambda, by_attention = factor_gradient(model, factors, TOKENS, weights)
    model.limits.tile_tokens = 256
    tiled = factor_gradient(model, factors, TOKENS, weights)
    assert tiled[0] == pytest.approx(loss, rel=1e-5)
    assert tiled[1] == pytest.approx(by_lambda, rel=1e-2, abs=1e-5)
    assert tiled[2] == pytest.approx(by_attention, rel=1e-2, abs=1e-5)


def test_a_window_that_the_mask_does_not_have_is_not_read(tmp_path: Path) -> None:
    """OLMoE hands sliding_window of its config on to attention, and makes a mask without a window."""
    families.build_network("olmoe").save_pretrained(tmp_path)
    pico.make_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "sliding_window": 8}))
    model, tokens = load_model(tmp_path, device="cpu", dtype="float32"), torch.from_numpy(TOKENS[:, :48])
    ours = token_losses(model, TOKENS[:, :48])
    model.network.set_attn_implementation("eager")
    with torch.inference_mode():
        logits = model.network(tokens, use_cache=False).logits[0, :-1]
    torch.testing.assert_close(ours[0], functional.cross_entropy(logits, tokens[0, 1:], reduction="none"))
