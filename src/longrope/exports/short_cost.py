"""What a checkpoint costs on short texts, in either layout, measured beside the model's own frequencies."""

import math
from dataclasses import dataclass

from longrope.data import Tokens
from longrope.engine.passes import token_losses
from longrope.errors import ExportError
from longrope.exports.lists import NativeLists, lists_of
from longrope.models import LanguageModel, rescaled
from longrope.rope import RescaleFactors

MOST_TOKENS, WINDOWS = 2048, 16  # that short texts are measured in
WORTH_SAYING = 0.02  # as a share of the perplexity without factors


@dataclass(frozen=True)
class ShortCost:
    """Perplexities of the exported weights on the same short windows.

    Attributes:
        short_tokens: of a window, no more than the trained window.
        perplexity_original: with the model's own frequencies.
        perplexity_single: with a single list.
        perplexity_two: with two lists. Runtimes have one attention factor, which acts on the short list, too. None
            where the model cannot have two lists.
    """

    short_tokens: int
    perplexity_original: float
    perplexity_single: float
    perplexity_two: float | None


def measure_short(model: LanguageModel, lists: NativeLists, windows: Tokens) -> ShortCost:
    """Measure both layouts on windows [W, N] of held-out text, N up to the trained window."""
    try:
        two = lists if lists.factor_sets == "two" else lists_of(model.spec, lists.long, "two")
    except ExportError:
        two = None
    return ShortCost(
        windows.shape[1],
        _perplexity(model, None, windows),
        _perplexity(model, lists.long, windows),
        _perplexity(model, two.short, windows) if two else None,
    )


def describe_short(cost: ShortCost, factor_sets: str) -> str:
    """What a checkpoint costs on short texts in one line, with the other layout where it costs less."""
    layouts = {"single": cost.perplexity_single, "two": cost.perplexity_two}
    names = {"single": "a single list of factors", "two": "two lists"}
    other = "two" if factor_sets == "single" else "single"
    own, others = layouts[factor_sets], layouts[other]
    if own is None:
        raise AssertionError("a checkpoint was written in a layout that its model cannot have")
    share = own / cost.perplexity_original - 1
    line = (
        f"at {cost.short_tokens:,} tokens, {names[factor_sets]}: perplexity {cost.perplexity_original:.2f} -> "
        f"{own:.2f} ({share:+.1%})"
    )
    if share <= WORTH_SAYING or others is None or others >= own:
        return line
    return (
        f"{line}, more than {WORTH_SAYING:.0%}; with {names[other]} {others:.2f}: "
        f"longrope export RUN --factor-sets {other}"
    )


def _perplexity(model: LanguageModel, factors: RescaleFactors | None, windows: Tokens) -> float:
    with rescaled(model, factors):
        losses = [token_losses(model, row[None]).double() for row in windows]
    return math.exp(sum(float(row.sum()) for row in losses) / sum(row.numel() for row in losses))
