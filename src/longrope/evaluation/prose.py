"""Needles in prose: the share that greedy decoding would answer word for word, at random depths of running text.

Nothing is written token by token: a text is read once, and its questions are read after it together with their answers,
each of which is the greedy one exactly when all of its tokens are the likeliest (``longrope.engine.questions``).
"""

import numpy as np
from numpy.typing import NDArray

from longrope import distributed
from longrope.engine.decoding import read_prompt
from longrope.engine.kv_cache import REWOUND_TOKENS, KeyValueCache
from longrope.engine.questions import follow_greedily
from longrope.evaluation.metric import Context, Metric, Reading, joined
from longrope.evaluation.needles import essays
from longrope.evaluation.prompts.passkeys import DEPTHS
from longrope.evaluation.prompts.prose import KINDS, ProseText, build_prose, prose_fingerprint
from longrope.evaluation.samples import Arrays, Samples
from longrope.evaluation.statistics import Interval, share_difference, share_interval
from longrope.labels import at_depth
from longrope.metrics import DIFFERENCE, PROSE
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.runs.records import Score


class ProseNeedles(Metric):
    """The share of needles found over all depths, that of each kind, and that of each tenth of the depths.

    Intervals are Wilson's, of which two methods are compared by Tango's on the same needles.

    Samples, one of each for a needle: ``right`` [K], ``kinds`` [K] the place in ``KINDS``, ``depths`` [K] the middle of
    its tenth, ``tokens`` [K] pushed through the model, those of a shared text with its first needle.
    """

    compared_as = f"{PROSE}-{DIFFERENCE}"

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """One pass for each text, and a short one for its questions with their answers."""
        texts = -(-context.settings.needles // context.settings.needles_per_text)
        return (Reading(self.name, context.length, texts, texts),)

    def names(self, context: Context) -> tuple[str, ...]:
        """``prose-needle``, with ``-KIND`` and with ``-depth-D``."""
        needles = [needle for text in _built(context) for needle in text.needles]
        kinds = {needle.kind for needle in needles}
        depths = sorted({_tenth(needle.depth) for needle in needles})
        of_kinds = (f"{self.name}-{kind}" for kind in KINDS if kind in kinds)
        return (self.name, *of_kinds, *(at_depth(self.name, depth) for depth in depths))

    def inputs(self, context: Context) -> str:
        """The texts and questions."""
        return prose_fingerprint(_built(context))

    def samples(self, context: Context) -> Samples:
        """Whether each needle is found.

        Raises:
            TextsError: the length does not hold a needle.
            ModelError: the model has layers that do not go on right from a cache.
        """
        identity, factors = self.identity(context), context.subject.factors(context.length)

        def make() -> Arrays:
            texts, model = _built(context), context.subject.model
            with context.subject.reading(context.length):
                found = distributed.map_ranks(
                    texts, context.counted(lambda text: find_needles(model, text)), alone=True
                )
            needles = [needle for text in texts for needle in text.needles]
            first = [len(text.tokens) * (i == 0) for text in texts for i in range(len(text.needles))]
            return {
                "right": np.concatenate(found),
                "kinds": np.asarray([KINDS.index(needle.kind) for needle in needles]),
                "depths": np.asarray([_tenth(needle.depth) for needle in needles]),
                "tokens": np.asarray(first) + [len(needle.tokens) for needle in needles],
            }

        arrays, seconds = context.cached(self.name, (identity.texts_fingerprint,), factors, make)
        return Samples(identity, arrays, seconds)

    def scores(self, samples: Samples, settings: MeasureRecipe) -> list[Score]:
        """One score over all, then one for each kind, then one for each tenth of the depths."""
        del settings
        kinds, depths = samples.arrays["kinds"], samples.arrays["depths"]
        parts = {self.name: np.ones(len(kinds), bool)}
        parts |= {f"{self.name}-{kind}": kinds == i for i, kind in enumerate(KINDS) if i in kinds}
        parts |= {at_depth(self.name, depth): depths == depth for depth in sorted(set(depths.tolist()))}
        return [
            _score(samples, name, share_interval(samples.arrays["right"][own].tolist()), own)
            for name, own in parts.items()
        ]

    def compare(self, ours: Samples, theirs: Samples) -> Score:
        """The share of the first less that of the second, paired by needle."""
        right = ours.arrays["right"]
        interval = share_difference(right, theirs.arrays["right"])
        name = f"{self.compared_as}{theirs.identity.source.method}"
        return _score(joined(ours, theirs), name, interval, np.ones(len(right), bool))


def find_needles(model: LanguageModel, text: ProseText) -> list[bool]:
    """Whether greedy decoding would answer each question about a text, which is read once.

    Args:
        model: run in its current state.
        text: with the needles in it.
    """
    most = max(len(needle.tokens) for needle in text.needles)
    cache = KeyValueCache(model, len(text.tokens) + most, drop=most <= REWOUND_TOKENS)
    read_prompt(model, text.tokens, cache)
    return follow_greedily(model, [(needle.tokens, needle.answer_tokens) for needle in text.needles], cache)


def _built(context: Context) -> list[ProseText]:
    settings, tokenizer = context.settings, context.subject.model.tokenizer
    running = essays(context.text, context.windows, context.length)
    return build_prose(tokenizer, context.length, running, settings.needles, context.seed, settings.needles_per_text)


def _tenth(depth: float) -> float:
    """The middle of the tenth of a text that a depth lies in."""
    return (min(int(depth * DEPTHS), DEPTHS - 1) + 0.5) / DEPTHS


def _score(samples: Samples, metric: str, interval: Interval, own: NDArray[np.bool_]) -> Score:
    tokens = int(samples.arrays["tokens"][own].sum())
    return samples.score(metric, interval, num_tokens=tokens, num_windows=int(own.sum()))
