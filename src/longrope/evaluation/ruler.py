"""The tasks of the RULER benchmark and their mean (arXiv 2404.06654): the share of references in written answers."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from longrope import distributed
from longrope.data import fingerprint, read_document
from longrope.engine.rows import MOST_ROWS
from longrope.evaluation import answers
from longrope.evaluation.metric import Context, Metric, Reading
from longrope.evaluation.needles import essays
from longrope.evaluation.prompts import build_prompt
from longrope.evaluation.prompts.documents import load_questions
from longrope.evaluation.prompts.prompt import Prompt, fingerprint_prompts
from longrope.evaluation.samples import Arrays, Samples
from longrope.evaluation.statistics import Interval, share_interval, wilson_interval
from longrope.metrics import RULER_TASKS, SUBSET_TASKS
from longrope.recipe import MeasureRecipe
from longrope.runs.records import Score

PREFIX = "ruler-"


class RulerTask(Metric):
    """One task: the mean share of references that stand in the model's answers, with Wilson's interval.

    Samples: ``shares`` [K] of each prompt's references, ``tokens`` [K] pushed through the model, ``answers`` [K].
    """

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """One pass for each prompt, one for its question, and those of answers, the more the more is asked for."""
        count, (question,) = context.settings.ruler_prompts, self._builder(context)(0).questions
        asked, together = 1 if question.any_of else len(question.references), -(-count // MOST_ROWS)
        return (Reading(self.name, context.length, count, count, together * answers.USUAL_PASSES * asked),)

    def inputs(self, context: Context) -> str:
        """The first prompt, and what decides the others."""
        settings, task = context.settings, self.name.removeprefix(PREFIX)
        first = fingerprint_prompts([self._builder(context)(0)], context.subject.model.tokenizer)
        questions = read_document(Path(settings.qa_data)) if task == "qa" else ""
        return joined_names(
            [first, fingerprint(context.windows), f"{context.seed} {settings.ruler_prompts}", questions]
        )

    def samples(self, context: Context) -> Samples:
        """The answer to every prompt.

        Raises:
            TextsError: the length does not hold the task, or the file of questions cannot be used.
            ModelError: the model has recurrent layers.
        """
        identity, build, model = self.identity(context), self._builder(context), context.subject.model

        def ask(samples: Sequence[int]) -> list[tuple[float, int, str]]:
            prompts = [build(sample) for sample in samples]
            answered = answers.answer_each(model, prompts)
            context.passed(len(samples))
            lengths = (len(prompt.text) for prompt in prompts)
            return [(one.share, n + one.pushed_tokens, one.text) for one, n in zip(answered, lengths, strict=True)]

        def work(samples: Sequence[int], _: int) -> Arrays:
            together = [samples[first : first + MOST_ROWS] for first in range(0, len(samples), MOST_ROWS)]
            done = [x for some in distributed.map_ranks(together, ask, alone=True) for x in some]
            shares, tokens, texts = map(np.asarray, zip(*done, strict=True))
            return {"shares": shares, "tokens": tokens, "answers": texts}

        items, inputs = (
            partial(range, context.settings.ruler_prompts),
            (identity.texts_fingerprint, str(context.length)),
        )
        return Samples(identity, *context.grown(self.name, inputs, items, MOST_ROWS * distributed.ranks(), work))

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score; its ``num_tokens`` are those pushed through the model."""
        shares, tokens = samples.arrays["shares"].tolist(), int(samples.arrays["tokens"].sum())
        return [samples.score(self.name, share_interval(shares), num_tokens=tokens, num_windows=len(shares))]

    def _builder(self, context: Context) -> Callable[[int], Prompt]:
        """Return a function that builds each prompt, so that no two need be held at once."""
        task, length, tokenizer = self.name.removeprefix(PREFIX), context.length, context.subject.model.tokenizer
        questions = load_questions(Path(context.settings.qa_data)) if task == "qa" else ()
        running = essays(context.text, context.windows, length)

        def build(sample: int) -> Prompt:
            essay = running[sample % len(running)]
            return build_prompt(tokenizer, task, length, essay, seed=context.seed, sample=sample, questions=questions)

        return build


class RulerMean(Metric):
    """The mean over all tasks, each with as many prompts; ``qa`` is one of them where there is a file of questions.

    ``ruler-subset`` is the mean over six of them: a needle in prose, one among four, four at once, variable tracking,
    common words and frequent words.

    The interval is Wilson's with one trial for each prompt of all tasks. It says what other prompts of these tasks
    would give, not what other tasks would; tasks of unlike difficulty make it too wide, never too narrow.

    Samples: ``shares`` and ``tokens`` [T, K] of T tasks.
    """

    def parts(self, settings: MeasureRecipe) -> tuple[str, ...]:
        """All tasks that can be asked, or those of the subset."""
        tasks = RULER_TASKS if self.name == "ruler" else SUBSET_TASKS
        return tuple(f"{PREFIX}{task}" for task in tasks if task != "qa" or settings.qa_data)

    def inputs(self, context: Context) -> str:
        """The prompts of all tasks."""
        return joined_names([task.inputs(context) for task in self._tasks(context)])

    def samples(self, context: Context) -> Samples:
        """The samples of all tasks."""
        parts = [task.samples(context) for task in self._tasks(context)]
        arrays = {name: np.stack([part.arrays[name] for part in parts]) for name in ("shares", "tokens")}
        return Samples(self.identity(context), arrays, sum(part.seconds for part in parts))

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score."""
        shares, tokens = samples.arrays["shares"], int(samples.arrays["tokens"].sum())
        interval = mean_interval(shares.tolist())
        return [samples.score(self.name, interval, num_tokens=tokens, num_windows=shares.size)]

    def _tasks(self, context: Context) -> list[RulerTask]:
        return [RulerTask(name) for name in self.parts(context.settings)]


def mean_interval(shares: Sequence[Sequence[float]]) -> Interval:
    """The mean of the means of shares [T, K], with Wilson's interval: one trial for each of them."""
    value, trials = sum(sum(own) / len(own) for own in shares) / len(shares), sum(map(len, shares))
    return Interval(value, *wilson_interval(value * trials, trials))


def joined_names(parts: Sequence[str]) -> str:
    """Sixteen hex digits that name what all of these names name."""
    return fingerprint(np.frombuffer("\0".join(parts).encode(), np.uint8))
