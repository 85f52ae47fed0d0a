"""Passkeys of which several stand in one text: the share that greedy decoding answers with every digit right.

A text is read once, and each question is asked right after it: a hundred passkeys take a few passes at any length.
"""

import numpy as np

from longrope import distributed
from longrope.evaluation.metric import Context, Reading
from longrope.evaluation.passkey import PasskeyRetrieval
from longrope.evaluation.prompts.many_passkeys import build_many_passkeys
from longrope.evaluation.prompts.prose import ProseText, prose_fingerprint
from longrope.evaluation.prose import find_needles
from longrope.evaluation.samples import Arrays, Samples
from longrope.labels import at_depth
from longrope.metrics import DIFFERENCE, MANY_PASSKEYS


class ManyPasskeys(PasskeyRetrieval):
    """The share of passkeys over all depths, then of each depth, with Wilson's intervals.

    ``num_tokens`` of a score counts the text for each passkey, as separate runs would push it.

    Samples: ``right`` [K] whether each passkey is answered with every digit right, ``depths`` [K].
    """

    compared_as = f"{MANY_PASSKEYS}-{DIFFERENCE}"

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """One pass for each text, and a short one for its questions with their answers."""
        texts = -(-context.settings.passkeys // context.settings.passkeys_per_text)
        return (Reading(self.name, context.length, texts, texts),)

    def names(self, context: Context) -> tuple[str, ...]:
        """``many-passkeys``, and ``many-passkeys-depth-D`` for each depth."""
        depths = sorted({needle.depth for text in _built(context) for needle in text.needles})
        return (self.name, *(at_depth(self.name, depth) for depth in depths))

    def inputs(self, context: Context) -> str:
        """The texts and questions."""
        return prose_fingerprint(_built(context))

    def samples(self, context: Context) -> Samples:
        """The answer to every question (raises ModelError if the model's layers do not go on right from a cache)."""
        identity, model = self.identity(context), context.subject.model

        def make() -> Arrays:
            texts = _built(context)
            with context.subject.reading(context.length):
                found = distributed.map_ranks(
                    texts, context.counted(lambda text: find_needles(model, text)), alone=True
                )
            depths = [needle.depth for text in texts for needle in text.needles]
            return {"right": np.concatenate(found), "depths": np.asarray(depths)}

        inputs, factors = (identity.texts_fingerprint,), context.subject.factors(context.length)
        arrays, seconds = context.cached(self.name, inputs, factors, make)
        return Samples(identity, arrays, seconds)


def _built(context: Context) -> list[ProseText]:
    settings, tokenizer = context.settings, context.subject.model.tokenizer
    return build_many_passkeys(tokenizer, context.length, settings.passkeys, context.seed, settings.passkeys_per_text)
