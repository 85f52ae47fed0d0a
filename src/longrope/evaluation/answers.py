"""Written answers: a text is read once, its questions are answered greedily, and references are looked for.

An answer is judged as the RULER benchmark judges it (arXiv 2404.06654): the share of references that stand in it,
whatever the case of their letters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from longrope.data import encode
from longrope.engine.decoding import decode, read_prompt
from longrope.engine.kv_cache import REWOUND_TOKENS, KeyValueCache
from longrope.evaluation.prompts.prompt import Prompt, Question
from longrope.models import LanguageModel

USUAL_TOKENS = 14  # of an answer about one number: about 8 where it is found, 20 where it is not


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        text: of the new tokens, without special ones.
        share: of the references that stand in it.
        pushed_tokens: of the question and the answer, pushed through the model after the text.
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
        answers.append(_answer(model, question, cache))
    return answers


def _answer(model: LanguageModel, question: Question, cache: KeyValueCache) -> Answer:
    """Write until the model ends the answer, all that is asked for stands there, or its cache is full."""
    begun = cache.tokens
    references = [_as_written(model, reference) for reference in question.references]
    written: list[int] = []
    text, share = "", 0.0
    logits = read_prompt(model, question.tokens, cache)
    for token in decode(model, logits, cache, lambda x: int(x.argmax()), question.answer_tokens):
        written.append(token)
        text = model.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        share = share_found(text, references, any_of=question.any_of)
        if share == 1:
            break
    return Answer(text, share, cache.tokens - begun)


def _as_written(model: LanguageModel, reference: str) -> str:
    """A reference as the tokenizer writes it: some put spaces around hyphens, or drop accents."""
    tokens = encode(model.tokenizer, f" {reference}")
    return str(model.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)).strip()


def share_found(text: str, references: Sequence[str], *, any_of: bool = False) -> float:
    """The share of references that stand in a text, in letters of any case; with ``any_of`` one of them is all."""
    found = [reference.lower() in text.lower() for reference in references]
    return float(any(found)) if any_of else sum(found) / len(found)
