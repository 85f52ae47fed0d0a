"""Perplexity by context window: losses summed in nats, tokens counted, divided once.

Every length is measured on the same text: the windows of the longest length are divided into shorter ones, each read
with nothing before it. ``prefix-perplexity`` is another thing, that of the first N tokens of each long window: the pass
is causal, so one over the longest length has it for all shorter ones that the same factor set serves.

Shape legend: W = windows, N = tokens of a window.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from longrope import distributed
from longrope.data import Tokens, fingerprint
from longrope.engine.passes import token_losses
from longrope.errors import ModelError
from longrope.evaluation.metric import Context, Metric, Reading, joined
from longrope.evaluation.samples import Arrays, Samples
from longrope.evaluation.statistics import perplexity_interval, ratio_interval
from longrope.models import LanguageModel, rescaled
from longrope.recipe import MeasureRecipe
from longrope.rope import RescaleFactors
from longrope.runs.records import Score

TOKENS_PER_BATCH = 65536


class Perplexity(Metric):
    """Perplexity over all tokens, and over the last ``tail_tokens`` and ``tails`` of each window where these are fewer.

    Samples: ``losses`` [W, N - 1] in nats, ``documents`` [W, N - 1].
    """

    compared_as = "ratio-to-"

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """The whole text in windows of this length."""
        return (read_windows(context),)

    def names(self, context: Context) -> tuple[str, ...]:
        """``perplexity``, and ``perplexity-last-K`` for each tail."""
        return tuple(_tails(context.length, context.settings))

    def inputs(self, context: Context) -> str:
        """The windows of the longest length: every length is measured on the same text."""
        return fingerprint(context.windows)

    def samples(self, context: Context) -> Samples:
        """The losses of the whole text in windows of this length."""
        arrays, seconds = cached_losses(context, *context.divided())
        return Samples(self.identity(context), arrays, seconds)

    def scores(self, samples: Samples, settings: MeasureRecipe) -> list[Score]:
        """One score, and one for each tail."""
        tails = _tails(samples.identity.context_tokens, settings)
        return [score_losses(samples, metric, tail) for metric, tail in tails.items()]

    def compare(self, ours: Samples, theirs: Samples) -> Score:
        """The ratio of the two perplexities, paired by token."""
        return score_ratio(f"{self.compared_as}{theirs.identity.source.method}", ours, theirs)


class PrefixPerplexity(Metric):
    """Perplexity of the first N tokens of each window, by one pass for many lengths N.

    It equals passes over these first tokens alone to rounding, for no token sees a later one. Lengths that the same
    factor set serves share the pass over the longest of them: W * max(N) tokens are pushed, where passes of their own
    would push W * sum(N), and ``perplexity``, which reads the whole text at each N, W * M for each. Where attention or
    the model's own scaling depends on the length, each length has a pass of its own. It is not ``perplexity`` at N:
    only the W beginnings of windows are scored, so its interval is wider.

    Samples: as of ``Perplexity``.
    """

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """The windows of the length whose pass serves this one: where several lengths share it, the same."""
        return (losses_of(_shared(context), len(context.windows)),)

    def inputs(self, context: Context) -> str:
        """The windows of the longest length."""
        return fingerprint(context.windows)

    def samples(self, context: Context) -> Samples:
        """The first losses of the pass that is shared."""
        length, shared = context.length, _shared(context)
        arrays, seconds = cached_losses(context, context.windows[:, :shared], context.documents[:, :shared])
        first = {name: array[:, : length - 1] for name, array in arrays.items()}
        return Samples(self.identity(context), first, seconds)

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score."""
        return [score_losses(samples, self.name)]


def _shared(context: Context) -> int:
    """The longest length that is read as this one is."""
    subject, own = context.subject, context.subject.factors(context.length)
    if subject.attention or (own is None and subject.model.spec.by_length):
        return context.length
    return max(n for n in context.lengths if subject.factors(n) == own)


