"""Perplexity by context window: losses summed in nats, tokens counted, divided once.

Every length is measured on the same text: the windows of the longest length are divided into shorter ones.
"""

import math
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from longrope import parallel
from longrope.factors import FactorTable
from longrope.forward import token_losses
from longrope.models import LanguageModel, rescaled
from longrope.records import Score
from longrope.texts import Tokens, TokenText, fingerprint

BLOCK_TOKENS = 512
FEWEST_BLOCKS = 32
RESAMPLES = 2000
TOKENS_PER_BATCH = 65536


def measure_perplexity(
    model: LanguageModel,
    table: FactorTable | None,
    text: TokenText,
    windows: Tokens,
    length: int,
    *,
    method: str,
    tail_tokens: int = 0,
    seed: int = 0,
) -> list[Score]:
    """Measure one length: over all tokens, and over the last ``tail_tokens`` of each window where that is fewer.

    Args:
        model: the model.
        table: factors, of which the tier for ``length`` is taken; None measures the model as it is.
        text: where the windows come from.
        windows: [W, M] windows of the longest length.
        length: context window in tokens, at most M.
        method: the name in the record.
        tail_tokens: 0 leaves the tail out.
        seed: of the bootstrap.

    Returns:
        One or two scores with 95 % bootstrap intervals over blocks of up to 512 consecutive tokens.
    """
    began = time.perf_counter()
    pieces = text.divided(windows, length)
    losses = window_losses(model, table.choose(length) if table else None, pieces)
    tails = {"perplexity": 0}
    if 0 < tail_tokens < length - 1:
        tails[f"perplexity-last-{tail_tokens}"] = tail_tokens
    seconds = time.perf_counter() - began
    scores = []
    for metric, tail in tails.items():
        scored = losses[:, -tail:]
        low, high = bootstrap_interval(scored, seed)
        scores.append(
            Score(
                metric=metric,
                value=perplexity(scored),
                low=low,
                high=high,
                method=method,
                context_tokens=length,
                num_tokens=scored.size,
                num_windows=len(scored),
                seed=seed,
                model=model.name,
                texts_fingerprint=fingerprint(windows),
                factors_fingerprint=table.fingerprint if table else "",
                seconds=round(seconds, 3),
            )
        )
    return scores


def measure_ratio(
    model: LanguageModel,
    tables: tuple[FactorTable, FactorTable],
    windows: Tokens,
    *,
    methods: tuple[str, str],
    seed: int = 0,
) -> Score:
    """Measure one method's perplexity as a share of another's on the same windows [W, N], over all their tokens.

    The interval is paired: blocks of the differences between the two losses of each token are drawn. What makes some
    texts harder than others for both methods does not widen it.
    """
    began = time.perf_counter()
    own, other = (window_losses(model, table.choose(windows.shape[1]), windows) for table in tables)
    low, high = bootstrap_interval(own - other, seed)
    return Score(
        metric=f"ratio-to-{methods[1]}",
        value=perplexity(own - other),
        low=low,
        high=high,
        method=methods[0],
        context_tokens=windows.shape[1],
        num_tokens=own.size,
        num_windows=len(own),
        seed=seed,
        model=model.name,
        texts_fingerprint=fingerprint(windows),
        factors_fingerprint=tables[0].fingerprint,
        seconds=round(time.perf_counter() - began, 3),
    )


def window_losses(model: LanguageModel, factors: object, windows: Tokens) -> NDArray[np.float64]:
    """[W, N - 1] losses in nats of windows [W, N] under one tier of factors (None: the model as it is)."""
    share = math.ceil(len(windows) / parallel.workers())
    rows = max(1, min(share, TOKENS_PER_BATCH // windows.shape[1]))
    batches = [windows[first : first + rows] for first in range(0, len(windows), rows)]
    with rescaled(model, factors):  # type: ignore[arg-type]
        losses = parallel.spread(batches, lambda batch: token_losses(model, batch).numpy())
    return np.concatenate(losses).astype(np.float64)


def perplexity(losses: NDArray[np.float64] | Sequence[float]) -> float:
    """exp(sum of the losses in nats / number of losses), infinite beyond what a float holds."""
    losses = np.asarray(losses)
    mean = float(losses.sum() / losses.size)
    return math.exp(mean) if mean < 700 else math.inf


def bootstrap_interval(losses: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % interval of the perplexity of losses [W, N], resampling blocks of consecutive tokens.

    Neighbouring losses hang together, so blocks are drawn, not tokens; windows alone would be too few. Blocks have 512
    tokens, or fewer where that would leave less than 32 of them.
    """
    block = max(1, min(BLOCK_TOKENS, losses.shape[1], losses.size // FEWEST_BLOCKS))
    edges = np.arange(0, losses.shape[1], block)
    sums = np.add.reduceat(losses, edges, axis=1).ravel()
    counts = np.tile(np.diff(np.append(edges, losses.shape[1])), len(losses))
    drawn = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.exp(np.minimum(np.quantile(means, [0.025, 0.975]), 700))
    return float(low), float(high)
