"""Names, numbers and codes that prompts are about, drawn at random."""

import uuid
from collections.abc import Sequence
from string import ascii_lowercase

import numpy as np

WORDS = (  # none is a part of another, so that none is found where only another was said
    "acorn almond amber anchor apple apron arrow atlas autumn badger bamboo barley basket beacon beaver bishop "
    "blanket blossom bonfire bottle branch bridge bronze bucket butter button cabin camel candle canoe canyon "
    "carpet castle cedar cellar cherry chimney cinder circus clover cobalt comet copper coral cotton cradle crimson "
    "crystal curtain cymbal daisy dancer desert dragon drummer eagle ember engine fabric falcon feather fiddle "
    "finch flannel forest fossil fountain galley garlic gentle ginger glacier goblet golden gravel guitar hammer "
    "hazel heron hollow honey humble indigo island ivory jacket jasper jolly juniper kettle kitten ladder lemon "
    "linen lively lizard magnet maple marble market meadow melon mirror mitten modest morning mustard nectar nimble "
    "noble nutmeg oatmeal olive onion orange otter oyster paddle parrot pebble pepper pigeon pillow planet plum "
    "pocket polite pony poppy prairie pudding purple puzzle quarry quiet rabbit raisin raven rocket rowdy saffron "
    "salmon sandal scarlet shovel silver sleepy spider spruce summer sunny tailor teapot thistle thunder timber "
    "tulip tunnel turtle velvet vessel village violet wagon walrus whistle willow winter wooden yellow zebra"
).split()
NUMBER_DIGITS = 7


def draw_compounds(rng: np.random.Generator, count: int, *, of: Sequence[str] = WORDS, parts: int = 1) -> list[str]:
    """Draw ``count`` different compounds of ``parts`` words, or of more where there are not so many."""
    while len(of) ** parts < count:
        parts += 1
    drawn = rng.choice(len(of) ** parts, count, replace=False)
    places = drawn[:, None] // len(of) ** np.arange(parts) % len(of)
    return ["-".join(of[i] for i in row) for row in places]


def draw_letters(rng: np.random.Generator, count: int, letters: int) -> list[str]:
    """Draw ``count`` different words of so many random letters."""
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(ascii_lowercase[i] for i in rng.integers(26, size=letters))] = None
    return list(words)


def draw_value(rng: np.random.Generator, kind: str) -> str:
    """Draw a ``number`` of seven digits, or a ``code``: a UUID."""
    if kind == "code":
        return str(uuid.UUID(bytes=rng.bytes(16), version=4))
    return str(rng.integers(10 ** (NUMBER_DIGITS - 1), 10**NUMBER_DIGITS))
