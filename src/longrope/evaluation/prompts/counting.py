"""Tasks that look at a whole text: tracking variables (vt), common words (cwe) and frequent words (fwe)."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.data import encode
from longrope.evaluation.prompts.prompt import Draft, Haystack, Source, encode_all
from longrope.evaluation.prompts.words import WORDS, draw_compounds, draw_letters

HOPS = 4
COMMON_WORDS, FREQUENT_WORDS = 10, 3
SHORT_LIST_TOKENS = 4096  # shorter lists repeat their words less often, as the benchmark's do


def track_variables(source: Source) -> Draft:
    """A chain of assignments between repeated lines, after a short worked example: which variables have a value?"""
    rng = source.rng
    names = [word.upper() for word in draw_letters(rng, 2 * (HOPS + 1), letters=5)]
    shown, hidden = names[: HOPS + 1], names[HOPS + 1 :]
    values = rng.choice(np.arange(10**4, 10**5), 2, replace=False)
    example = "".join(_chain(shown, values[0])) + f"{_which(values[0])} {', '.join(shown)}.\n\n"
    statements = encode_all(source.tokenizer, _chain(hidden, values[1]))
    taken, depths = sum(map(len, statements)), np.sort(rng.random(HOPS + 1))

    def fill(room: int) -> NDArray[np.int32]:
        return Haystack.of_noise(source.tokenizer, room - taken).planted(statements, depths)

    opening = f"Follow the variables: a value goes from one to another.\n\n{example}"
    return Draft(opening, ((_which(values[1]), tuple(hidden)),), taken, fill)


def _chain(names: Sequence[str], value: int) -> list[str]:
    givers = [str(value), *(f"VAR {name}" for name in names)]
    return [f"VAR {name} = {giver}.\n" for name, giver in zip(names, givers, strict=False)]


def _which(value: int) -> str:
    return f"\nWhich variables have the value {value}? Those with the value {value} are"


def count_common(source: Source) -> Draft:
    """A numbered list of words, ten of which come more often than all others, after a short worked example."""
    rng = source.rng
    often, seldom = (30, 3) if source.length >= SHORT_LIST_TOKENS else (6, 1)
    apart = rng.permutation(WORDS).tolist()  # no part of a word of one kind is in a word of another
    shares = 2 * COMMON_WORDS, 4 * COMMON_WORDS
    first, second, rest = apart[: shares[0]], apart[shares[0] : shares[1]], apart[shares[1] :]
    parts = _parts(source, [f" {word}" for word in rest], often, seldom)
    shown, common = (draw_compounds(rng, COMMON_WORDS, of=words, parts=parts) for words in (first, second))
    listed = rng.permutation([*shown * 3, *draw_compounds(rng, COMMON_WORDS, of=rest, parts=parts)])
    example = "".join(f" {i}. {word}" for i, word in enumerate(listed, 1))
    question = "\nThe ten words that come most often in this list are"
    pieces = encode_all(source.tokenizer, [f" {word}" for word in common]) * often
    numbers = _numbers(source, len(pieces))
    return Draft(
        f"Some words come more often than others in a list.\n\n{example}{question} {', '.join(shown)}.\n\n",
        ((question, tuple(common)),),
        sum(map(len, (*pieces, *numbers))),
        lambda room: _numbered(source, room, pieces, rest, seldom, parts),
    )


def _parts(source: Source, words: Sequence[str], often: int, seldom: int) -> int:
    """Of how many words each word of a list is made, the common ones too: so many that there are enough others."""
    encoded = encode_all(source.tokenizer, [*words, " 100."])
    of_number, of_word = len(encoded.pop()), sum(map(len, encoded)) / len(words)
    joined = len(encode(source.tokenizer, "-"))
    for parts in count(1):
        of_item = of_number + parts * of_word + (parts - 1) * joined
        left = source.length - COMMON_WORDS * often * of_item
        longer = COMMON_WORDS * often * (of_item + of_word + joined)
        if len(words) ** parts >= left / (of_item * seldom) or longer > source.length / 2:
            break
    return parts


def _numbers(source: Source, count: int) -> list[list[int]]:
    return _encode_numbers(source.tokenizer, 1 << (count - 1).bit_length())[:count]


@lru_cache(maxsize=8)  # every list has the same numbers, and encoding them takes ten times as long as all else
def _encode_numbers(tokenizer: Any, count: int) -> list[list[int]]:
    return encode_all(tokenizer, [f" {i}." for i in range(1, count + 1)])


def _numbered(
    source: Source, room: int, common: Sequence[list[int]], words: Sequence[str], seldom: int, parts: int
) -> list[int]:
    """A numbered list in random order: the common words, and as many others, ``seldom`` times each, as fit."""
    held = len(words) ** parts
    most, fitting = min(held, max(1, room // (12 * seldom))), 0  # a guess, from what a number and a word take at most
    while True:
        drawn = draw_compounds(source.rng, most, of=words, parts=parts)
        rare = encode_all(source.tokenizer, [f" {word}" for word in drawn])
        numbers = _numbers(source, len(common) + seldom * most)
        of_numbers, of_rare = (np.cumsum([0, *map(len, pieces)]) for pieces in (numbers, rare))
        taken = of_numbers[len(common) :: seldom] + sum(map(len, common)) + seldom * of_rare
        fitting = int(np.searchsorted(taken, room, side="right")) - 1
        if fitting < most or most == held:
            break
        most = min(held, 2 * most)
    items = [*common, *rare[:fitting] * seldom]
    order = source.rng.permutation(len(items))
    return [token for number, i in zip(numbers, order, strict=False) for token in (*number, *items[i])]


def count_frequent(source: Source) -> Draft:
    """Made-up words that are the rarer, by the square of their rank, the later they rank; the first is dots.

    Which three come most often, after the dots?
    """
    words = ["....", *draw_letters(source.rng, max(10, math.isqrt(source.length)), letters=6)]
    pieces = encode_all(source.tokenizer, [f" {word}" for word in words])
    sizes = np.asarray(list(map(len, pieces)))
    shares = 6 / (math.pi * np.arange(1, len(words) + 1)) ** 2  # of all ranks to infinity they are 1 together

    def counts(total: int) -> NDArray[np.int64]:
        return (total * shares).astype(np.int64)

    def fill(room: int) -> list[int]:
        total = bisect_right(range(room + 1), room, key=lambda total: int(counts(total) @ sizes)) - 1
        order = source.rng.permutation(np.repeat(np.arange(len(words)), counts(total)))
        return [token for i in order for token in pieces[i]]

    enough = math.ceil(1 / (shares[FREQUENT_WORDS] - shares[FREQUENT_WORDS + 1]))  # the third is not the fourth
    return Draft(
        "Count the made-up words in this text, but not the dots.\n\n",
        (("\n\nThe three made-up words that come most often are", tuple(words[1 : FREQUENT_WORDS + 1])),),
        int(counts(enough) @ sizes),
        fill,
    )
