"""Pico models of many families, windows, and the whole logits that passes over long windows are compared with."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pico
import pytest
import torch
from torch import Tensor

from longrope.engine import attention, biases, compressing, context, indexers, memory
from longrope.engine import loss as loss_head
from longrope.engine.passes import weighted_loss_with_graph
from longrope.models import LanguageModel
from longrope.rope import RescaleFactors

VOCABULARY = pico.BASE["vocab_size"]
TOKENS = torch.randint(1, VOCABULARY, (3, 48), generator=torch.Generator().manual_seed(3))
FAMILIES: dict[str, dict[str, Any]] = {
    **{family: {} for family in pico.FAMILIES},
    "mixtral": {},  # experts
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 4.0},
}
CHUNKS = {"whole": 2**28, "uneven": VOCABULARY * 3 * 7, "single": 1}  # logits a chunk: all, 7 tokens of 3 rows, 1 token
TILES = {"uneven": 7, "single": 1, "all but one": 47}  # tokens
DOCUMENTS = ((0, 5, 6, 30), (0,), (0, 47))  # of the three windows
every_family = pytest.mark.parametrize("family", FAMILIES)
every_tile = pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")


def set_tile(monkeypatch: pytest.MonkeyPatch, tile: int, rows: int = len(TOKENS)) -> None:
    """So many tokens of each of the rows go through a layer at once."""
    monkeypatch.setattr(memory, "MOST_TILE_TOKENS", tile * rows)


def set_room(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Activations may take so many bytes."""
    monkeypatch.setattr(memory, "activation_room", lambda _: room)


def set_scores(monkeypatch: pytest.MonkeyPatch, scores: int) -> None:
    """So many attention scores are held at once where no kernel streams them."""
    for module in (attention, biases, compressing, indexers):
        monkeypatch.setattr(module, "SCORES_PER_BLOCK", scores)


def set_chunk(monkeypatch: pytest.MonkeyPatch, logits: int = CHUNKS["uneven"]) -> None:
    """So many logits are made at once."""
    monkeypatch.setattr(loss_head, "LOGITS_PER_CHUNK", logits)


def mean_loss_with_graph(model: LanguageModel, tokens: Tensor, tail_tokens: int = 0, **settings: Any) -> Tensor:
    """Equal weights for all next tokens, or for a tail of each window."""
    weights = np.zeros((len(tokens), tokens.shape[1] - 1))
    weights[:, -tail_tokens:] = 1
    return weighted_loss_with_graph(model, tokens, weights / weights.sum(), **{"recompute": True, **settings})


def make_factors(model: LanguageModel) -> RescaleFactors:
    lambdas = tuple(2.0 + i for i in range(model.spec.num_pairs))
    return RescaleFactors(lambdas, 256, model.spec.fingerprint, start_tokens=5, attention_factor=1.1)


def compute_losses(network: Any, tokens: Tensor) -> Tensor:
    """[B, N - 1] nats from whole logits: log of the sum of exponentials less the target's logit, in float64."""
    assert network.config._attn_implementation in ("sdpa", "eager"), "the oracle is transformers' own attention"
    logits = network(tokens, use_cache=False).logits.double()[:, :-1]
    targets = logits.gather(-1, tokens[:, 1:, None])[..., 0]
    return logits.exp().sum(-1).log() - targets  # type: ignore[no-any-return]


@contextmanager
def hooked(module: Any, look: Callable[[Any, Any], None]) -> Iterator[None]:
    """See the arguments of every call of a module."""
    hook = module.register_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


def get_state(model: LanguageModel) -> dict[str, Any]:
    """All that a pass changes for its time."""
    network = model.network
    forwards = {name: vars(module).get("forward") for name, module in network.named_modules()}
    changed = {"attention": network.config._attn_implementation, "context": context._active}
    return {**changed, "modules": dict(network.named_modules()), **forwards}


def get_gradients(module: Any) -> Tensor:
    return torch.cat([module.lambdas.grad.flatten(), module.attention_factor.grad.flatten()])


def gradients(model: LanguageModel, **settings: Any) -> Tensor:
    """Of all weights, with recomputed layers."""
    model.network.requires_grad_(True)
    try:
        mean_loss_with_graph(model, TOKENS, **settings).backward()
        return torch.cat([weight.grad.flatten() for weight in model.network.parameters() if weight.grad is not None])
    finally:
        model.network.zero_grad()
        model.network.requires_grad_(False)
