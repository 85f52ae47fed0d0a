"""Made-up facts to plant in the windows of a training: codes of eight things, or numbers, names and phrases about many.

No sentence, thing or person of these is in the needles that are measured (``longrope.evaluation.prompts``).
"""

from dataclasses import dataclass

import numpy as np

CODED = "harbour lantern orchard violin granite meadow compass saddle chapel ribbon anchor walnut".split()
MOST = 32  # varied facts of a window
TEMPLATES = {  # by kind of answer: question, and the beginning of the fact that is its answer's
    "number": (
        ("What was the price of the {thing}?", "The price of the {thing} was"),
        ("Under which number was the {thing} filed?", "The {thing} was filed under number"),
        ("How much does the {thing} weigh?", "The weight of the {thing} in grams is"),
    ),
    "name": (
        ("Who repaired the {thing}?", "The {thing} was repaired by"),
        ("Who owns the {thing}?", "The owner of the {thing} is"),
        ("To whom was the {thing} sent?", "The {thing} was sent to"),
    ),
    "phrase": (
        ("What was inside the {thing}?", "Inside the {thing} there were"),
        ("What was the {thing} traded for?", "The {thing} was traded for"),
        ("What was next to the {thing}?", "Next to the {thing} somebody saw"),
    ),
}
THINGS = (
    "oval square wooden copper leather painted rusty narrow heavy striped hollow velvet tin cracked".split(),
    "basket kettle mirror suitcase clock ladder teapot lamp trunk cradle wagon bottle drum flute".split(),
)
NAMES = (
    "Alma Boris Celia Dmitri Elena Farid Gloria Hamid Irene Julian Kamal Lucia Marek Nadia Oscar Paula Rashid".split(),
    "Adler Bianchi Castro Duarte Engel Ferrari Gomez Haddad Ivanov Jansen Kovacs Lopez Moreau Novak Okafor".split(),
)
PHRASES = (
    "two three four five six ten".split(),
    "green silver dusty bright tiny smooth dried bitter".split(),
    "coins pears buttons feathers candles pebbles spoons letters".split(),
    "and".split(),
    "some many few".split(),
    "ropes nails beans gloves shells ribbons maps corks".split(),
)


@dataclass(frozen=True)
class Fact:
    """A fact that is planted as ``beginning answer.``, and the question that ends with the same beginning."""

    question: str
    beginning: str
    answer: str


def draw_codes(rng: np.random.Generator) -> list[Fact]:
    """Eight things, each with a code of five digits."""
    codes = {str(name): str(rng.integers(10**4, 10**5)) for name in rng.choice(CODED, 8, replace=False)}
    return [
        Fact(f"What is the code of the {name}?", f"The code of the {name} is", code) for name, code in codes.items()
    ]


def draw_varied(rng: np.random.Generator) -> list[Fact]:
    """As many facts as a window may hold, of three kinds of answers, no two of them about one thing."""
    first, second = THINGS
    facts = []
    for place in rng.choice(len(first) * len(second), MOST, replace=False):
        thing = f"{first[place // len(second)]} {second[place % len(second)]}"
        kind = list(TEMPLATES)[rng.integers(len(TEMPLATES))]
        question, beginning = (part.format(thing=thing) for part in TEMPLATES[kind][rng.integers(len(TEMPLATES[kind]))])
        facts.append(Fact(question, beginning, _draw_answer(rng, kind)))
    return facts


def _draw_answer(rng: np.random.Generator, kind: str) -> str:
    if kind == "number":
        digits = rng.integers(3, 6)
        return str(rng.integers(10 ** (digits - 1), 10**digits))
    return " ".join(words[rng.integers(len(words))] for words in (NAMES if kind == "name" else PHRASES))
