"""Layers whose activations are computed again in the backward pass, with our attention; norms, too.

transformers' own activation checkpointing acts in training mode alone, keeps no output of attention, and would
recompute with whatever attention the config names when the backward pass runs. There is no dropout in our passes, so
no state of random numbers is kept either.
"""

from collections.abc import Callable, MutableMapping
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longrope import distributed
from longrope.engine import compiling
from longrope.engine.backward import KeptOutputs
from longrope.engine.context import Forwards, active_context
from longrope.engine.held_states import HeldStates
from longrope.engine.kv_cache import decoder_layers
from longrope.engine.native_cache import tensors_in
from longrope.models import LanguageModel, modules_in_layers, placed


def recomputed(
    model: LanguageModel,
    forward: Any,
    index: int,
    *,
    kept: frozenset[int],
    states: HeldStates,
    ungraded: Callable[..., Any],
    compiled: bool = False,
) -> Callable[..., Any]:
    """A layer whose activations are made again in the backward pass, in eval mode too, in the context of its pass.

    A rotary module that the layer calls itself is then the one of the pass, also where ``rescaled`` or ``at_length``
    has put another one back.

    Args:
        model: that the layer is of.
        forward: of the layer.
        index: of the layer.
        kept: the layers that keep the output of their attention, most of the work and little of the memory.
        states: holds the hidden states before the layers.
        compiled: whether the layer is one by torch.compile.
        ungraded: what is called instead where nothing has gradients, as below the first layer that is trained.
    """
    layer, weights = forward.__self__, list(forward.__self__.parameters())
    if compiled:
        forward = partial(compiling.compiled(forward.__func__), layer)

    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        shared = any(isinstance(x, MutableMapping) for x in (*args, *kwargs.values()))  # layers write into it
        if not any(x.requires_grad for x in (*weights, *tensors_in((hidden, args, kwargs)))):
            with torch.no_grad():
                return (forward if shared else ungraded)(hidden, *args, **kwargs)
        context = active_context()  # of this pass; when its backward pass runs, it is no longer active
        rotary, outputs, runs = modules_in_layers(model), KeptOutputs(keep=index in kept), count()

        def work(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            first = next(runs) == 0
            outputs.begin(first=first, last=not first)
            return call(hidden, *args, **kwargs)

        def call(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            with context.resumed(outputs), placed(rotary):
                return forward(hidden, *args, **kwargs)

        def again(state: Tensor) -> Any:
            distributed.have_whole(layer)  # before its own part of the backward pass
            outputs.begin(last=False)
            return call(state, *args, **kwargs)

        with states.before(hidden, None if shared else again):
            output = checkpoint(work, hidden, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        states.after(output)
        return output

    return run


def norms_recomputed(network: Any, tile: int) -> Forwards:
    """Forwards of the norms in layers, found as in ``tiling.norms_in_tiles``: none keeps float32 of its input."""
    norms = (part for layer in decoder_layers(network) for part in layer.modules() if "Norm" in type(part).__name__)
    return {norm: partial(_norm_recomputed, norm.forward, tile) for norm in norms}


def _norm_recomputed(forward: Any, tile: int, hidden: Tensor, *others: Any) -> Any:
    if hidden.numel() <= tile * hidden.shape[-1] or not torch.is_grad_enabled():
        return forward(hidden, *others)
    return checkpoint(forward, hidden, *others, use_reentrant=False)
