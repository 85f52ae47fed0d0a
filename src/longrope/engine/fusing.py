"""Which norms and rotary embeddings of a network have the usual form, and are worked out by ``engine.fused`` on a GPU.

Families write the same formulas under many names. Whether a class or function is the usual one is seen by what it makes
of some random numbers.

Shape legend: B = rows, P = heads, N = tokens, D = head dimension.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from longrope.engine.kv_cache import decoder_layers

ROTATE = "apply_rotary_pos_emb"  # the name that families give to the function, which their modules call
EPSILONS = ("variance_epsilon", "eps")
SEEN = 1e-5  # by how much numbers near 1 may differ in float32


def fused_norms(network: Any) -> dict[Any, Callable[..., Any]]:
    """Forwards of the norms in the layers of a network on a GPU that have the usual form."""
    parts: Iterator[Any] = (part for layer in decoder_layers(network) for part in layer.modules())
    norms = [part for part in parts if "Norm" in part.__class__.__name__ and is_usual_norm(part.__class__)]
    return {norm: partial(_norm, norm, norm.forward) for norm in norms if norm.weight.is_cuda}


def _norm(module: Any, forward: Callable[..., Any], hidden: Tensor) -> Any:
    if torch.float64 in (hidden.dtype, module.weight.dtype):
        return forward(hidden)
    eps = next(getattr(module, name) for name in EPSILONS if hasattr(module, name))
    found: Tensor = import_module("longrope.engine.fused").fused_norm(hidden, module.weight, eps)
    return found


@cache
def is_usual_norm(kind: Any) -> bool:
    """Whether a class of norms, with a weight and an epsilon alone, gives weight * x / sqrt(mean(x^2) + epsilon)."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn((3, 8), generator=generator), torch.randn(8, generator=generator)
    expected = weight * x * (x.square().mean(-1, keepdim=True) + 0.3).rsqrt()
    parts: dict[str, Any] = {"weight": weight, **dict.fromkeys(EPSILONS, 0.3)}
    try:
        with torch.no_grad():
            found = kind.forward(SimpleNamespace(**parts), x)
        return bool((found - expected).abs().max() < SEEN)
    except Exception:  # noqa: BLE001  # a class that needs more than these is another one
        return False


@contextmanager
def fused_rotations(network: Any) -> Iterator[None]:
    """Have the layers of a network on a GPU turn queries and keys by ``engine.fused`` in this block alone.

    Their modules call a function of their file, which is replaced there.
    """
    files = {type(part).__module__ for layer in decoder_layers(network)[:1] for part in layer.children()}
    before = {name: vars(sys.modules[name]).get(ROTATE) for name in files & sys.modules.keys()}
    usual = {name: function for name, function in before.items() if function and is_usual_rotation(function)}
    for name, function in usual.items():
        setattr(sys.modules[name], ROTATE, partial(rotate, function))
    try:
        yield
    finally:
        for name, function in usual.items():
            setattr(sys.modules[name], ROTATE, function)


@cache
def is_usual_rotation(function: Callable[..., Any]) -> bool:
    """Whether a function gives (q cos + rotated_half(q) sin) and the same for k, whose cos and sin are [B, N, D]."""
    generator = torch.Generator().manual_seed(0)
    q, k, cos, sin = (
        torch.randn(shape, generator=generator) for shape in ((2, 3, 5, 8), (2, 1, 5, 8), (2, 5, 8), (2, 5, 8))
    )
    try:
        found = function(q, k, cos, sin)
        expected = [plain_rotation(x, cos, sin) for x in (q, k)]
        return all(bool((a - b).abs().max() < SEEN) for a, b in zip(found, expected, strict=True))
    except Exception:  # noqa: BLE001  # as above
        return False


def plain_rotation(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + rotated_half(x) sin: [B, P, N, D] from the same and cos and sin [B or 1, N, D]."""
    one, two = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-two, one), dim=-1) * sin[:, None]


def rotate(function: Callable[..., Any], query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, **others: Any) -> Any:
    """Queries and keys [B, P, N, D], turned; by the family's function where that is not the usual case on a GPU."""
    usual = query.is_cuda and not others and cos.ndim == 3 and cos.shape[2] == query.shape[3] == key.shape[3]
    if not usual or cos.requires_grad or sin.requires_grad or torch.float64 in (query.dtype, cos.dtype):
        return function(query, key, cos, sin, **others)
    dtype = torch.promote_types(query.dtype, cos.dtype)
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")  # to which our attention takes them
    fused = import_module("longrope.engine.fused").fused_rotation
    return fused(query, cos, sin, dtype), fused(key, cos, sin, dtype)
