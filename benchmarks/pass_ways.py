"""The ways of benchmarks/long_pass.py: a pass over a long text, or its gradients, by longrope and by transformers."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters
from torch.nn import functional

from longrope import distributed
from longrope.engine.memory import choose_tile
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.models import LanguageModel

CHUNK = 16384
COMPILED: dict[Any, Callable[..., Any]] = {}  # by the module
FOUND: defaultdict[str, Counter[str]] = defaultdict(Counter)  # what ways that compile layers have counted
MOST_VARIANTS = 2**12  # of a layer; torch's own limit of eight leaves the others uncompiled


def pass_ours(model: LanguageModel, ids: torch.Tensor) -> float:
    """Losses of all tokens by our pass."""
    return token_losses(model, ids).double().mean().item()


def pass_compiled(model: LanguageModel, ids: torch.Tensor) -> float:
    """The same, compiled."""
    return pass_ours(replace(model, compiled=True), ids)


def pass_plain(model: LanguageModel, ids: torch.Tensor) -> float:
    """transformers' own loss, all defaults."""
    with torch.inference_mode():
        return model.network(ids, labels=ids).loss.item()  # type: ignore[no-any-return]


def pass_chunked(model: LanguageModel, ids: torch.Tensor) -> float:
    """The decoder whole, the head and the loss chunk by chunk."""
    return by_chunks(model, ids, model.network.base_model)


def pass_fa4(
    model: LanguageModel, ids: torch.Tensor, run: Callable[[LanguageModel, torch.Tensor], float] = pass_chunked
) -> float:
    """The same with FlashAttention 4."""
    network, before = model.network, model.network.config._attn_implementation  # noqa: SLF001
    network.set_attn_implementation("flash_attention_4")
    try:
        return run(model, ids)
    finally:
        network.set_attn_implementation(before)


def run_layer(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """A layer's own forward pass; it is counted where it runs without being compiled."""
    if not torch.compiler.is_compiling():
        FOUND[""]["uncompiled"] += 1
    return type(layer).forward(layer, *args, **kwargs)


def count_compiled() -> dict[str, int]:
    """What torch.compile has made in this process."""
    return {"graphs": counters["stats"]["unique_graphs"], "graph_breaks": sum(counters["graph_break"].values())}


def pass_fast(model: LanguageModel, ids: torch.Tensor, most_variants: int = MOST_VARIANTS) -> float:
    """The same, layers compiled: one function for all, of which torch makes a variant for each where it must."""
    layers, before = model.network.base_model.layers, count_compiled()
    FOUND.pop("", None)
    fused = COMPILED.setdefault("layer", torch.compile(run_layer))
    for layer in layers:
        layer.forward = partial(fused, layer)
    try:
        with dynamo.patch(recompile_limit=most_variants, accumulated_recompile_limit=most_variants):
            loss = pass_chunked(model, ids)
    finally:
        for layer in layers:
            del layer.forward
    fa4 = model.network.config._attn_implementation == "flash_attention_4"  # noqa: SLF001
    found, left = FOUND["fast-fa4" if fa4 else "fast"], FOUND[""]["uncompiled"]
    found.update({name: number - before[name] for name, number in count_compiled().items()})
    found["uncompiled_layers"] = left
    if left:
        raise RuntimeError(f"torch.compile left {left} of {len(layers)} layers uncompiled")
    return loss


def pass_products(model: LanguageModel, ids: torch.Tensor) -> float:
    """The matrix products of a pass alone, on random rows: all layers, and the head."""
    tile = min(choose_tile(model)[0], ids.shape[1])
    with torch.inference_mode():
        for module in model.network.modules():
            if isinstance(module, nn.Linear):
                rows = torch.randn(tile, module.in_features, device=model.device, dtype=module.weight.dtype)
                for begin in range(0, ids.shape[1], tile):
                    functional.linear(rows[: ids.shape[1] - begin], module.weight)
    return 0.0


def pass_whole(model: LanguageModel, ids: torch.Tensor) -> float:
    """The same, the decoder compiled."""
    decoder = model.network.base_model
    return by_chunks(model, ids, COMPILED.setdefault(decoder, torch.compile(decoder, dynamic=False)))


def by_chunks(model: LanguageModel, ids: torch.Tensor, decoder: Callable[..., Any]) -> float:
    """A pass by a decoder; the head and the loss chunk by chunk."""
    total = 0.0
    with torch.inference_mode():
        hidden = decoder(ids, use_cache=False).last_hidden_state[0, :-1]
        for part, target in zip(hidden.split(CHUNK), ids[0, 1:].split(CHUNK), strict=True):
            logits = model.network.lm_head(part).float()
            total += functional.cross_entropy(logits, target, reduction="sum").item()
    return total / (ids.shape[1] - 1)


def step_ours(model: LanguageModel, ids: torch.Tensor) -> float:
    """Gradients of all weights by our pass."""
    weights = np.full((1, ids.shape[1] - 1), 1 / (ids.shape[1] - 1))
    loss = weighted_loss_with_graph(model, ids, weights)
    loss.backward()  # type: ignore[no-untyped-call]
    model.network.zero_grad(set_to_none=True)
    shard = distributed.shard()
    return (shard.total(loss.detach()) if shard else loss).item()


def step_plain(model: LanguageModel, ids: torch.Tensor) -> float:
    """Gradients of all weights by transformers, all defaults."""
    loss = model.network(ids, labels=ids).loss
    loss.backward()
    model.network.zero_grad(set_to_none=True)
    return loss.item()  # type: ignore[no-any-return]


def step_checkpointed(model: LanguageModel, ids: torch.Tensor) -> float:
    """The same with transformers' activation checkpointing, in training mode (there is no dropout in these models)."""
    model.network.train()
    model.network.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        return step_plain(model, ids)
    finally:
        model.network.gradient_checkpointing_disable()
        model.network.eval()


WAYS: dict[tuple[str, bool], Callable[[LanguageModel, torch.Tensor], float]] = {
    ("ours", False): pass_ours,
    ("compiled", False): pass_compiled,
    ("plain", False): pass_plain,
    ("chunked", False): pass_chunked,
    ("fa4", False): pass_fa4,
    ("fast", False): pass_fast,
    ("fast-fa4", False): partial(pass_fa4, run=pass_fast),
    ("whole", False): pass_whole,
    ("products", False): pass_products,
    ("ours", True): step_ours,
    ("plain", True): step_plain,
    ("chunked", True): step_checkpointed,
}
