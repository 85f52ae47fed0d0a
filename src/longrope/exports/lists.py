"""What native longrope can carry of factors: two lists of one attention factor, and the length where they switch."""

import math
from dataclasses import dataclass, replace

import torch

from longrope.data import Tokens
from longrope.engine.passes import token_losses
from longrope.errors import ExportError
from longrope.models import LanguageModel, rescaled
from longrope.recipe import ExportRecipe
from longrope.rope import FactorLists, NativeScaling, RescaleFactors, RopeSpec


@dataclass(frozen=True)
class NativeLists:
    """The factor sets of a checkpoint, relative to the model's own frequencies as all factors are.

    Attributes:
        factor_sets: ``single`` or ``two``.
        short, long: what a runtime does up to the switch and above it; they share one attention factor.
        switch_tokens: the length above which it takes the long list: the trained window, or the model's own switch
            where its own short list is kept.
        start_tokens_dropped: start tokens of the factors that are not carried.
        loss_change_nats: what dropping them changed in the mean loss per token on the measuring windows.
    """

    factor_sets: str
    short: RescaleFactors
    long: RescaleFactors
    switch_tokens: int
    start_tokens_dropped: int
    loss_change_nats: float


def native_lists(
    model: LanguageModel, factors: RescaleFactors, settings: ExportRecipe, windows: Tokens | None
) -> NativeLists:
    """Make the lists of a checkpoint from one set of factors.

    Args:
        model: the model that the factors belong to (raises FactorsError for another geometry).
        factors: one factor set.
        settings: one or two factor sets, and whether start tokens may be dropped.
        windows: [W, N] measuring windows, needed to measure what dropping start tokens changes.

    Raises:
        ExportError: start tokens that may not be dropped; two factor sets of a model that has a short list of its own,
            for a window of that list or with another attention factor.
    """
    factors.check_spec(model.spec)
    dropped, change = factors.start_tokens, 0.0
    if dropped:
        factors, change = _without_start_tokens(model, factors, settings, windows)
    lists = lists_of(model.spec, factors, settings.factor_sets)
    return replace(lists, start_tokens_dropped=dropped, loss_change_nats=change)


def lists_of(spec: RopeSpec, factors: RescaleFactors, factor_sets: str) -> NativeLists:
    """Make the lists of a checkpoint from factors without start tokens; for a geometry alone, else as above."""
    factors.check_spec(spec)
    if factors.start_tokens:
        raise _start_tokens(factors)
    native, switch = spec.native, spec.trained_window
    if factor_sets == "single":
        return NativeLists("single", factors, factors, switch, 0, 0.0)
    if native and native.short is not None:
        switch = _own_switch(factors, native)
    own = replace(factors, lambdas=(1.0,) * spec.num_pairs, target_window=switch)
    return NativeLists("two", own, factors, switch, 0, 0.0)


def _own_switch(factors: RescaleFactors, native: NativeScaling) -> int:
    """The switch of a model that has longrope lists of its own: up to it the checkpoint keeps the short one."""
    if factors.target_window <= native.switch_tokens:
        raise ExportError(
            f"The factors are for {factors.target_window:,} tokens.",
            f"Up to {native.switch_tokens:,} tokens the model has a short list of its own, which two factor sets keep.",
            "Export factors of a longer window, or a single factor set.",
        )
    if not math.isclose(factors.attention_factor, 1, rel_tol=1e-6):
        own, long = native.attention_factor, native.attention_factor * factors.attention_factor
        raise ExportError(
            f"The model's own short list has the attention factor {own:.6g}, and the long factors have {long:.6g}.",
            "Both lists of a checkpoint share one attention factor, so one of the two would be wrong.",
            "Export a single factor set, which takes the place of the model's short list, too.",
        )
    return native.switch_tokens


def stated_lists(spec: RopeSpec, lists: NativeLists) -> FactorLists:
    """The lists and their attention factor relative to plain RoPE, as checkpoints state them."""
    short, long = (
        tuple((spec.lambdas_at(factors.target_window) * factors.lambdas).tolist())
        for factors in (lists.short, lists.long)
    )
    attention = lists.long.attention_factor * spec.attention_factor
    return FactorLists(short, long, attention, lists.switch_tokens, lists.long.target_window)


def _without_start_tokens(
    model: LanguageModel, factors: RescaleFactors, settings: ExportRecipe, windows: Tokens | None
) -> tuple[RescaleFactors, float]:
    if not settings.drop_start_tokens or windows is None:
        raise _start_tokens(factors)
    plain = replace(factors, start_tokens=0)
    losses = []
    for tried in (factors, plain):
        with rescaled(model, tried):
            rows = [token_losses(model, row[None]).double() for row in windows]
        losses.append(torch.cat(rows).mean().item())
    return plain, losses[1] - losses[0]


def _start_tokens(factors: RescaleFactors) -> ExportError:
    return ExportError(
        f"The factors leave the first {factors.start_tokens} tokens alone (start tokens).",
        "Native longrope, in transformers and every other runtime, cannot express that.",
        "Export with --drop-start-tokens and texts to measure on; the difference is measured and written down.",
    )
