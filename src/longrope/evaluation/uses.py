"""Uses of long windows as metrics: in-context learning, questions about a manual, memory of a dialogue, a summary."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from longrope.evaluation.asked_texts import AskedTexts, pushed_tokens
from longrope.evaluation.metric import Context
from longrope.evaluation.needles import essays
from longrope.evaluation.prompts.prompt import Prompt, Source, assemble
from longrope.evaluation.prompts.prose import ProseText
from longrope.evaluation.prompts.reworded import write_reworded
from longrope.evaluation.prompts.uses import (
    Writer,
    build_texts,
    draft_summary,
    write_dialogue,
    write_manual,
    write_shots,
)
from longrope.evaluation.ruler import RulerTask
from longrope.evaluation.samples import Arrays, Samples
from longrope.metrics import REWORDED
from longrope.recipe import MeasureRecipe
from longrope.runs.records import Score


class Use(AskedTexts):
    """The share of questions that greedy decoding would answer word for word, with Wilson's interval.

    ``measure.needles`` questions are asked, at most ``measure.needles_per_text`` about one text, which is read once.

    Samples: ``right``, ``texts``, and ``tokens`` [K] pushed through the model, those of a text with its first question.
    """

    def texts(self, context: Context) -> list[ProseText]:
        """The texts of this use."""
        settings, running = context.settings, essays(context.text, context.windows, context.length)
        return build_texts(
            _writer(self.name),
            self.name,
            context.subject.model.tokenizer,
            context.length,
            running,
            settings.needles,
            context.seed,
            settings.needles_per_text,
        )

    def described(self, texts: Sequence[ProseText]) -> Arrays:
        """The tokens of each question."""
        return {"tokens": pushed_tokens(texts)}

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score."""
        tokens = samples.arrays["tokens"]
        interval = samples.share("right")
        return [samples.score(self.name, interval, num_tokens=int(tokens.sum()), num_windows=len(tokens))]


def _writer(name: str) -> Writer:
    if name.startswith("many-shot"):
        shots = name.removeprefix("many-shot").lstrip("-")
        return partial(write_shots, int(shots or 0))
    return {"manual-questions": write_manual, "dialogue-memory": write_dialogue, REWORDED: write_reworded}[name]


class PlantedSummary(RulerTask):
    """The mean share of planted notes that the written summary repeats word for word, with Wilson's interval.

    ``measure.ruler_prompts`` texts with five notes each.
    """

    def _builder(self, context: Context) -> Callable[[int], Prompt]:
        length, tokenizer = context.length, context.subject.model.tokenizer
        running = essays(context.text, context.windows, length)

        def build(sample: int) -> Prompt:
            rng = np.random.default_rng([context.seed, sample])
            source = Source(tokenizer, length, running[sample % len(running)], rng)
            return assemble(source, self.name, draft_summary(source))

        return build
