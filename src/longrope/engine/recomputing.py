"""Layers whose activations are computed again in the backward pass, with our attention; norms, too.

transformers' own activation checkpointing acts in training mode alone, keeps no output of attention, and would
recompute with whatever attention the config names when the backward pass runs.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from longrope.engine.backward import OPERATION
from longrope.engine.context import Forwards, active_context
from longrope.engine.kernels import OPERATIONS
from longrope.engine.kv_cache import decoder_layers
from longrope.models import LanguageModel, modules_in_layers, placed


def recomputed(
    model: LanguageModel, forward: Any, index: int, *, kept: frozenset[int], ungraded: Callable[..., Any]
) -> Callable[..., Any]:
    """A layer whose activations are made again in the backward pass, in eval mode too, in the context of its pass.

    A rotary module that the layer calls itself is then the one of the pass, also where ``rescaled`` or ``at_length``
    has put another one back.

    Args:
        model: that the layer is of.
        forward: of the layer.
        index: of the layer.
        kept: the layers that keep the output of their attention, most of the work and little of the memory.
        ungraded: what is called instead where nothing has gradients, as below the first layer that is trained.
    """
    keep = index in kept
    contexts = partial(create_selective_checkpoint_contexts, _keep_attention) if keep else noop_context_fn
    weights = list(forward.__self__.parameters())

    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not any(x.requires_grad for x in (*weights, *_tensors((hidden, args, kwargs)))):
            with torch.no_grad():
                return ungraded(hidden, *args, **kwargs)
        context = active_context()  # of this pass; when its backward pass runs, it is no longer active
        rotary = modules_in_layers(model)

        def work(*args: Any, **kwargs: Any) -> Any:
            with context.resumed(), placed(rotary):
                return forward(*args, **kwargs)

        return checkpoint(work, hidden, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


def norms_recomputed(network: Any, tile: int) -> Forwards:
    """Forwards of the norms in layers, found as in ``tiling.norms_in_tiles``: none keeps float32 of its input."""
    norms = (part for layer in decoder_layers(network) for part in layer.modules() if "Norm" in type(part).__name__)
    return {norm: partial(_norm_recomputed, norm.forward, tile) for norm in norms}


def _norm_recomputed(forward: Any, tile: int, hidden: Tensor, *others: Any) -> Any:
    if hidden.numel() <= tile * hidden.shape[-1] or not torch.is_grad_enabled():
        return forward(hidden, *others)
    return checkpoint(forward, hidden, *others, use_reentrant=False)


def _tensors(given: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists and dicts."""
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, dict | tuple | list):
        parts: Iterable[Any] = given.values() if isinstance(given, dict) else given
        for part in parts:
            yield from _tensors(part)


def _keep_attention(_context: Any, operation: Any, *args: Any, **_: Any) -> CheckpointPolicy:
    """Keep what attention gives for queries that gradients are for; a kernel that is being tried out has others."""
    wanted = operation in (*OPERATIONS, OPERATION) and args[0].requires_grad
    return CheckpointPolicy.MUST_SAVE if wanted else CheckpointPolicy.PREFER_RECOMPUTE
