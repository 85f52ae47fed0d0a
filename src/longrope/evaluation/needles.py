"""Needles in running text: the share that the model finds, at each of ten depths of one length."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from longrope import distributed
from longrope.data import Tokens, TokenText
from longrope.evaluation import answers
from longrope.evaluation.metric import Context, Metric, Reading
from longrope.evaluation.prompts.chat import chat_format
from longrope.evaluation.prompts.needles import build_needles
from longrope.evaluation.prompts.prompt import Prompt, fingerprint_prompts
from longrope.evaluation.samples import Arrays, Samples
from longrope.labels import at_depth
from longrope.metrics import CHAT_NEEDLE
from longrope.recipe import MeasureRecipe
from longrope.runs.records import Score


class Needles(Metric):
    """The share of needles found over all depths, then of each depth, with Wilson's intervals.

    ``needle`` has any model go on with the text; ``chat-needle`` asks in the format of the model's chat template.

    Up to ``needles_per_text`` stand in one text, which is read once for all of them. ``num_tokens`` of the score over
    all depths counts the tokens that were pushed so; that of a single depth counts the text for each needle, as
    separate runs would. So the sum over the depths, divided by the former, is what sharing saves.

    Samples, one of each for a needle: ``shares`` [K], ``depths`` [K], ``text_tokens`` and ``answer_tokens`` [K] pushed
    for its text and for question and answer, ``texts`` [K] the number of the text that it stands in, ``answers`` [K].
    """

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """One pass for the needles of a text; each question is a short one, and its answer is written."""
        count = context.settings.needles
        texts = context.once((self.name, "texts"), lambda: len(self._built(context)))
        return (Reading(self.name, context.length, texts, count * (1 + answers.USUAL_PASSES)),)

    def names(self, context: Context) -> tuple[str, ...]:
        """``needle``, and ``needle-depth-D`` for each depth."""
        return context.once((self.name, "names"), lambda: self._names(self._built(context)))

    def _names(self, built: Sequence[tuple[Prompt, Sequence[float]]]) -> tuple[str, ...]:
        depths = sorted({depth for _, depths in built for depth in depths})
        return (self.name, *(at_depth(self.name, depth) for depth in depths))

    def inputs(self, context: Context) -> str:
        """The prompts: texts, questions and references."""
        prompts = [prompt for prompt, _ in self._built(context)]
        return fingerprint_prompts(prompts, context.subject.model.tokenizer)

    def samples(self, context: Context) -> Samples:
        """The answer to every question about a needle.

        Raises:
            TextsError: the length does not hold a needle.
            RecipeError: ``chat-needle`` is asked for, and the model has no chat template.
            ModelError: the model has recurrent layers.
        """
        identity, model = self.identity(context), context.subject.model

        def answer(item: tuple[Prompt, list[float]]) -> list[answers.Answer]:
            return answers.answer_prompt(model, item[0])

        def work(built: Sequence[tuple[Prompt, list[float]]], first: int) -> Arrays:
            done = distributed.map_ranks(built, context.counted(answer), alone=True)
            rows = [
                (one.share, depth, len(prompt.text), one.pushed_tokens, number, one.text)
                for number, ((prompt, depths), answered) in enumerate(zip(built, done, strict=True), first)
                for depth, one in zip(depths, answered, strict=True)
            ]
            names = ("shares", "depths", "text_tokens", "answer_tokens", "texts", "answers")
            return dict(zip(names, map(np.asarray, zip(*rows, strict=True)), strict=True))

        items, inputs = partial(self._built, context), (identity.texts_fingerprint,)
        return Samples(identity, *context.grown("needles", inputs, items, distributed.ranks(), work))

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score over all depths, then one for each depth."""
        shares, depths, of_text, of_answer, texts = (
            samples.arrays[name] for name in ("shares", "depths", "text_tokens", "answer_tokens", "texts")
        )
        first = np.diff(texts, prepend=-1) > 0  # a text is read once
        pushed = int(of_answer.sum() + of_text[first].sum())
        interval = samples.share("shares")
        scores = [samples.score(self.name, interval, num_tokens=pushed, num_windows=len(shares))]
        for depth in sorted(set(depths.tolist())):
            own = depths == depth
            interval, tokens = samples.share("shares", own), int((of_text + of_answer)[own].sum())
            scores.append(
                samples.score(at_depth(self.name, depth), interval, num_tokens=tokens, num_windows=int(own.sum()))
            )
        return scores

    def _built(self, context: Context) -> list[tuple[Prompt, list[float]]]:
        """The prompts, each with the depth of the needle of each of its questions."""
        running, length = essays(context.text, context.windows, context.length), context.length
        tokenizer, settings = context.subject.model.tokenizer, context.settings
        chat = chat_format(tokenizer) if self.name == CHAT_NEEDLE else None
        return build_needles(
            tokenizer, length, running, settings.needles, context.seed, settings.needles_per_text, chat
        )


def essays(text: TokenText, windows: Tokens, length: int) -> Tokens:
    """Running texts [E, N] to hide needles in: the measured windows divided, without an opening token."""
    return text.divided(windows, length)[:, int(text.bos is not None) :]
