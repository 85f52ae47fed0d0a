"""Whether far context helps: the same last tokens of each window, read with near context, with more, and with other.

``far-context`` scores the last tokens of each window twice: read with the trained window that ends there (near), and
with the last N tokens (whole). The scored tokens are the same at every N, and every comparison is paired by token and
resampled over documents. ``far-shuffled`` and ``far-replaced`` are controls: the near context stays, and what comes
before it is put in another order, or taken from another document. A model that uses far context is the better by it;
one that merely stands it is not.

Shape legend: W = windows, M = tokens of a window of the longest length, N = tokens that are read, L = trained window,
K = scored tokens of a window, at most L - 1.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from longrope.data import Tokens, fingerprint
from longrope.errors import RecipeError, TextsError
from longrope.evaluation.metric import Context, Metric, Reading
from longrope.evaluation.perplexity import cached_losses, losses_of, score_losses, score_ratio
from longrope.evaluation.samples import Samples
from longrope.metrics import LAST_TOKENS
from longrope.recipe import MeasureRecipe
from longrope.rope import RopeSpec
from longrope.runs.records import Score

PIECE_TOKENS, FEWEST_PIECES = 512, 8  # of shuffled context; shorter pieces where there would be fewer


class LastTokens(Metric):
    """What the measurements of the same last tokens share: which they are, and the losses of a reading."""

    def check(self, lengths: Sequence[int], spec: RopeSpec) -> None:
        """One length must lie beyond the trained window, and none that is compared is shorter than it."""
        if lengths[-1] <= spec.trained_window:
            raise RecipeError(
                f"{self.name} was asked for at {', '.join(f'{n:,}' for n in lengths)} tokens.",
                f"Far context begins beyond the model's own window of {spec.trained_window:,}.",
                "Add a longer one to the lengths.",
            )

    def inputs(self, context: Context) -> str:
        """The windows of the longest length, and how much of them is scored."""
        parts = [context.windows.ravel(), np.asarray([context.windows.shape[1], scored_tokens(context)], np.int32)]
        return fingerprint(np.concatenate(parts))

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """The end of each window with near context and with all of this length; whole windows are perplexity's."""
        window, count = context.subject.model.spec.trained_window, len(context.windows)
        lengths = {window, context.length} if context.length >= window else set()
        return tuple(losses_of(length, count) for length in sorted(lengths))


class FarContext(LastTokens):
    """Perplexity of the same last tokens at each length, and its ratios to that with near context alone.

    ``far-context`` is the ratio of the two perplexities of one method, below 1 where far context helps;
    ``far-context-last-T`` the same over the last T tokens alone, which have the most near context; and
    ``far-context-original`` the ratio to the original model's perplexity with near context, over ``tails``, too.

    Samples: ``losses`` [W, K] in nats, ``near`` and ``original`` [W, K] of the same tokens where N > L, ``documents``
    [W, K].
    """

    compared_as = f"{LAST_TOKENS}ratio-to-"

    def names(self, context: Context) -> tuple[str, ...]:
        """The perplexity from the trained window on, and its ratios beyond it."""
        window, scored = context.subject.model.spec.trained_window, scored_tokens(context)
        perplexity = (f"{LAST_TOKENS}{scored}",) * (context.length >= window)
        return perplexity + _ratios(scored, context.settings) * (context.length > window)

    def samples(self, context: Context) -> Samples:
        """The losses of the last tokens, by the passes over whole windows and over near context."""
        near = replace(context, length=context.subject.model.spec.trained_window)
        own = [_last_losses(context, *_nearest(context))]
        if context.length > near.length:
            own += [_last_losses(some, *_nearest(some)) for some in (near, near.of(context.original))]
        documents = own[0].arrays["documents"]
        arrays = {name: s.arrays["losses"] for name, s in zip(("losses", "near", "original"), own, strict=False)}
        return Samples(self.identity(context), arrays | {"documents": documents}, sum(s.seconds for s in own))

    def scores(self, samples: Samples, settings: MeasureRecipe) -> list[Score]:
        """One score, and beyond the trained window its ratios."""
        scored = samples.arrays["losses"].shape[1]
        scores = [score_losses(samples, f"{LAST_TOKENS}{scored}")]
        if "near" not in samples.arrays:
            return scores
        for name in _ratios(scored, settings):
            *_, tail = name.rpartition("-last-") if "-last-" in name else ("0",)
            other = "original" if name.startswith("far-context-original") else "near"
            scores.append(_paired(name, samples, other, int(tail)))
        return scores

    def compare(self, ours: Samples, theirs: Samples) -> Score:
        """The ratio of two methods' perplexities of the last tokens, paired by token."""
        return score_ratio(f"{self.compared_as}{theirs.identity.source.method}", ours, theirs)


