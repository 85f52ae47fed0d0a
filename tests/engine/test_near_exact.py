"""DCA, Self-Extend and Jet-Long against attention with an explicit matrix of relative positions."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import attending
import families
import near_oracle
import numpy as np
import pico
import pytest
import torch
from long_passes import get_state, hooked, mean_loss_with_graph, set_tile
from torch import Tensor
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb

from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.near_exact import dca, jet_long, reading_in_parts, self_extend
from longrope.engine.parted import NEAR_EXACT
from longrope.engine.passes import last_log_probabilities, token_losses
from longrope.errors import ModelError
from longrope.models import LanguageModel, rescaled
from longrope.rope import RescaleFactors
from longrope.rope.near_exact import Banded, Part

LENGTH, WINDOW = 96, 24
CLOSE, CLOSE_IN_32_BITS = 1e-5, 4e-5
GAIN = (1 + 0.05 * np.log(LENGTH / WINDOW)) ** 2
METHODS: dict[str, tuple[Callable[..., AbstractContextManager[None]], near_oracle.Relative, float]] = {
    "dca": (dca, near_oracle.dca(18, 3), GAIN),  # three quarters and an eighth of the window
    "self-extend": (self_extend, near_oracle.self_extend(8, 8), 1.0),
    "jet-long": (jet_long, near_oracle.jet_long(1, 4), 1.0),
}
FAMILIES = ("llama", "stablelm", "cohere", "gemma2", "gpt_oss")
"""Grouped queries; partial rotary; interleaved pairs; soft caps and sliding layers; sinks and sliding layers."""
every_method = pytest.mark.parametrize("method", METHODS)


def make(family: str) -> LanguageModel:
    """Trained on a short window; in float64, but experts, which know no such numbers."""
    made: dict[str, Any] = {"max_position_embeddings": WINDOW}
    if family == "gpt_oss":
        made["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
        return attending.as_model(attending.make_network(family, num_hidden_layers=2, **made))
    return pico.make_model(family, dtype=torch.float64, **made)


def make_ids(tokens: int = LENGTH) -> Tensor:
    return torch.randint(1, 320, (1, tokens), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("family", FAMILIES)
@every_method
def test_logits_are_those_of_explicit_positions(family: str, method: str) -> None:
    change, relative, gain = METHODS[method]
    model = make(family)
    own = near_oracle.log_probabilities(
        model.network, make_ids(), relative, interleaved=family == "cohere", temperature=gain
    )
    with change(model, LENGTH):
        found = last_log_probabilities(model, make_ids(), LENGTH)
    wide = model.network.dtype == torch.float64
    assert (found - own[0]).abs().max() < (CLOSE if wide else CLOSE_IN_32_BITS)


@pytest.mark.parametrize("tile", [7, 40])
@every_method
def test_tiles_and_a_cache_give_the_logits_of_one_pass(method: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles begin and end within chunks and windows; a cache is filled in pieces and token by token."""
    change, model, ids = METHODS[method][0], make("llama"), make_ids()
    with change(model, LENGTH):
        whole = last_log_probabilities(model, ids, LENGTH)
        set_tile(monkeypatch, tile, rows=1)
        torch.testing.assert_close(last_log_probabilities(model, ids, LENGTH), whole, rtol=0, atol=CLOSE)
        cache = KeyValueCache(model, LENGTH)
        for first, last in ((0, 50), (50, 51), (51, 90), *((at, at + 1) for at in range(90, LENGTH))):
            found = prefill(model, ids[:, first:last], cache)[0].log_softmax(-1)
            torch.testing.assert_close(found, whole[last - 1], rtol=0, atol=CLOSE)


