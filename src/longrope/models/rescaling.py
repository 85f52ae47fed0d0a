"""Run a model with rescaled RoPE.

The rotary modules of one loaded instance that hold the table at work are exchanged for ours inside ``rescaled`` and put
back at its end; no class is patched and no modelling code is forked.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from longrope.errors import ModelError
from longrope.models.language_model import LanguageModel
from longrope.models.rotary import RescaledRotary
from longrope.models.tables import modules_of
from longrope.rope import FactorTable, RescaleFactors, RotaryTable, as_one, unscaled

Placed = list[tuple[nn.Module, str, Any]]  # (parent, name in it, rotary module)


@contextmanager
def rescaled(
    model: LanguageModel,
    factors: RescaleFactors | FactorTable | None,
    *,
    learnable: bool = False,
    precision: torch.dtype = torch.float64,
) -> Iterator[RescaledRotary | None]:
    """Run a model with rescaled RoPE inside a ``with`` block.

    The rotary modules of this one instance that hold ``model.table`` are exchanged for ours, which leaves the tables of
    other layers alone; at the end of the block, an exception included, the very same modules are back. With
    ``factors=None`` the model is unchanged.

    Args:
        model: as ``load_model`` gives it.
        factors: one set, made for this model's geometry (raises FactorsError otherwise).
        learnable: make lambdas and attention factor parameters with gradients.
        precision: of the angles; float32 shows what other runtimes lose far out.

    Yields:
        The module that is installed.
    """
    if not isinstance(model, LanguageModel):
        raise ModelError(
            f"A {type(model).__name__} was given.",
            "Factors act on a model that longrope has loaded, with its rotary tables.",
            "Load it by longrope.load_model(name or folder); its network is transformers' own.",
        )
    if factors is None:
        yield None
        return
    factors = as_one(factors)
    factors.check_spec(model.spec)
    factors.check_table(model.table.name)
    with _installed(model, model.table, factors, learnable=learnable, precision=precision) as module:
        yield module


@contextmanager
def at_length(model: LanguageModel, tokens: int) -> Iterator[None]:
    """Have a model's own scaling be that of sequences of a planned total length inside a ``with`` block.

    Most models turn all sequences alike: nothing changes for them. The modules of others choose by the positions at
    hand, which differ between one pass and a cache, and between processes. Tables that are rescaled stay as they are.

    Args:
        model: the model to run.
        tokens: of the whole sequence, those that are still to be written included.
    """
    with ExitStack() as stack:
        for table in model.tables:
            if _depends_on_length(model, table, tokens) and not _is_installed(model, table):
                stack.enter_context(_installed(model, table, unscaled(table.geometry, tokens)))
        yield


def check_not_rescaled(model: LanguageModel) -> None:
    """Raise ModelError inside a block of rescaled factors, where nothing reads with the model's own RoPE."""
    if _is_installed(model, model.table):
        raise ModelError(
            f"{model.name!r} was to read without factors, inside a block of longrope.rescaled.",
            "Without factors a model reads with its own RoPE, and in the block it has the block's.",
            "Call it outside of the block, or give the factors.",
        )


def modules_in_layers(model: LanguageModel) -> Placed:
    """The rotary modules that layers call themselves, as they are at this moment (Moshi); most models have none.

    Where such a layer is computed again after ``rescaled`` or ``at_length`` has ended, they are to be ``placed``.
    """
    within = [table for table in model.tables if "*" in table.path]
    return [place for table in within for place in modules_of(model.network, table)]


@contextmanager
def placed(modules: Placed) -> Iterator[None]:
    """Have these rotary modules at their places inside a ``with`` block, and at its end those that were there."""
    before = [(parent, name, getattr(parent, name)) for parent, name, _ in modules]
    _place(modules)
    try:
        yield
    finally:
        _place(before)


def _place(modules: Placed) -> None:
    for parent, name, module in modules:
        setattr(parent, name, module)


def _depends_on_length(model: LanguageModel, table: RotaryTable, tokens: int) -> bool:
    """Whether a module would choose by the positions at hand, or has no angles for all of them (GPT-J's table)."""
    rows = getattr(next(modules_of(model.network, table))[2], "embed_positions", None)
    return table.geometry.by_length or (rows is not None and len(rows) < tokens)


def _is_installed(model: LanguageModel, table: RotaryTable) -> bool:
    module = next(modules_of(model.network, table))[2]
    while isinstance(module, RescaledRotary):
        if module.layer_type == table.layer_type:
            return True
        module = module.native
    return False


@contextmanager
def _installed(
    model: LanguageModel,
    table: RotaryTable,
    factors: RescaleFactors,
    *,
    learnable: bool = False,
    precision: torch.dtype = torch.float64,
) -> Iterator[RescaledRotary]:
    """Exchange the modules that hold a table for ours.

    Raises:
        ModelError: no module holds it, or another block that began within this one has not ended before it.
    """
    places = list(modules_of(model.network, table))
    if not places:
        raise ModelError(
            f"The network of {model.name!r} has no rotary module at {table.path}.",
            "Factors act on the network as transformers has built it.",
            "Give the model as it was loaded; wrap or compile its network inside the block.",
        )
    before = places[0][2]  # where there are several, each computes the same
    ours = isinstance(before, RescaledRotary) and before.layer_type == table.layer_type
    native = before.native if ours else before
    module = RescaledRotary(native, table, factors, learnable=learnable, precision=precision).to(model.device)
    module.replaced = tuple(rotary for *_, rotary in places)
    _place([(parent, name, module) for parent, name, _ in places])
    try:
        yield module
    finally:
        _take_out(module, [(parent, name) for parent, name, _ in places])


def _take_out(module: RescaledRotary, places: list[tuple[nn.Module, str]]) -> None:
    """Put back what stood at some places before a module of ours, also from below those of blocks that go on."""
    top = getattr(*places[0])
    if top is module:
        _place([(*place, rotary) for place, rotary in zip(places, module.replaced, strict=True)])
        return
    while isinstance(top, RescaledRotary) and top.replaced:
        if top.replaced[0] is module:
            top.replaced = module.replaced
            break
        top = top.replaced[0]
    raise ModelError(
        "A block of rescaled factors ended while one that began later goes on.",
        "One model reads with the factors of one block at a time: passes of the first block had those of the second.",
        "End blocks in reverse order; for threads and generators side by side load a model for each.",
    )