class FarControl(LastTokens):
    """The perplexity of the last tokens as a share of that with other far context, and the latter.

    The share is below 1 where a method makes use of what stands far away: of its order (``far-shuffled``: pieces of 512
    tokens of the same window, permuted), or of its subject (``far-replaced``: another document's). The near context,
    the last L tokens, stays.

    Samples: ``losses`` and ``control`` [W, K] in nats of the same tokens, ``documents`` [W, K].
    """

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """The windows of this length twice (raises TextsError as ``samples`` does)."""
        count = len(context.windows) if self.names(context) else 0
        if count:
            self._changed(context, *_nearest(context))
        return tuple(losses_of(context.length, count, kind) for kind in ("losses", self.name) if count)

    def names(self, context: Context) -> tuple[str, ...]:
        """Two scores beyond the trained window."""
        beyond = context.length > context.subject.model.spec.trained_window
        return (self.name, f"{self.name}-perplexity") if beyond else ()

    def samples(self, context: Context) -> Samples:
        """The losses with the far context as it is, and with the other.

        Raises:
            TextsError: far context is to be replaced, and no window is of other documents.
        """
        windows, documents = _nearest(context)
        changed = self._changed(context, windows, documents)
        own, other = (_last_losses(context, tokens, documents) for tokens in (windows, changed))
        arrays = own.arrays | {"control": other.arrays["losses"]}
        return Samples(self.identity(context), arrays, own.seconds + other.seconds)

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """The ratio, and the perplexity with the other context."""
        other = replace(samples, arrays=samples.arrays | {"losses": samples.arrays["control"]})
        return [_paired(self.name, samples, "control"), score_losses(other, f"{self.name}-perplexity")]

    def _changed(self, context: Context, windows: Tokens, documents: Tokens) -> Tokens:
        """Windows [W, N] with other far context."""
        near = context.subject.model.spec.trained_window
        change = shuffled if self.name == "far-shuffled" else replaced
        return change(windows, documents, near, opening=context.text.bos is not None, seed=context.seed)


def scored_tokens(context: Context) -> int:
    """How many of the last tokens of a window are scored, K: all that near context predicts, or fewer where asked."""
    most = context.subject.model.spec.trained_window - 1
    return min(context.settings.last_tokens or most, most)


def shuffled(windows: Tokens, documents: Tokens, near: int, *, opening: bool, seed: int) -> Tokens:
    """Windows [W, N] whose far context stands in another order, piece by piece.

    Args:
        windows: token ids.
        documents: not looked at: the pieces are of the same window.
        near: how many of the last tokens stay, the opening token counted.
        opening: whether the first token opens each window; it stays, too.
        seed: of the order.
    """
    del documents
    first, last = int(opening), windows.shape[1] - near + int(opening)
    size = max(1, min(PIECE_TOKENS, (last - first) // FEWEST_PIECES))
    changed = windows.copy()
    for i, window in enumerate(windows):
        pieces = np.split(window[first:last], range(size, last - first, size))
        order = np.random.default_rng([seed, i]).permutation(len(pieces))
        changed[i, first:last] = np.concatenate([pieces[j] for j in order])
    return changed


def replaced(windows: Tokens, documents: Tokens, near: int, *, opening: bool, seed: int) -> Tokens:
    """Windows [W, N] whose far context is that of another window: the next one whose documents are all others.

    Args:
        windows: token ids.
        documents: [W, N] the document of each.
        near: how many of the last tokens stay, the opening token counted.
        opening: whether the first token opens each window; it stays, too.
        seed: not used: nothing is drawn.

    Raises:
        TextsError: a window shares a document with each of the others.
    """
    del seed
    last = windows.shape[1] - near + int(opening)
    held = [set(row.tolist()) for row in documents[:, int(opening) :]]
    changed = windows.copy()
    for i in range(len(windows)):
        others = [(i + step) % len(windows) for step in range(1, len(windows))]
        source = next((j for j in others if not held[i] & held[j]), None)
        if source is None:
            raise TextsError(
                f"Far context was to be replaced by another document's; window {i + 1} of {len(windows)} shares a "
                "document with every other.",
                "Windows of two documents or more are needed.",
                "Give more documents, ask for more windows, or leave far-replaced out.",
            )
        changed[i, :last] = windows[source, :last]
    return changed


def _nearest(context: Context) -> tuple[Tokens, Tokens]:
    """The last tokens [W, N] of each window, opened as every text is, and their documents [W, N]."""
    opening = int(context.text.bos is not None)
    kept = context.length - opening
    windows, documents = (
        np.concatenate([whole[:, :opening], whole[:, whole.shape[1] - kept :]], axis=1)
        for whole in (context.windows, context.documents)
    )
    return windows, documents


def _last_losses(context: Context, windows: Tokens, documents: Tokens) -> Samples:
    """Losses [W, K] of the last tokens of windows that are read whole, and their documents [W, K]."""
    arrays, seconds = cached_losses(context, windows, documents)
    last: dict[str, NDArray[np.generic]] = {name: a[:, -scored_tokens(context) :] for name, a in arrays.items()}
    return Samples(context.identity(""), last, seconds)


def _paired(metric: str, samples: Samples, other: str, tail: int = 0) -> Score:
    """The perplexity as a share of that by the other losses, over the last ``tail`` tokens, or all."""
    documents = samples.arrays["documents"][:, -tail:]
    ours, theirs = (
        replace(samples, arrays={"losses": samples.arrays[name][:, -tail:], "documents": documents})
        for name in ("losses", other)
    )
    return score_ratio(metric, ours, replace(theirs, seconds=0.0))


def _ratios(scored: int, settings: MeasureRecipe) -> tuple[str, ...]:
    tails = dict.fromkeys((settings.tail_tokens, *settings.tails))
    near = (f"far-context-last-{tail}" for tail in tails if 0 < tail < scored)
    original = (f"far-context-original-last-{tail}" for tail in settings.tails if tail < scored)
    return ("far-context", *near, "far-context-original", *original)
