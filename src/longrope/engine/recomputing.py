"""Layers whose activations are computed again in the backward pass, with our attention.

transformers' own activation checkpointing acts in training mode alone, keeps no output of attention, and would
recompute with whatever attention the config names when the backward pass runs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from longrope.engine.context import active_context
from longrope.engine.kernels import OPERATIONS
from longrope.models import LanguageModel, modules_in_layers, placed


def recomputed(model: LanguageModel, forward: Any, _index: int, *, keep: bool) -> Callable[..., Any]:
    """A layer whose activations are made again in the backward pass, in eval mode too, in the context of its pass.

    A rotary module that the layer calls itself is then the one of the pass, also where ``rescaled`` or ``at_length``
    has put another one back.

    Args:
        model: that the layer is of.
        forward: of the layer.
        keep: keep the output of its attention, most of the work and little of the memory.
    """
    contexts = partial(create_selective_checkpoint_contexts, _keep_attention) if keep else noop_context_fn

    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        context = active_context()  # of this pass; when its backward pass runs, it is no longer active
        rotary = modules_in_layers(model)

        def work(*args: Any, **kwargs: Any) -> Any:
            with context.resumed(), placed(rotary):
                return forward(*args, **kwargs)

        return checkpoint(work, hidden, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


def _keep_attention(_context: Any, operation: Any, *args: Any, **_: Any) -> CheckpointPolicy:
    """Keep what attention gives for queries that gradients are for; a kernel that is being tried out has others."""
    wanted = operation in OPERATIONS and args[0].requires_grad
    return CheckpointPolicy.MUST_SAVE if wanted else CheckpointPolicy.PREFER_RECOMPUTE
