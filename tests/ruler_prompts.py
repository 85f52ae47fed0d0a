"""Prompts of RULER in several tokenizers, and a reader that answers them from the words of the prompt alone."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pico
import pytest
import torch
from measuring import make_context, scores_of

from longrope.data import Tokens, TokenText
from longrope.engine import decoding, rows
from longrope.evaluation import answers
from longrope.evaluation.prompts import build_prompt
from longrope.evaluation.prompts.documents import DocumentQuestion
from longrope.evaluation.prompts.prompt import Prompt
from longrope.evaluation.prompts.words import WORDS
from longrope.metrics import RULER_TASKS
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.runs.records import Score

REFERENCES = {"niah_multivalue": 4, "niah_multiquery": 4, "vt": 5, "cwe": 10, "fwe": 3}  # one, in the other tasks
KEEPERS = {"Vesel": "Ann", "Tarn": "Otto", "Mirren": "Ulla", "Corrib": "Pavel", "Ness": "Ines", "Erne": "Tadeo"}
QUESTIONS = tuple(
    DocumentQuestion(
        f"The lighthouse of {place} stands on a rock. Its keeper is {name}, who likes the sea.",
        f"Who is the keeper of the lighthouse of {place}?",
        (f"old {name}", name),
    )
    for place, name in KEEPERS.items()
)


def training_texts() -> list[str]:
    """Texts that hold every character, at the beginning of words and within them."""
    rng = np.random.default_rng(0)
    characters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
    mixed = ["".join(rng.choice(characters, 6)) for _ in range(600)]
    return [*WORDS, *mixed, " ".join(mixed), "1. 2, 3? (4) - = : '", pico.make_text(600)]


TOKENIZERS = {
    "byte-level": pico.make_tokenizer(),
    "unigram": pico.make_unigram(training_texts(), 400),
    "word-piece": pico.make_word_piece(training_texts(), 500),
}
every_tokenizer = pytest.mark.parametrize("kind", TOKENIZERS)
every_task = pytest.mark.parametrize("task", RULER_TASKS)


def essay_of(tokenizer: Any, length: int) -> Tokens:
    """Running text, as many tokens as a prompt or more."""
    ids = tokenizer(pico.make_text(2 * length), add_special_tokens=False)["input_ids"]
    return np.asarray(ids[:length], np.int32)


def build(kind: str, task: str, length: int, *, seed: int = 0, sample: int = 0) -> Prompt:
    """One prompt of a task, on the essay of the tokenizer."""
    tokenizer = TOKENIZERS[kind]
    essay = essay_of(tokenizer, length)
    return build_prompt(tokenizer, task, length, essay, seed=seed, sample=sample, questions=QUESTIONS)


def words_of(tokenizer: Any, tokens: Sequence[int] | Tokens) -> str:
    """What tokens say, in lower case, with the spaces taken out that lossy tokenizers put around signs."""
    text = tokenizer.decode(np.asarray(tokens), skip_special_tokens=True).lower()
    return re.sub(r"\s*([-=])\s*", r"\1", re.sub(r"\s+", " ", text))


def variables_of(prompt: str, value: str) -> list[str]:
    """All variables that have a value, however many steps away."""
    statements = re.findall(r"var (\w{5})=(?:var )?(\w{5}) ?\.", prompt)
    known = [name for name, giver in statements if giver == value]
    for name in known:
        known += [other for other, giver in statements if giver == name]
    return known


def made_up_words(prompt: str) -> Counter[str]:
    """How often each word comes between the opening and the question, if there is one."""
    return Counter(re.findall(r"[a-z]+", re.split(r"not the dots ?\.|the three made-up", prompt)[1]))


class SampleBuilder:
    """Stands where the network and its cache are: what it says next depends on the words that were read alone."""

    native = None
    eight_bit = True  # so that prompts are asked one by one

    def __init__(self, tokenizer: Any, answer: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on prompts are answered by ``answer``; then comes the end token."""
        self.tokenizer, self.answer = tokenizer, answer
        self.read: list[int] = []
        self.said: list[int] = []
        self.asked = 0
        self.read_lengths: list[int] = []
        self.pushed = 0
        monkeypatch.setattr(answers, "KeyValueCache", self.open_cache)
        monkeypatch.setattr(decoding, "prefill", self.prefill)
        monkeypatch.setattr(rows, "read_all", self.read_all)

    def open_cache(self, *_: object, **__: object) -> "SampleBuilder":
        """Begin to read another text."""
        self.read.clear()
        return self

    @property
    def tokens(self) -> int:
        """How many tokens the cache holds."""
        return len(self.read)

    def rewind(self, tokens: int) -> None:
        """Forget what follows."""
        del self.read[tokens:]

    def prefill(self, _: object, tokens: Tokens, cache: Any) -> Any:
        """Logits [1, V] of the first token of the answer to what has been read."""
        logits = self.read_all(None, tokens, cache, 1)[0]
        said = self.answer(words_of(self.tokenizer, self.read))
        self.said = self.tokenizer(f" {said}", add_special_tokens=False)["input_ids"] if said else []
        self.asked = len(self.read)
        logits.zero_()[0, self.said[0] if self.said else 0] = 1
        return logits

    def read_all(self, _: object, tokens: Tokens, cache: Any, last: int) -> Any:
        """Logits [1, last, V] after each of the last tokens: what is said goes on whatever was proposed."""
        assert cache is self
        first = len(self.read) - self.asked + 1
        self.read += tokens[0].tolist()
        self.pushed += tokens.size
        self.read_lengths.append(len(self.read))
        logits = torch.zeros(1, last, len(self.tokenizer))
        for i in range(last):
            at = first + tokens.shape[1] - last + i
            logits[0, i, self.said[at] if 0 <= at < len(self.said) else 0] = 1
        return logits


def text_of(tokenizer: Any, length: int) -> TokenText:
    """A text to measure on, as ``load_texts`` gives it."""
    bos = tokenizer.bos_token_id if tokenizer.bos_token == "<s>" else None
    return TokenText(np.concatenate([essay_of(tokenizer, length)] * 3), "measure", bos)


def measure_ruler(
    model: LanguageModel, text: TokenText, windows: Tokens, task: str, length: int, settings: MeasureRecipe
) -> Score:
    """The score of one task."""
    context = replace(make_context(model, None, windows, length, text=text), settings=settings)
    [score] = scores_of(f"ruler-{task}", context)
    return score


def measure_needles(model: LanguageModel, text: TokenText, windows: Tokens, length: int, needles: int) -> list[Score]:
    """The scores of needles."""
    return scores_of("needle", make_context(model, None, windows, length, text=text, needles=needles))


def hub_rows() -> list[dict[str, Any]]:
    """The questions as rows of the hub."""
    return [
        {
            "id": i,
            "context": q.document,
            "question": q.question,
            "answers": {"text": list(q.answers), "answer_start": [0]},
        }
        for i, q in enumerate(QUESTIONS)
    ]


def squad() -> dict[str, Any]:
    """The questions in SQuAD's own form, with one that has no answer."""
    asked = [
        {"question": q.question, "answers": [{"text": a, "answer_start": 1} for a in q.answers]} for q in QUESTIONS
    ]
    unanswered = {"question": "Who painted it?", "is_impossible": True, "answers": []}
    paragraphs = [{"context": q.document, "qas": [row]} for q, row in zip(QUESTIONS, asked, strict=True)]
    paragraphs[0]["qas"].append(unanswered)  # type: ignore[attr-defined]
    return {"version": "v2.0", "data": [{"title": "a", "paragraphs": paragraphs[:2]}, {"paragraphs": paragraphs[2:]}]}
