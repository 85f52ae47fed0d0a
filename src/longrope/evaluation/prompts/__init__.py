"""Prompts of the RULER benchmark's task families (arXiv 2404.06654, section 3), built in tokens to an exact length.

Tasks, names and settings are the benchmark's; words and sentences are our own. A prompt ends where its answer begins,
so that models which follow no instructions go on with it. Its essays are windows of the text that is measured on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from longrope.data import Tokens
from longrope.evaluation.prompts.counting import count_common, count_frequent, track_variables
from longrope.evaluation.prompts.documents import DocumentQuestion, ask_documents, choose_question
from longrope.evaluation.prompts.needles import NeedleTask
from longrope.evaluation.prompts.prompt import Draft, Prompt, Source, assemble
from longrope.metrics import RULER_TASKS

DRAFTS: dict[str, Callable[[Source], Draft]] = {
    "niah_single_1": NeedleTask("noise").draft,
    "niah_single_2": NeedleTask("essay").draft,
    "niah_single_3": NeedleTask("essay", kind="code").draft,
    "niah_multikey_1": NeedleTask("essay", keys=4).draft,
    "niah_multikey_2": NeedleTask("needles").draft,
    "niah_multikey_3": NeedleTask("needles", key_kind="code", kind="code").draft,
    "niah_multivalue": NeedleTask("essay", values=4).draft,
    "niah_multiquery": NeedleTask("essay", keys=4, asked=4).draft,
    "vt": track_variables,
    "cwe": count_common,
    "fwe": count_frequent,
}


def build_prompt(
    tokenizer: Any,
    task: str,
    length: int,
    essay: Tokens,
    *,
    seed: int = 0,
    sample: int = 0,
    questions: Sequence[DocumentQuestion] = (),
) -> Prompt:
    """Build one prompt of a task.

    Args:
        tokenizer: the model's.
        task: one of ``RULER_TASKS``.
        length: of text, question and answer together, in tokens.
        essay: token ids of running text to hide needles in, as many as ``length`` or more.
        seed: decides, with ``sample``, every random choice.
        sample: which of the task's prompts it is.
        questions: for ``qa``; each sample asks another.

    Raises:
        TextsError: the length does not hold the task, or there are not so many questions.
    """
    source = Source(tokenizer, length, essay, np.random.default_rng([seed, sample, RULER_TASKS.index(task)]))
    if task == "qa":
        draft = ask_documents(source, questions, choose_question(questions, seed, sample))
    else:
        draft = DRAFTS[task](source)
    return assemble(source, f"ruler-{task}", draft)
