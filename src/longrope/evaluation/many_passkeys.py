"""Passkeys of which several stand in one text: the share that greedy decoding answers with every digit right.

A text is read once, and each question is asked right after it: a hundred passkeys take a few passes at any length.
"""

from collections.abc import Sequence

import numpy as np

from longrope.evaluation.asked_texts import AskedTexts
from longrope.evaluation.metric import Context
from longrope.evaluation.passkey import PasskeyRetrieval
from longrope.evaluation.prompts.many_passkeys import build_many_passkeys
from longrope.evaluation.prompts.prose import ProseText
from longrope.evaluation.samples import Arrays
from longrope.labels import at_depth
from longrope.metrics import DIFFERENCE, MANY_PASSKEYS


class ManyPasskeys(AskedTexts, PasskeyRetrieval):
    """The share of passkeys over all depths, then of each depth, with Wilson's intervals.

    ``num_tokens`` of a score counts the text for each passkey, as separate runs would push it.

    Samples: ``right`` [K] whether each passkey is answered with every digit right, ``depths`` [K].
    """

    compared_as = f"{MANY_PASSKEYS}-{DIFFERENCE}"

    def texts(self, context: Context) -> list[ProseText]:
        """Texts of filler with passkeys in them."""
        count, most = context.settings.passkeys, context.settings.passkeys_per_text
        return build_many_passkeys(context.subject.model.tokenizer, context.length, count, context.seed, most)

    def described(self, texts: Sequence[ProseText]) -> Arrays:
        """The depth of each passkey."""
        return {"depths": np.asarray([needle.depth for text in texts for needle in text.needles])}

    def names(self, context: Context) -> tuple[str, ...]:
        """``many-passkeys``, and ``many-passkeys-depth-D`` for each depth."""
        return context.once((self.name, "names"), lambda: self._names(self.texts(context)))

    def _names(self, texts: Sequence[ProseText]) -> tuple[str, ...]:
        depths = sorted({needle.depth for text in texts for needle in text.needles})
        return (self.name, *(at_depth(self.name, depth) for depth in depths))
