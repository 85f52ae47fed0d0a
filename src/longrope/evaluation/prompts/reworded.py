"""Facts in a chat log, asked for in other words: the answer stands before what it is about, and no words lead to it.

Needles in prose and those that trainings plant end a question with the words that stand before the answer in the
text, so that a model finds it by looking for them. Here only the thing is named in both places. The lines are made up,
and none of their words for things, people and towns is among those of the other needles.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from longrope.data import Tokens, encode, encode_answer
from longrope.evaluation.prompts.uses import Asked, Script

FORMS = {  # by kind of answer: what is written, and the beginning of the answer at the end
    "number": ("{answer} is what stands on the label of the {thing}", "what is on the {thing}?\nAnswer: number"),
    "person": ("{answer} took the {thing} home with her", "who has the {thing} now?\nAnswer: it is with"),
    "town": ("in {answer} they are still looking for the {thing}", "where was the {thing} lost?\nAnswer: in"),
}
KINDS = tuple(FORMS)
COLOURS = "azure beige maroon teal turquoise ochre lilac mauve pink khaki navy cream".split()
THINGS = "umbrella cello tripod scooter hammock telescope sledge accordion parasol easel harp kayak".split()
PEOPLE = "Wanda Yvonne Tamara Priya Noemi Ottilie Bridget Camille Dagmar Esther Fatima Harriet Ilona Judith".split()
TOWNS = "Lisbon Oslo Vienna Dublin Prague Naples Geneva Bergen Krakow Seville Turin Porto Malmo Ghent".split()
SPEAKERS = "Ann Joe Sue Tim".split()
TALK = (  # its words in order; every name is in it, too, so that to say a name of the log is a guess
    PEOPLE,
    "hears that|hopes that|thinks that|reads that".split("|"),
    "the train to|the ferry to|the road to|the coach to".split("|"),
    TOWNS,
    "is late|is slow|is free|is closed".split("|"),
    "before lunch|after sunset|at midnight|on holidays|in spring".split("|"),
)
MOST = len(COLOURS) * len(THINGS)  # of one text


def write_reworded(tokenizer: Any, rng: np.random.Generator, essay: Tokens, room: int, count: int) -> Script:
    """A log of small talk with facts of three kinds at random places; they take a quarter of it at most."""
    del essay
    names = [f"{COLOURS[i % len(COLOURS)]} {THINGS[i // len(COLOURS)]}" for i in rng.permutation(MOST)[:count]]
    facts = [(KINDS[i % len(KINDS)], name, _draw_answer(rng, KINDS[i % len(KINDS)])) for i, name in enumerate(names)]
    said = [FORMS[kind][0].format(thing=name, answer=answer) for kind, name, answer in facts]
    longest = max(len(encode(tokenizer, _line(0, text))) for text in said)
    said = said[: max(1, room // 4 // longest)]
    asked = [
        (kind, f"\nQuestion: {FORMS[kind][1].format(thing=name)}", answer) for kind, name, answer in facts[: len(said)]
    ]
    ending = max(len(encode_answer(tokenizer, question, answer)[0]) for _, question, answer in asked)
    left = room - ending - longest * len(said)
    talks: list[str] = []
    while (left := left - len(encode(tokenizer, _line(len(talks), talk := _draw_talk(rng))))) >= 0:
        talks.append(talk)
    lines = len(talks) + len(said)
    places = np.sort(rng.permutation(lines)[: len(said)]).tolist()
    fact_at, others = dict(zip(places, said, strict=True)), iter(talks)

    def pieces() -> Iterator[list[int]]:
        for number in range(lines):
            yield encode(tokenizer, _line(number, fact_at[number] if number in fact_at else next(others)))

    def ask(written: int) -> list[Asked]:
        placed = zip(asked, places, strict=True)
        return [Asked(kind, question, answer, (at + 0.5) / written) for (kind, question, answer), at in placed]

    return Script(ending, pieces(), ask, lines, whole=True)


def _line(number: int, text: str) -> str:
    return f"{SPEAKERS[number % len(SPEAKERS)]}: {text}.\n"


def _draw_talk(rng: np.random.Generator) -> str:
    return " ".join(part[int(rng.integers(len(part)))] for part in TALK)


def _draw_answer(rng: np.random.Generator, kind: str) -> str:
    if kind == "number":
        return str(rng.integers(10**3, 10**4))
    words = PEOPLE if kind == "person" else TOWNS
    return words[int(rng.integers(len(words)))]
