"""Run a model with rescaled RoPE.

The rotary module of one loaded instance is exchanged for ours inside ``rescaled`` and put back at its end; no class is
patched and no modelling code is forked.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from longrope.models.language_model import LanguageModel
from longrope.models.rotary import RescaledRotary
from longrope.models.tables import find_rotary
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

    The rotary module of this one instance is exchanged for ours; at the end of the block, an exception included, the
    very same module is back. With ``factors=None`` the model is unchanged.

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
    parent_path, _, name = find_rotary(model.network).rpartition(".")
    parent = model.network.get_submodule(parent_path)
    before = getattr(parent, name)
    native = before.native if isinstance(before, RescaledRotary) else before
    module = RescaledRotary(native, model.spec, factors, learnable=learnable, precision=precision).to(model.device)
    setattr(parent, name, module)
    try:
        yield module
    finally:
        setattr(parent, name, before)
