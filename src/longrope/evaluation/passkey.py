"""Passkey retrieval: the share of hidden passkeys that greedy decoding answers with every digit right."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from longrope import distributed
from longrope.engine.passes import greedy_answers
from longrope.evaluation.metric import Context, Metric, Reading, joined
from longrope.evaluation.prompts.passkeys import Passkey, build_passkeys, spread_depths, tasks_fingerprint
from longrope.evaluation.samples import Arrays, Samples
from longrope.evaluation.statistics import Interval, share_difference
from longrope.labels import at_depth
from longrope.recipe import MeasureRecipe
from longrope.runs.records import Score


class PasskeyRetrieval(Metric):
    """The share of passkeys over all depths, then of each depth, with Wilson's intervals.

    A passkey is found if its tokens are the model's likeliest ones; what the model would write after them does not
    count.

    Samples: ``right`` [K] whether each passkey is answered with every digit right, ``depths`` [K].
    """

    compared_as = "difference-to-"

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """One pass for each, its answer included."""
        return (Reading("passkeys", context.length, context.settings.passkeys),)

    def names(self, context: Context) -> tuple[str, ...]:
        """``passkey``, and ``passkey-depth-D`` for each depth."""
        depths = sorted(set(spread_depths(context.settings.passkeys)))
        return (self.name, *(at_depth(self.name, depth) for depth in depths))

    def inputs(self, context: Context) -> str:
        """The prompts."""
        return tasks_fingerprint(_tasks(context))

    def samples(self, context: Context) -> Samples:
        """The answer to every prompt of this length."""
        identity, model = self.identity(context), context.subject.model

        def ask(task: Passkey) -> bool:
            return bool(greedy_answers(model, task.tokens[None], task.answer_tokens)[0])

        def work(tasks: Sequence[Passkey], _: int) -> Arrays:
            right = distributed.map_ranks(tasks, context.counted(ask))
            return {"right": np.asarray(right), "depths": np.asarray([task.depth for task in tasks])}

        items, inputs = partial(_tasks, context), (identity.texts_fingerprint,)
        return Samples(identity, *context.grown("passkeys", inputs, items, distributed.workers(), work))

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score over all depths, then one for each depth."""
        right, depths = samples.arrays["right"], samples.arrays["depths"]
        parts = {self.name: np.ones(len(right), bool)}
        parts |= {at_depth(self.name, depth): depths == depth for depth in sorted(set(depths.tolist()))}
        return [_score(samples, name, samples.share("right", own), int(own.sum())) for name, own in parts.items()]

    def compare(self, ours: Samples, theirs: Samples) -> Score:
        """The share of the first less that of the second, paired by passkey."""
        right = ours.arrays["right"]
        interval = share_difference(right, theirs.arrays["right"], ours.arrays.get("texts"))
        return _score(joined(ours, theirs), f"{self.compared_as}{theirs.identity.source.method}", interval, len(right))


def _tasks(context: Context) -> list[Passkey]:
    tokenizer = context.subject.model.tokenizer
    return build_passkeys(tokenizer, context.length, context.settings.passkeys, context.seed)


def _score(samples: Samples, metric: str, interval: Interval, prompts: int) -> Score:
    num_tokens = samples.identity.context_tokens * prompts
    return samples.score(metric, interval, num_tokens=num_tokens, num_windows=prompts)
