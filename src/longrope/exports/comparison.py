"""How a reopened checkpoint compares with the model that was exported: logits on both sides of the native switch."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longrope.errors import ExportError
from longrope.exports.lists import NativeLists
from longrope.exports.number_formats import float32_copy
from longrope.exports.short_cost import ShortCost
from longrope.models import LanguageModel, rescaled

PROBE_TOKENS = 64  # spread over all positions, so that a wrong factor of the slowest pair shows
FARTHEST_PROBE = 2**15  # farther out the float32 angles of native longrope are too rough to compare
COMPARED_SHARE = 0.9  # of the probed positions: a few are chaotic, where float32 angles alone change the logits a lot
TOLERANCE = 0.01  # of the standard deviation of the logits
BY_PLACE = ("minimax_m3_sparse",)  # kinds of layers whose code takes a token's position for its place in the text
ROUNDINGS = 10  # native longrope rounds its frequencies, too, and more coarsely

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ExportReport:
    """How a reopened checkpoint compares with the model that was exported.

    Attributes:
        factor_sets: factor sets, ``single`` or ``two``.
        target_window: what its config states, in tokens.
        switch_tokens: the length above which native longrope takes its long list.
        difference_short, difference_long: how far the logits are from ours below and above the switch, weights in
            float32: at each of 63 probed positions the largest difference over the vocabulary, of these the 90 %
            quantile over the positions, as a share of the logits' standard deviation. So a position or two where
            rounding is chaotic neither fail the check nor blind it.
        rounding: the same number, the larger of the two sides, for what float32 angles alone change in ours (native
            longrope has them).
        start_tokens_dropped: start tokens that the checkpoint does not carry.
        loss_change_nats: what dropping them changed in the mean loss per token on the measuring windows.
        transformers: the version that reopened it.
        short_cost: perplexities on short texts; None if none were at hand.
        weights: their number format in a folder, and the reason for it; empty for other formats.
    """

    factor_sets: str
    target_window: int
    switch_tokens: int
    difference_short: float
    difference_long: float
    rounding: float
    start_tokens_dropped: int
    loss_change_nats: float
    transformers: str
    short_cost: ShortCost | None = None
    weights: str = ""


def dump_report(report: Any) -> str:
    """The JSON text of a report, which is a dataclass; what short texts cost stands among the rest."""
    content = asdict(report)
    content |= content.pop("short_cost", None) or {}
    return json.dumps(content, indent=1) + "\n"


def compare_logits(
    model: LanguageModel, lists: NativeLists, reopened: Callable[[Arrays], Arrays]
) -> list[tuple[float, float]]:
    """Compare a reopened checkpoint with the model that was exported, below and above the switch.

    Args:
        model: the model that was exported.
        lists: what the checkpoint holds.
        reopened: given ``tokens`` [1, PROBE_TOKENS] and for each side, ``short`` and ``long``, the positions of these
            tokens, returns the checkpoint's float32 logits [1, PROBE_TOKENS, vocabulary] of each side.

    Returns:
        For each side the difference, and what float32 angles alone make of our logits.

    Raises:
        ExportError: of two lists the checkpoint takes the short one above the switch, too, or cannot be asked whether
            it does.
    """
    by_place = not set(BY_PLACE).isdisjoint(getattr(model.network.config, "layer_types", None) or ())
    if by_place and lists.factor_sets == "two":
        raise _not_compared(model.network.config.model_type)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, model.network.config.vocab_size, (1, PROBE_TOKENS))
    ends = {"short": lists.switch_tokens, "long": max(lists.long.target_window, lists.switch_tokens + 1)}
    positions = {side: (np.arange(PROBE_TOKENS) if by_place else _spread(end))[None] for side, end in ends.items()}
    theirs = reopened({"tokens": tokens, **positions})
    single = replace(model, network=float32_copy(model.network), choices=(), compiled=False)
    differences = []
    for side, factor_set in {"short": lists.short, "long": lists.long}.items():
        with rescaled(single, factor_set):
            ours = logits_at(single, tokens, positions[side])
        with rescaled(single, factor_set, precision=torch.float32):
            rounded = logits_at(single, tokens, positions[side])
        differences.append((logit_difference(ours, theirs[side]), logit_difference(ours, rounded)))
    (below, _), (above, _) = differences
    if lists.factor_sets == "two" and below <= TOLERANCE < above:
        with rescaled(single, lists.short):
            unswitched = logits_at(single, tokens, positions["long"])
        if logit_difference(unswitched, theirs["long"]) <= TOLERANCE:
            raise _not_switched(model.network.config.model_type)
    return differences


def _not_compared(model_type: str) -> ExportError:
    """As of MiniMax-M3, whose few tokens cannot stand far out: its indexers take positions for places."""
    return ExportError(
        f"The model type {model_type!r} takes positions for places in the text, so few tokens cannot stand above "
        "the switch.",
        "Whether a checkpoint with two factor sets switches there cannot be seen.",
        "Export a single factor set.",
    )


def _not_switched(model_type: str) -> ExportError:
    """As of PhiMoE, whose rotary module asks for its frequencies without a length."""
    return ExportError(
        f"The reopened checkpoint gives other logits than ours above the switch: those of the short factors, which the "
        f"model type {model_type!r} takes at every length in transformers {version('transformers')}.",
        "Two factor sets need a model type that takes the long ones above the switch.",
        "Export a single factor set.",
    )


def make_report(lists: NativeLists, differences: list[tuple[float, float]]) -> ExportReport:
    """The report of a checkpoint that holds these lists and was compared so."""
    (below, rounding_below), (above, rounding_above) = differences
    return ExportReport(
        factor_sets=lists.factor_sets,
        target_window=lists.long.target_window,
        switch_tokens=lists.switch_tokens,
        difference_short=below,
        difference_long=above,
        rounding=max(rounding_below, rounding_above),
        start_tokens_dropped=lists.start_tokens_dropped,
        loss_change_nats=lists.loss_change_nats,
        transformers=version("transformers"),
    )


def check_agreement(report: ExportReport, path: Path, model_type: str) -> None:
    """Raise ExportError unless both differences of a report are rounding."""
    tolerance = max(TOLERANCE, ROUNDINGS * report.rounding)
    differences = (report.difference_short, report.difference_long)
    if not all(difference <= tolerance for difference in differences):  # so that NaN fails, too
        raise ExportError(
            f"The checkpoint for {path} gives other logits than ours when transformers {report.transformers} "
            f"reopens it (by {differences[0]:.3g} and {differences[1]:.3g} of their standard deviation, "
            "below and above the switch).",
            f"At most {tolerance:.3g} is rounding.",
            f"This model type ({model_type}) may not support native longrope; run it with `longrope.rescaled` instead.",
        )


def logits_at(model: LanguageModel, tokens: NDArray[Any], positions: NDArray[Any]) -> NDArray[np.float32]:
    """[1, N, vocabulary] float32 logits of tokens [1, N] that stand at positions [1, N]."""
    given = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "position_ids": positions}
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(value).to(model.device) for name, value in given.items()}
        output = model.network(**tensors, use_cache=False).logits
    return np.asarray(output.float().cpu().numpy(), dtype=np.float32)


def logit_difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """How far logits are from ours: the 90 % quantile over the positions of the largest difference at each.

    Args:
        ours: [1, PROBE_TOKENS, vocabulary]; the last position only selects the list and is left out.
        theirs: of the same shape.

    Returns:
        A share of the standard deviation of ours.
    """
    largest = np.abs(ours - theirs)[0, :-1].max(axis=-1)
    return float(np.quantile(largest, COMPARED_SHARE) / ours.std())


def _spread(end: int) -> NDArray[np.int64]:
    """Positions up to FARTHEST_PROBE, and the last one, which selects the list and whose logits are not compared."""
    compared = np.linspace(0, max(0, min(end - 1, FARTHEST_PROBE) - 1), PROBE_TOKENS - 1)
    return np.append(compared.round(), end - 1).astype(np.int64)