class PositionPerplexity(PrefixPerplexity):
    """Perplexity of the second half of the first N tokens of each window, by the pass of ``PrefixPerplexity``.

    At lengths that double from one to the next each token is scored once: loss by position.
    """

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score, of the tokens at the positions from N / 2 on."""
        length = samples.identity.context_tokens
        return [score_losses(samples, self.name, length - length // 2)]


def cached_losses(context: Context, windows: Tokens, documents: Tokens) -> tuple[Arrays, float]:
    """Losses [W, N - 1] in nats of windows [W, N] under the factor set for N, and the documents of the scored tokens.

    Returns:
        ``losses`` in float64 (kept in float32) and ``documents``, with the seconds of the pass.
    """
    subject, length = context.subject, windows.shape[1]
    scored = documents[:, 1:]  # the loss of a token is the one of predicting it

    inputs = (str(length), fingerprint(windows), fingerprint(scored))
    kind = np.min_scalar_type(int(scored.max()))

    def work(some: Sequence[int], _: int) -> Arrays:
        losses = window_losses(subject.model, subject.factors(length), windows[some], on_windows=context.passed)
        return {"losses": losses.astype(np.float32), "documents": scored[some].astype(kind)}

    rows = _rows(windows) * distributed.workers()
    arrays, seconds = context.grown("losses", inputs, partial(range, len(windows)), rows, work, length)
    return arrays | {"losses": arrays["losses"].astype(np.float64)}, seconds


def score_losses(samples: Samples, metric: str, tail: int = 0) -> Score:
    """The perplexity of samples of losses, over the last ``tail`` tokens of each window, or all."""
    losses, documents = (samples.arrays[name][:, -tail:] for name in ("losses", "documents"))
    interval = perplexity_interval(losses, documents, samples.identity.seed)
    return samples.score(metric, interval, num_tokens=losses.size, num_windows=len(losses))


def score_ratio(metric: str, ours: Samples, theirs: Samples) -> Score:
    """One perplexity as a share of another on the same tokens, paired by token."""
    losses, documents, seed = ours.arrays["losses"], ours.arrays["documents"], ours.identity.seed
    interval = ratio_interval(losses, theirs.arrays["losses"], documents, seed)
    return joined(ours, theirs).score(metric, interval, num_tokens=losses.size, num_windows=len(losses))


def read_windows(context: Context) -> Reading:
    """The windows of a context divided into those of its length."""
    return losses_of(context.length, len(context.windows) * (context.windows.shape[1] // context.length))


def losses_of(tokens: int, windows: int, kind: str = "losses", *, once: bool = False) -> Reading:
    """What ``window_losses`` takes of so many windows."""
    return Reading(kind, tokens, windows, once=once, beside=max(1, min(windows, TOKENS_PER_BATCH // tokens)))


def window_losses(
    model: LanguageModel,
    factors: RescaleFactors | None,
    windows: Tokens,
    *,
    batch_tokens: int = TOKENS_PER_BATCH,
    on_windows: Callable[[int], None] = lambda _: None,
) -> NDArray[np.float64]:
    """[W, N - 1] losses in nats of windows [W, N] under one factor set (None: the original model).

    As many windows go through the model at once as have ``batch_tokens`` or fewer, at least one. After each time
    ``on_windows`` is called with how many they were.

    Raises:
        ModelError: a loss is not finite.
    """
    rows = _rows(windows, batch_tokens)
    batches = [windows[first : first + rows] for first in range(0, len(windows), rows)]

    def read(batch: Tokens) -> NDArray[np.float32]:
        losses: NDArray[np.float32] = token_losses(model, batch).numpy()
        on_windows(len(batch))
        return losses

    with rescaled(model, factors):
        losses = np.concatenate(distributed.map_ranks(batches, read))
    if bad := losses.size - np.isfinite(losses).sum():
        raise ModelError(
            f"{bad:,} of {losses.size:,} losses of {model.name!r} at {windows.shape[1]:,} tokens are not finite "
            f"({f'factors {factors.fingerprint}' if factors else 'the original model'}).",
            "A perplexity needs a finite loss of every token.",
            "Check the weights, or try another --dtype: float32 or bfloat16.",
        )
    return losses.astype(np.float64)


def _rows(windows: Tokens, batch_tokens: int = TOKENS_PER_BATCH) -> int:
    """How many of some windows [W, N] one process reads side by side."""
    share = math.ceil(len(windows) / distributed.workers())
    length: int = windows.shape[1]
    return max(1, min(share, batch_tokens // length))


def _tails(length: int, settings: MeasureRecipe) -> dict[str, int]:
    """The metrics at a length, by the last tokens of a window that they score; 0 is all."""
    tails = dict.fromkeys((settings.tail_tokens, *settings.tails))
    return {"perplexity": 0, **{f"perplexity-last-{tail}": tail for tail in tails if 0 < tail < length - 1}}
