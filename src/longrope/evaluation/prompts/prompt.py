"""Prompts of an exact number of tokens: a text, questions about it, and space for an answer.

Pieces are encoded one by one and joined as tokens, so that counts hold for tokenizers whose text cannot be joined.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.data import Tokens, check_answer, encode, fingerprint, opening_tokens
from longrope.errors import TextsError
from longrope.evaluation.prompts.chat import ChatFormat
from longrope.evaluation.prompts.passkeys import FILLER

ANSWER_SHARE, FEWEST_ANSWER_TOKENS = 2, 16


@dataclass(frozen=True)
class Question:
    """One question about a text.

    Attributes:
        tokens: [n] token ids, up to where the answer begins.
        references: what the answer is to name.
        any_of: whether one of them is enough.
        answer_tokens: how many tokens may follow: all that is left of the prompt's length.
    """

    tokens: Tokens
    references: tuple[str, ...]
    any_of: bool
    answer_tokens: int


@dataclass(frozen=True)
class Prompt:
    """A text [N] and the questions about it; the text, any one of them and its answer are as long as asked."""

    text: Tokens
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Source:
    """What prompts are drawn from.

    Attributes:
        tokenizer: the model's.
        length: of the whole prompt in tokens, its answer included.
        essay: running text for needles to hide in.
        rng: random numbers.
        chat: of a prompt that is one message to a chat model; None where the model goes on with the text.
    """

    tokenizer: Any
    length: int
    essay: Tokens
    rng: np.random.Generator
    chat: ChatFormat | None = None

    @property
    def before(self) -> tuple[int, ...]:
        """Tokens that stand before every text."""
        return self.chat.before if self.chat else tuple(opening_tokens(self.tokenizer))

    def ask(self, question: str) -> list[int]:
        """Tokens of a question, up to where the answer begins."""
        return [*encode(self.tokenizer, question), *(self.chat.after if self.chat else ())]

    def answer_tokens(self, asked: str, references: Sequence[str], *, any_of: bool) -> int:
        """Twice what the references take, written out, so that they may come among other words.

        A chat model answers in a sentence, which repeats the question.
        """
        written = references if any_of else (", ".join(references),)
        tokens = max(len(encode(self.tokenizer, f" {text}")) for text in written)
        repeated = len(encode(self.tokenizer, asked)) if self.chat else 0
        return max(FEWEST_ANSWER_TOKENS, ANSWER_SHARE * tokens) + repeated


@dataclass(frozen=True)
class Draft:
    """A prompt whose text is still to be filled.

    Attributes:
        opening: its first sentences.
        asked: questions with their references.
        least: tokens that the text takes at least, without the opening.
        fill: makes a text of so many tokens or some fewer.
        any_of: whether one of the references is enough.
    """

    opening: str
    asked: tuple[tuple[str, tuple[str, ...]], ...]
    least: int
    fill: Callable[[int], Sequence[int] | Tokens]
    any_of: bool = False


def assemble(source: Source, name: str, draft: Draft) -> Prompt:
    """Make a prompt of exactly the asked length; what whole pieces leave of its text is filled at its head.

    Raises:
        TextsError: the length does not hold the draft of this name, or the tokenizer lacks characters of a reference
            (see ``check_answer``). References of which one is enough come from a file, and may have any characters.
    """
    tokenizer, length, room = source.tokenizer, source.length, measure_room(source, draft)
    for reference in () if draft.any_of else dict.fromkeys(one for _, some in draft.asked for one in some):
        check_answer(tokenizer, reference, encode(tokenizer, f" {reference}"))
    if room < draft.least:
        raise TextsError(
            f"A prompt of {length} tokens was asked for {name}.",
            f"At least {length + draft.least - room} tokens are needed for its sentences and the answer.",
            f"Measure {name} at greater lengths.",
        )
    body = np.asarray(draft.fill(room), np.int32)
    assert len(body) <= room
    head = [*source.before, *_filler(tokenizer, room - len(body)), *encode(tokenizer, draft.opening)]
    text = np.concatenate([np.asarray(head, np.int32), body])
    questions = []
    for asked, references in draft.asked:
        tokens = np.asarray(source.ask(asked), np.int32)
        questions.append(Question(tokens, references, draft.any_of, length - len(text) - len(tokens)))
    return Prompt(text, tuple(questions))


def measure_room(source: Source, draft: Draft) -> int:
    """How many tokens opening, the longest question and its answer leave for the text; it may be below 0."""
    endings = [
        len(source.ask(asked)) + source.answer_tokens(asked, references, any_of=draft.any_of)
        for asked, references in draft.asked
    ]
    opening = len(source.before) + len(encode(source.tokenizer, draft.opening))
    return source.length - opening - max(endings)


def fingerprint_prompts(prompts: Sequence[Prompt], tokenizer: Any) -> str:
    """Sixteen hex digits that name the content of prompts: texts, questions and references."""
    questions = [question for prompt in prompts for question in prompt.questions]
    written = [encode(tokenizer, "\n".join(question.references)) for question in questions]
    pieces: list[Any] = [*(prompt.text for prompt in prompts), *(question.tokens for question in questions), *written]
    return fingerprint(np.concatenate([[len(piece) for piece in pieces], *pieces]))


def encode_all(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of many pieces of text, with nothing added."""
    return list(tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]) if texts else []


@dataclass(frozen=True)
class Haystack:
    """Tokens [N] and the places [B] between which needles do not break a piece, the first 0 and the last N."""

    tokens: Tokens
    borders: NDArray[np.int64]

    @classmethod
    def of_pieces(cls, pieces: Sequence[Sequence[int]]) -> "Haystack":
        """Pieces that stay whole."""
        tokens = np.asarray([token for piece in pieces for token in piece], np.int32)
        return cls(tokens, np.cumsum([0, *map(len, pieces)]))

    @classmethod
    def of_noise(cls, tokenizer: Any, room: int) -> "Haystack":
        """One line again and again, whole, in so many tokens or fewer."""
        line = encode(tokenizer, FILLER)
        return cls.of_pieces([line] * (room // len(line)))

    @classmethod
    def of_essay(cls, essay: Tokens, room: int) -> "Haystack":
        """The beginning of a running text, of just so many tokens."""
        assert len(essay) >= room
        return cls(essay[:room], np.arange(room + 1))

    def planted(self, needles: Sequence[Sequence[int]], depths: NDArray[np.float64]) -> Tokens:
        """Tokens with needles put in, each at its depth, 0 (before all) to 1 (after all)."""
        order = np.argsort(depths, kind="stable")
        pieces = np.split(self.tokens, self.borders[np.rint(depths[order] * (len(self.borders) - 1)).astype(int)])
        parts = [part for piece, i in zip(pieces, order, strict=False) for part in (piece, needles[i])]
        return np.concatenate([*parts, pieces[-1]]).astype(np.int32)


def _filler(tokenizer: Any, count: int) -> list[int]:
    """The last ``count`` tokens of a line that is repeated."""
    line = encode(tokenizer, FILLER)
    lines = line * math.ceil(count / len(line))
    return lines[len(lines) - count :]
