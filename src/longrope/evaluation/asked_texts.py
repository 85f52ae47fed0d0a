"""What metrics share whose texts are read once and asked several things: how they are read, and what is answered.

Nothing is written token by token: the questions about a text are read after it together with their answers, each of
which is the greedy one exactly when all of its tokens are the likeliest (``longrope.engine.questions``).
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from longrope import distributed
from longrope.engine.decoding import read_prompt
from longrope.engine.kv_cache import REWOUND_TOKENS, KeyValueCache
from longrope.engine.questions import follow_greedily
from longrope.evaluation.metric import Context, Metric, Reading
from longrope.evaluation.prompts.prose import ProseText, prose_fingerprint
from longrope.evaluation.samples import Arrays, Samples
from longrope.models import LanguageModel


class AskedTexts(Metric):
    """A metric of questions about facts in texts, each of which is read once.

    Samples: ``right`` [K] whether each question is answered, ``texts`` [K] the number of the text that it is about, and
    what ``described`` adds. Those that earlier versions kept have no ``texts``.
    """

    @abstractmethod
    def texts(self, context: Context) -> list[ProseText]:
        """The texts with their questions."""

    @abstractmethod
    def described(self, texts: Sequence[ProseText]) -> Arrays:
        """What is kept of each of the [K] questions beside whether it is answered."""

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """One pass for each text, and a short one for its questions; a short text holds few of them."""
        texts = context.once((self.name, "texts"), lambda: len(self.texts(context)))
        return (Reading(self.name, context.length, texts, texts),)

    def inputs(self, context: Context) -> str:
        """The texts and questions."""
        return prose_fingerprint(self.texts(context))

    def samples(self, context: Context) -> Samples:
        """Whether each question is answered.

        Raises:
            TextsError: the length does not hold what is asked.
            ModelError: the model has layers that do not go on right from a cache.
        """
        identity, find = self.identity(context), partial(find_needles, context.subject.model)

        def work(texts: Sequence[ProseText], first: int) -> Arrays:
            found = distributed.map_ranks(texts, context.counted(find), alone=True)
            numbers = np.repeat(np.arange(first, first + len(texts)), [len(text.needles) for text in texts])
            return {"right": np.concatenate(found), "texts": numbers, **self.described(texts)}

        items, inputs = partial(self.texts, context), (identity.texts_fingerprint,)
        return Samples(identity, *context.grown(self.name, inputs, items, distributed.ranks(), work))


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


def pushed_tokens(texts: Sequence[ProseText]) -> NDArray[np.int64]:
    """[K] tokens pushed through the model for each question, those of a text with its first one."""
    first = [len(text.tokens) * (i == 0) for text in texts for i in range(len(text.needles))]
    return np.asarray(first) + [len(needle.tokens) for text in texts for needle in text.needles]
