"""Written answers: a text is read once, its questions are answered greedily, and references are looked for.

An answer is judged as the RULER benchmark judges it (arXiv 2404.06654): the share of references that stand in it,
whatever the case of their letters. What is written is the greedy answer, in any order of words; that the right answer
is proposed first makes it no likelier (``longrope.engine.drafts``), but writes it in two passes where it is found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from longrope.data import Tokens, encode
from longrope.engine.decoding import read_prompt
from longrope.engine.drafts import Drafting, look_up
from longrope.engine.kv_cache import REWOUND_TOKENS, KeyValueCache
from longrope.evaluation.prompts.prompt import Prompt, Question
from longrope.models import LanguageModel

USUAL_PASSES = 7  # for each number or word of an answer: about 2 where it is found, 4 to 10 where it is not
DRAFT_TOKENS = 16  # that are looked up at once


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: of the new tokens, without special ones.
        share: of the references that stand in it.
        pushed_tokens: of the question and the answer, pushed through the model after the text, with what was proposed.
    """

    text: str
    share: float
    pushed_tokens: int


def answer_prompt(model: LanguageModel, prompt: Prompt) -> list[Answer]:
    """Answer the questions of a prompt one by one, each right after its text, which is read once.

    Args:
        model: run in its current state (raises ModelError if its layers do not go on right from a cache).
        prompt: text and questions.
    """
    most = max(len(question.tokens) + question.answer_tokens for question in prompt.questions)
    cache = KeyValueCache(model, len(prompt.text) + most, drop=most <= REWOUND_TOKENS)
    read_prompt(model, prompt.text, cache)
    answers = []
    for question in prompt.questions:
        cache.rewind(len(prompt.text))
        answers.append(_answer(model, question, prompt.text, cache))
    return answers


def _answer(model: LanguageModel, question: Question, text_before: Tokens, cache: KeyValueCache) -> Answer:
    """Write until the model ends the answer, all that is asked for stands there, or its cache is full."""
    references = [_as_written(model, reference) for reference in question.references]
    expected = question.references[:1] if question.any_of else question.references
    guess = encode(model.tokenizer, f" {', '.join(expected)}")
    known = np.concatenate([text_before, question.tokens, guess, question.tokens])

    def propose(so_far: Sequence[int]) -> Sequence[int]:
        if guess[: len(so_far)] == list(so_far):
            return guess[len(so_far) :]
        return look_up(known, so_far, DRAFT_TOKENS)

    written: list[int] = []
    text, share = "", 0.0
    logits = read_prompt(model, question.tokens, cache)
    answer = Drafting(model, cache, propose)
    for token in answer.write(logits, question.answer_tokens):
        written.append(token)
        text = model.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        share = share_found(text, references, any_of=question.any_of)
        if share == 1:
            break
    return Answer(text, share, len(question.tokens) + answer.pushed_tokens)


def _as_written(model: LanguageModel, reference: str) -> str:
    """A reference as the tokenizer writes it: some put spaces around hyphens, or drop accents."""
    tokens = encode(model.tokenizer, f" {reference}")
    return str(model.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)).strip()


def share_found(text: str, references: Sequence[str], *, any_of: bool = False) -> float:
    """The share of references that stand in a text, in letters of any case; with ``any_of`` one of them is all."""
    found = [reference.lower() in text.lower() for reference in references]
    return float(any(found)) if any_of else sum(found) / len(found)
