"""Needles in prose: the share that greedy decoding would answer word for word, at random depths of running text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from longrope.evaluation.asked_texts import AskedTexts, pushed_tokens
from longrope.evaluation.metric import Context, joined
from longrope.evaluation.needles import essays
from longrope.evaluation.prompts.passkeys import DEPTHS
from longrope.evaluation.prompts.prose import KINDS, ProseText, build_prose
from longrope.evaluation.samples import Arrays, Samples
from longrope.evaluation.statistics import Interval, share_difference
from longrope.labels import at_depth
from longrope.metrics import DIFFERENCE, PROSE
from longrope.recipe import MeasureRecipe
from longrope.runs.records import Score


class ProseNeedles(AskedTexts):
    """The share of needles found over all depths, that of each kind, and that of each tenth of the depths.

    Intervals are Wilson's, of which two methods are compared by Tango's on the same needles; both count needles of one
    text as fewer.

    Samples, one of each for a needle: ``right`` and ``texts`` [K], ``kinds`` [K] the place in ``KINDS``, ``depths``
    [K] the middle of its tenth, ``tokens`` [K] pushed through the model, those of a shared text with its first needle.
    """

    compared_as = f"{PROSE}-{DIFFERENCE}"

    def names(self, context: Context) -> tuple[str, ...]:
        """``prose-needle``, with ``-KIND`` and with ``-depth-D``."""
        return context.once((self.name, "names"), lambda: self._names(self.texts(context)))

    def _names(self, texts: Sequence[ProseText]) -> tuple[str, ...]:
        needles = [needle for text in texts for needle in text.needles]
        kinds = {needle.kind for needle in needles}
        depths = sorted({_tenth(needle.depth) for needle in needles})
        of_kinds = (f"{self.name}-{kind}" for kind in KINDS if kind in kinds)
        return (self.name, *of_kinds, *(at_depth(self.name, depth) for depth in depths))

    def texts(self, context: Context) -> list[ProseText]:
        """Running texts with needles in them."""
        settings, tokenizer = context.settings, context.subject.model.tokenizer
        running = essays(context.text, context.windows, context.length)
        return build_prose(
            tokenizer, context.length, running, settings.needles, context.seed, settings.needles_per_text
        )

    def described(self, texts: Sequence[ProseText]) -> Arrays:
        """Kind, depth and tokens of each needle."""
        needles = [needle for text in texts for needle in text.needles]
        return {
            "kinds": np.asarray([KINDS.index(needle.kind) for needle in needles]),
            "depths": np.asarray([_tenth(needle.depth) for needle in needles]),
            "tokens": pushed_tokens(texts),
        }

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score over all, then one for each kind, then one for each tenth of the depths."""
        kinds, depths = samples.arrays["kinds"], samples.arrays["depths"]
        parts = {self.name: np.ones(len(kinds), bool)}
        parts |= {f"{self.name}-{kind}": kinds == i for i, kind in enumerate(KINDS) if i in kinds}
        parts |= {at_depth(self.name, depth): depths == depth for depth in sorted(set(depths.tolist()))}
        return [_score(samples, name, samples.share("right", own), own) for name, own in parts.items()]

    def compare(self, ours: Samples, theirs: Samples) -> Score:
        """The share of the first less that of the second, paired by needle."""
        right = ours.arrays["right"]
        interval = share_difference(right, theirs.arrays["right"], ours.arrays.get("texts"))
        name = f"{self.compared_as}{theirs.identity.source.method}"
        return _score(joined(ours, theirs), name, interval, np.ones(len(right), bool))


def _tenth(depth: float) -> float:
    """The middle of the tenth of a text that a depth lies in."""
    return (min(int(depth * DEPTHS), DEPTHS - 1) + 0.5) / DEPTHS


def _score(samples: Samples, metric: str, interval: Interval, own: NDArray[np.bool_]) -> Score:
    tokens = int(samples.arrays["tokens"][own].sum())
    return samples.score(metric, interval, num_tokens=tokens, num_windows=int(own.sum()))
