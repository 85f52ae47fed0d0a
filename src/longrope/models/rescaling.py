"""Run a model with rescaled RoPE.

The rotary modules of one loaded instance that hold the table at work are exchanged for ours inside ``rescaled`` and put
back at its end; no class is patched and no modelling code is forked.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from longrope.models.language_model import LanguageModel
from longrope.models.rotary import RescaledRotary
from longrope.models.tables import modules_of
from longrope.rope import RescaleFactors


@contextmanager
def rescaled(
    model: LanguageModel,
    factors: RescaleFactors | None,
    *,
    learnable: bool = False,
    precision: torch.dtype = torch.float64,
) -> Iterator[RescaledRotary | None]:
    """Run a model with rescaled RoPE inside a ``with`` block.

    The rotary modules of this one instance that hold ``model.table`` are exchanged for ours, which leaves the tables of
    other layers alone; at the end of the block, an exception included, the very same modules are back. With
    ``factors=None`` the model is unchanged.

    Args:
        model: the model to change.
        factors: made for this model's geometry (raises FactorsError otherwise).
        learnable: make lambdas and attention factor parameters with gradients.
        precision: of the angles; float32 shows what other runtimes lose far out.

    Yields:
        The module that is installed.
    """
    if factors is None:
        yield None
        return
    factors.check_spec(model.spec)
    places = list(modules_of(model.network, model.table))
    before = places[0][2]  # where there are several, each computes the same
    native = before.native if isinstance(before, RescaledRotary) else before
    module = RescaledRotary(native, model.table, factors, learnable=learnable, precision=precision).to(model.device)
    for parent, name, _ in places:
        setattr(parent, name, module)
    try:
        yield module
    finally:
        for parent, name, own in places:
            setattr(parent, name, own)
