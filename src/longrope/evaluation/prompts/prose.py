"""Needles in prose: made-up numbers, names and sentences at random depths of running text, each asked for by itself.

No sentence, place or person of these is in the needles that searches and trainings plant (``longrope.data.needles``).
Their form, a question before the beginning of its answer, is that of a training's needles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longrope.data import Tokens, encode, encode_answer, fingerprint, opening_tokens
from longrope.errors import TextsError

KINDS = ("number", "name", "sentence")
TEMPLATES: dict[str, tuple[tuple[str, str], ...]] = {  # question, and the beginning of the needle that is its answer's
    "number": (
        ("How many steps lead up the tower of {place}?", "Up the tower of {place} the number of steps is"),
        ("In which year did the bridge at {place} fall?", "The bridge at {place} fell in the year"),
        ("How many books does the library of {place} own?", "The number of books in the library of {place} is"),
    ),
    "name": (
        ("Who painted the hall of {place}?", "The hall of {place} was painted by"),
        ("Who looks after the lighthouse of {place}?", "The lighthouse of {place} is looked after by"),
        ("Who won the boat race at {place}?", "The boat race at {place} was won by"),
    ),
    "sentence": (
        ("What is written above the gate of {place}?", "Above the gate of {place} it is written:"),
        ("What do the children of {place} sing?", "The children of {place} sing:"),
        ("What did the last letter from {place} say?", "The last letter from {place} said:"),
    ),
}
PLACES = (  # beginnings and endings
    "Ash Bram Cald Dun Elder Farn Grims Holm Ingle Kirk Lang Marl North Oak Pem Raven Selk Thorn Ulver Wick".split(),
    "bury combe dale field ford gate ham hurst leigh mere moor port ridge stead stow thwaite ton wall worth".split(),
)
MOST = math.prod(map(len, PLACES)) * sum(map(len, TEMPLATES.values()))
PEOPLE = (
    "Agnes Bruno Clara Dorian Edith Felix Greta Hugo Ingrid Jonas Klara Leopold Martha Nils Olga Ruben Sofia".split(),
    "Abbott Barlow Carver Draper Fletcher Gardner Harper Keller Lindgren Mason Norris Parker Quinn Slater".split(),
)
SENTENCES = (  # their words in order
    "Seven Eight Nine Twelve Twenty Thirty".split(),
    "brown grey young old quick slow wild tame".split(),
    "geese horses sailors bakers weavers miners foxes clouds".split(),
    "cross follow guard leave watch greet paint cover".split(),
    "the".split(),
    "frozen sunken northern lonely broken shining ancient empty".split(),
    "valley bakery quay orchards stairs wells roofs island".split(),
)


@dataclass(frozen=True)
class ProseNeedle:
    """One needle and its question.

    Attributes:
        kind: one of ``KINDS``.
        depth: where in the text it stands, 0 (start) to 1 (end).
        tokens: [n] token ids of the question with its answer, which follow the text.
        answer_tokens: how many of the last ones are the answer.
    """

    kind: str
    depth: float
    tokens: Tokens
    answer_tokens: int


@dataclass(frozen=True)
class ProseText:
    """A text [N] and the needles in it; with the longest question and its answer it is as long as asked."""

    tokens: Tokens
    needles: tuple[ProseNeedle, ...]


def build_prose(
    tokenizer: Any, length: int, essays: Tokens, count: int, seed: int, most_per_text: int
) -> list[ProseText]:
    """Hide ``count`` needles, of the three kinds in turn, at depths that are drawn evenly.

    A text holds as many needles as take no more than a quarter of it, at most ``most_per_text``.

    Args:
        tokenizer: the model's.
        length: of text, question and answer together, in tokens.
        essays: [E, N] running texts to hide them in, taken in turn.
        count: how many needles.
        seed: of all that is drawn.
        most_per_text: needles that one text may hold.

    Raises:
        TextsError: the length does not hold one needle, or the tokenizer cannot write an answer.
    """
    rng = np.random.default_rng([seed, length])
    facts = _draw_facts(rng, count)
    written = [encode(tokenizer, f"\n{beginning} {answer}.\n") for _, _, beginning, answer in facts]
    needles = [
        ProseNeedle(kind, float(rng.random()), *_asked(tokenizer, f"\n{question} {beginning}", answer))
        for kind, question, beginning, answer in facts
    ]
    head = opening_tokens(tokenizer)
    longest, ending = max(map(len, written)), max(len(needle.tokens) for needle in needles)
    room = length - len(head) - ending
    if room < longest:
        raise TextsError(
            f"Needles in prose were asked for at {length} tokens.",
            f"At least {length - room + longest} tokens are needed for a sentence and a question.",
            "Measure prose-needle at greater lengths.",
        )
    per_text = max(1, min(most_per_text, room // 4 // longest))
    texts: list[ProseText] = []
    for first in range(0, count, per_text):
        own, pieces = needles[first : first + per_text], written[first : first + per_text]
        essay = essays[len(texts) % len(essays)][: room - sum(map(len, pieces))]
        body = _planted(essay, pieces, [needle.depth for needle in own])
        texts.append(ProseText(np.concatenate([head, body]).astype(np.int32), tuple(own)))
    return texts


def prose_fingerprint(texts: Sequence[ProseText]) -> str:
    """Sixteen hex digits that name texts, questions and answers."""
    needles = [needle for text in texts for needle in text.needles]
    pieces = [*(text.tokens for text in texts), *(needle.tokens for needle in needles)]
    sizes = [*map(len, pieces), *(needle.answer_tokens for needle in needles)]
    return fingerprint(np.concatenate([sizes, *pieces]))


def _draw_facts(rng: np.random.Generator, count: int) -> list[tuple[str, str, str, str]]:
    """Kind, question, beginning and answer of needles; no two are about one thing of one place."""
    facts: dict[tuple[str, str], tuple[str, str]] = {}
    if count > MOST:
        raise TextsError(
            f"{count:,} needles in prose were asked for.",
            f"There are names for {MOST:,}, so that no two are about one thing of one place.",
            "Give fewer measure.needles.",
        )
    while len(facts) < count:
        kind = KINDS[len(facts) % len(KINDS)]
        templates = TEMPLATES[kind]
        place = _draw(rng, PLACES)
        question, beginning = (part.format(place=place) for part in templates[rng.integers(len(templates))])
        if (question, beginning) not in facts:
            facts[question, beginning] = (kind, _draw_answer(rng, kind))
    return [(kind, question, beginning, answer) for (question, beginning), (kind, answer) in facts.items()]


def _draw_answer(rng: np.random.Generator, kind: str) -> str:
    if kind == "number":
        return str(rng.integers(10**3, 10**4))
    return _draw(rng, PEOPLE if kind == "name" else SENTENCES, " ")


def _draw(rng: np.random.Generator, parts: Sequence[Sequence[str]], between: str = "") -> str:
    return between.join(part[int(rng.integers(len(part)))] for part in parts)


def _asked(tokenizer: Any, question: str, answer: str) -> tuple[Tokens, int]:
    tokens, answer_tokens = encode_answer(tokenizer, question, answer)
    return np.asarray(tokens, np.int32), answer_tokens


def _planted(essay: Tokens, pieces: Sequence[Sequence[int]], depths: Sequence[float]) -> Tokens:
    """A text with pieces put in, each at its depth."""
    order = np.argsort(depths, kind="stable")
    parts = np.split(essay, np.rint(np.asarray(depths)[order] * len(essay)).astype(int))
    planted = [part for before, i in zip(parts, order, strict=False) for part in (before, pieces[i])]
    return np.concatenate([*planted, parts[-1]]).astype(np.int32)
