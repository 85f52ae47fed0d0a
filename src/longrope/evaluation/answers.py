"""Written answers: a text is read once, its questions are answered greedily, and references are looked for.

An answer is judged as the RULER benchmark judges it (arXiv 2404.06654): the share of references that stand in it,
whatever the case of their letters. What is written is the greedy answer, in any order of words; that the right answer
is proposed first makes it no likelier (``longrope.engine.drafts``), but writes it in two passes where it is found.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from longrope.data import Tokens, encode
from longrope.engine.decoding import read_prompt
from longrope.engine.drafts import draft_steps, look_up, next_step
from longrope.engine.kv_cache import REWOUND_TOKENS, KeyValueCache
from longrope.engine.rows import read_side_by_side, rows_beside
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


Writing = Generator[list[int], list[int], Answer]  # asks for passes over tokens, in exchange for the likeliest ones


def answer_prompt(model: LanguageModel, prompt: Prompt) -> list[Answer]:
    """Answer the questions of a prompt one by one, each right after its text, which is read once.

    Args:
        model: run in its current state (raises ModelError if its layers do not go on right from a cache).
        prompt: text and questions.
    """
    cache = _cache_for(model, [prompt])
    read_prompt(model, prompt.text, cache)
    answers = []
    for question in prompt.questions:
        cache.rewind(len(prompt.text))
        answers += _answer_all(model, [_answering(model, question, prompt.text, cache)], [cache])
    return answers


def answer_each(model: LanguageModel, prompts: Sequence[Prompt]) -> list[Answer]:
    """Answer prompts of one question each, as ``answer_prompt`` does; several are written side by side.

    As many as their keys and values take a part of the free memory, by those of the first one. Models whose own scaling
    depends on the length of a sequence are asked one by one, so that each has its own.
    """
    if len(prompts) == 1 or model.spec.by_length:
        return [answer for prompt in prompts for answer in answer_prompt(model, prompt)]
    answers: list[Answer] = []
    together: list[tuple[Prompt, KeyValueCache]] = []
    rows = 1
    for number, prompt in enumerate(prompts, 1):
        cache = _cache_for(model, prompts)
        read_prompt(model, prompt.text, cache)
        together.append((prompt, cache))
        rows = rows_beside(model, cache) if len(together) == 1 else rows
        if len(together) == rows or number == len(prompts):
            writing = [_answering(model, some.questions[0], some.text, own) for some, own in together]
            answers += _answer_all(model, writing, [own for _, own in together])
            together = []
    return answers


def _cache_for(model: LanguageModel, prompts: Sequence[Prompt]) -> KeyValueCache:
    """An empty cache with space for each of some prompts and its answer; beside others also for a draft of theirs."""
    most = max(len(question.tokens) + question.answer_tokens for some in prompts for question in some.questions)
    longest = max(len(some.text) for some in prompts)
    beside = most if len(prompts) > 1 else 0
    return KeyValueCache(model, longest + most + beside, drop=most + beside <= REWOUND_TOKENS)


def _answer_all(model: LanguageModel, writing: Sequence[Writing], caches: Sequence[KeyValueCache]) -> list[Answer]:
    """Let all answers be written, each pass for all of those that are not finished."""
    answers: dict[int, Answer] = {}
    given: dict[int, list[int] | None] = dict.fromkeys(range(len(writing)))
    while given:
        asked = {}
        for i, likeliest in given.items():
            try:
                asked[i] = writing[i].send(likeliest)  # type: ignore[arg-type]  # None begins a generator
            except StopIteration as end:
                answers[i] = end.value
        read = read_side_by_side(model, list(asked.values()), [caches[i] for i in asked]) if asked else []
        given = dict(zip(asked, read, strict=True))
    return [answers[i] for i in range(len(writing))]


def _answering(model: LanguageModel, question: Question, text_before: Tokens, cache: KeyValueCache) -> Writing:
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
    text, share, pushed = "", 0.0, len(question.tokens)
    logits = read_prompt(model, question.tokens, cache)
    steps = draft_steps(model, cache, propose, logits, question.answer_tokens)
    likeliest: list[int] | None = None
    while (step := next_step(steps, likeliest)) is not None:
        if isinstance(step, list):
            pushed += len(step)
            likeliest = yield step
            continue
        likeliest = None
        written.append(step)
        text = model.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        share = share_found(text, references, any_of=question.any_of)
        if share == 1:
            break
    return Answer(text, share, pushed)


def _as_written(model: LanguageModel, reference: str) -> str:
    """A reference as the tokenizer writes it: some put spaces around hyphens, or drop accents."""
    tokens = encode(model.tokenizer, f" {reference}")
    return str(model.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)).strip()


def share_found(text: str, references: Sequence[str], *, any_of: bool = False) -> float:
    """The share of references that stand in a text, in letters of any case; with ``any_of`` one of them is all."""
    found = [reference.lower() in text.lower() for reference in references]
    return float(any(found)) if any_of else sum(found) / len(found)
