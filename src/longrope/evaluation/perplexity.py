"""Perplexity by context window: losses summed in nats, tokens counted, divided once.

Every length is measured on the same text: the windows of the longest length are divided into shorter ones, each read
with nothing before it. ``prefix-perplexity`` is another thing, that of the first N tokens of each long window: the pass
is causal, so one over the longest length has it for all shorter ones that the same factors serve.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from longrope import parallel
from longrope.evaluation.samples import Samples, begin_score
from longrope.evaluation.statistics import Losses, block_interval, perplexity
from longrope.factors import FactorTable
from longrope.forward import token_losses
from longrope.models import LanguageModel, rescaled
from longrope.records import Score
from longrope.texts import Tokens, TokenText, fingerprint

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
    samples: Samples | None = None,
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
        samples: where the losses are kept.

    Returns:
        One or two scores with 95 % bootstrap intervals over blocks of up to 512 consecutive tokens.
    """
    began = time.perf_counter()
    losses = kept_losses(model, table, text.divided(windows, length), method=method, samples=samples)
    tails = {"perplexity": 0}
    if 0 < tail_tokens < length - 1:
        tails[f"perplexity-last-{tail_tokens}"] = tail_tokens
    seconds = time.perf_counter() - began
    begun = begin_score(model, table, length, fingerprint(windows), method=method, seed=seed, seconds=seconds)
    return [score_losses(begun, metric, losses[:, -tail:], seed) for metric, tail in tails.items()]


def measure_prefix(
    model: LanguageModel,
    table: FactorTable | None,
    windows: Tokens,
    length: int,
    lengths: Sequence[int],
    *,
    method: str,
    seed: int = 0,
    samples: Samples | None = None,
) -> list[Score]:
    """Measure the perplexity of the first N tokens of each window by one pass for many lengths N.

    It equals passes over these first tokens alone to rounding, for no token sees a later one. Lengths that the same
    tier serves share the pass over the longest of them, if ``samples`` keeps it: W * max(N) tokens are pushed, where
    passes of their own would push W * sum(N), and ``perplexity``, which reads the whole text at each N, W * M for each.
    It is not ``perplexity`` at N: only the W beginnings of windows are scored, so its interval is wider.

    Args:
        model: the model.
        table: factors, of which the tier for ``length`` is taken; None measures the model as it is.
        windows: [W, M] windows of the longest length.
        length: N.
        lengths: all lengths that are measured, each at most M.
        method: the name in the record.
        seed: of the bootstrap.
        samples: where the losses of the shared pass are kept.

    Returns:
        One score, ``prefix-perplexity``, with a 95 % bootstrap interval.
    """
    began = time.perf_counter()
    tier = table.choose(length) if table else None
    shared = max(n for n in {*lengths, length} if (table.choose(n) if table else None) == tier)
    losses = kept_losses(model, table, windows[:, :shared], method=method, samples=samples)[:, : length - 1]
    seconds = time.perf_counter() - began
    begun = begin_score(model, table, length, fingerprint(windows), method=method, seed=seed, seconds=seconds)
    return [score_losses(begun, "prefix-perplexity", losses, seed)]


def measure_ratio(
    model: LanguageModel,
    tables: tuple[FactorTable | None, FactorTable | Losses | None],
    windows: Tokens,
    *,
    methods: tuple[str, str],
    seed: int = 0,
    samples: Samples | None = None,
) -> Score:
    """Measure one method's perplexity as a share of another's on the same windows [W, N], over all their tokens.

    The interval is paired: blocks of the differences between the two losses of each token are drawn. What makes some
    texts harder than others for both methods does not widen it. Where another model made them, the other's losses
    [W, N - 1] are given in place of its factors.
    """
    began, samples = time.perf_counter(), samples or Samples()
    table, other = tables
    own = kept_losses(model, table, windows, method=methods[0], samples=samples)
    if not isinstance(other, np.ndarray):
        other = kept_losses(model, other, windows, method=methods[1], samples=samples)
    length, texts, seconds = windows.shape[1], fingerprint(windows), time.perf_counter() - began
    begun = begin_score(model, table, length, texts, method=methods[0], seed=seed, seconds=seconds)
    return score_losses(begun, f"ratio-to-{methods[1]}", own - other, seed)


def kept_losses(
    model: LanguageModel, table: FactorTable | None, windows: Tokens, *, method: str, samples: Samples | None
) -> Losses:
    """[W, N - 1] losses in nats of windows [W, N] under the tier for N, from a pass unless they are kept."""
    length = windows.shape[1]
    factors = table.choose(length) if table else None
    made_of = (model.name, method, factors.fingerprint if factors else "", str(length), fingerprint(windows))
    make = partial(window_losses, model, factors, windows)
    return (samples or Samples()).get("losses", made_of, lambda: make().astype(np.float32)).astype(np.float64)


def score_losses(begun: Callable[..., Score], metric: str, losses: Losses, seed: int) -> Score:
    """The record of losses [W, any] or of differences of losses: their perplexity or its ratio, with its interval."""
    low, high = block_interval(losses, seed)
    return begun(
        metric=metric, value=perplexity(losses), low=low, high=high, num_tokens=losses.size, num_windows=len(losses)
    )


def window_losses(model: LanguageModel, factors: object, windows: Tokens) -> NDArray[np.float64]:
    """[W, N - 1] losses in nats of windows [W, N] under one tier of factors (None: the model as it is)."""
    share = math.ceil(len(windows) / parallel.workers())
    rows = max(1, min(share, TOKENS_PER_BATCH // windows.shape[1]))
    batches = [windows[first : first + rows] for first in range(0, len(windows), rows)]
    with rescaled(model, factors):  # type: ignore[arg-type]
        losses = parallel.spread(batches, lambda batch: token_losses(model, batch).numpy())
    return np.concatenate(losses).astype(np.float64)