def test_positions_are_those_of_the_planned_length() -> None:
    """A cache for a longer sequence has the positions of that, also while little is in it."""
    model, ids = make("llama"), make_ids(2 * WINDOW)
    logits = {}
    for planned in (2 * WINDOW, LENGTH):
        with jet_long(model, planned):
            logits[planned] = last_log_probabilities(model, ids, 1)
    explicit = near_oracle.log_probabilities(model.network, ids, near_oracle.jet_long(1, LENGTH // WINDOW))
    assert (logits[LENGTH] - explicit[0, -1]).abs().max() < CLOSE
    assert (logits[LENGTH] - logits[2 * WINDOW]).abs().max() > 0.01


@every_method
def test_a_block_ends_as_it_began(method: str) -> None:
    """Nothing of the model stays changed, after an exception too; blocks of such methods do not nest."""
    change, model = METHODS[method][0], make("llama")
    before = get_state(model)
    with pytest.raises(RuntimeError, match="nest"), change(model, LENGTH), change(model, LENGTH):
        raise AssertionError("unreachable")
    assert get_state(model) == before
    assert not hasattr(model.network, NEAR_EXACT)
    model.network(make_ids(8))  # transformers' own pass is possible again


@pytest.mark.parametrize("change", [self_extend, jet_long])
def test_within_the_trained_window_the_model_is_the_original(change: Any) -> None:
    model = make("llama")
    plain = last_log_probabilities(model, make_ids(WINDOW), WINDOW)
    with change(model, WINDOW):
        assert (last_log_probabilities(model, make_ids(WINDOW), WINDOW) == plain).all()


def test_the_turning_is_tried_once_for_a_network() -> None:
    model, layers = make("llama"), list[int]()
    layer = model.network.model.layers[0]
    with hooked(layer, lambda *_: layers.append(0)):
        with jet_long(model, LENGTH):
            tried = len(layers)
        with self_extend(model, LENGTH):
            assert len(layers) == tried > 0


def test_gradients_are_refused() -> None:
    model = make("llama")
    model.network.requires_grad_(True)
    with jet_long(model, LENGTH), pytest.raises(ModelError, match="without gradients"):
        mean_loss_with_graph(model, make_ids())


def test_calls_of_the_network_itself_are_refused() -> None:
    """Its own attention would read as if no method were at work."""
    model = make("llama")
    with jet_long(model, LENGTH), pytest.raises(ModelError, match="called itself"):
        model.network(make_ids())


def test_documents_and_positions_of_ones_own_are_refused() -> None:
    model, ids = make("llama"), make_ids()
    with jet_long(model, LENGTH):
        with pytest.raises(ModelError, match="kept apart"):
            token_losses(model, ids, documents=((0, 5),))
        with pytest.raises(ModelError, match="positions of its own"):
            token_losses(model, ids, positions=torch.arange(LENGTH)[None] + 1)


REFUSED = {
    "deepseek_v32": "latent attention",
    "glm_moe_dsa": "latent attention",
    "minimax_m3_vl_text": "does not attend to all keys",
    "mimo_v2_flash": "values have",
    "mistral": "no layer with RoPE that sees the whole window",
}


@pytest.mark.parametrize("family", REFUSED)
def test_models_that_are_not_known_are_refused_by_name(family: str) -> None:
    model = attending.as_model(attending.make_network(family, max_position_embeddings=WINDOW))
    with pytest.raises(ModelError, match=REFUSED[family]), jet_long(model, LENGTH):
        token_losses(model, make_ids())


@pytest.mark.parametrize("family", ["nanochat", "codegen", "glm4"])
def test_other_ways_to_rotate_are_found(family: str) -> None:
    """Backwards; in pairs of neighbours with one column a pair; half of the entries in pairs of neighbours.

    A near part that holds every key gives the original, and a far part that moves all of them by as much, too.
    """
    model = attending.as_model(families.build_network(family))
    ids = make_ids()
    plain = last_log_probabilities(model, ids, LENGTH)
    for parts in (Banded(LENGTH, Part(), Part()), Banded(1, Part(), Part(lambda at: at + 40, lambda at: at + 40))):
        with reading_in_parts(model, parts):
            torch.testing.assert_close(last_log_probabilities(model, ids, LENGTH), plain, rtol=0, atol=1e-4)
    moved = Banded(1, Part(), Part(lambda at: at * 3, lambda at: at * 3))
    slower = RescaleFactors((1 / 3,) * model.spec.num_pairs, LENGTH, model.spec.fingerprint, relaxed=True)
    with rescaled(model, slower):
        expected = last_log_probabilities(model, ids, LENGTH)
    with reading_in_parts(model, moved):
        torch.testing.assert_close(last_log_probabilities(model, ids, LENGTH), expected, rtol=0, atol=2e-4)
    assert (plain - expected).abs().max() > 0.01


def test_layers_whose_masks_alone_have_a_window_are_refused() -> None:
    """MiniMax's attention is called full in its config, and transformers gives it a window all the same."""
    model = attending.as_model(families.build_network("minimax"))
    assert not model.table.slides
    with pytest.raises(ModelError, match="no layer with RoPE that sees the whole window"), jet_long(model, LENGTH):
        raise AssertionError("unreachable")


def test_a_turning_that_is_not_found_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotated queries whose entries are then weighted, as a norm with weights would."""
    model = make("qwen3")

    def uneven(*given: Tensor) -> tuple[Tensor, Tensor]:
        query, key = apply_rotary_pos_emb(*given)
        return query * torch.linspace(0.2, 2, query.shape[-1]), key

    monkeypatch.setattr(modeling_qwen3, "apply_rotary_pos_emb", uneven)
    with pytest.raises(ModelError, match="'qwen3' rotates queries and keys"), jet_long(model, LENGTH):
        raise AssertionError("unreachable")
