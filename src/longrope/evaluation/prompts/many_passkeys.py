"""Several passkeys in one filler text, each of something of its own, so that one pass over a long text serves for all.

It is harder than one passkey alone: the other keys of a text distract from each.
"""

from typing import Any

import numpy as np

from longrope.data import encode, encode_answer, opening_tokens
from longrope.errors import TextsError
from longrope.evaluation.prompts.passkeys import FILLER, KEY_DIGITS, OPENING, spread_depths
from longrope.evaluation.prompts.prompt import Haystack
from longrope.evaluation.prompts.prose import ProseNeedle, ProseText

KIND = "passkey"
NEEDLE = "The pass key of the {thing} is {key}. Keep it in mind: {key} is the pass key of the {thing}.\n"
QUESTION = "What is the pass key of the {thing}? The pass key of the {thing} is"
COLOURS = "red green blue white black yellow brown grey golden silver".split()
THINGS = "hall chest drawer cabin garage locker tower cellar barn office".split()
MOST = len(COLOURS) * len(THINGS)  # of one text


def build_many_passkeys(tokenizer: Any, length: int, count: int, seed: int, per_text: int) -> list[ProseText]:
    """Texts with up to ``per_text`` passkeys, at ten depths in turn, 5 % to 95 %.

    A text with its longest question and answer has exactly ``length`` tokens.

    Args:
        tokenizer: the model's.
        length: in tokens.
        count: how many passkeys in all.
        seed: of the passkeys and of what they are of.
        per_text: at most 100.

    Raises:
        TextsError: the length does not hold them, or the tokenizer cannot write an answer.
    """
    rng = np.random.default_rng([seed, length, per_text])
    depths = spread_depths(count)
    return [_build(tokenizer, length, depths[first : first + per_text], rng) for first in range(0, count, per_text)]


def _build(tokenizer: Any, length: int, depths: list[float], rng: np.random.Generator) -> ProseText:
    """One text with a passkey at each of these depths."""
    names = [f"{COLOURS[i % len(COLOURS)]} {THINGS[i // len(COLOURS)]}" for i in rng.permutation(MOST)]
    keys = [str(rng.integers(10 ** (KEY_DIGITS - 1), 10**KEY_DIGITS)) for _ in depths]
    facts = list(zip(names, keys, strict=False))
    written = [encode(tokenizer, NEEDLE.format(thing=name, key=key)) for name, key in facts]
    asked = [encode_answer(tokenizer, QUESTION.format(thing=name), key) for name, key in facts]
    head = np.asarray([*opening_tokens(tokenizer), *encode(tokenizer, OPENING)], np.int32)
    room = length - len(head) - sum(map(len, written)) - max(len(tokens) for tokens, _ in asked)
    line = encode(tokenizer, FILLER)
    if room < len(line):
        raise TextsError(
            f"{len(depths)} passkeys in one text were asked for at {length} tokens.",
            f"At least {length - room + len(line)} tokens are needed for their sentences.",
            "Give fewer measure.passkeys_per_text, or greater lengths.",
        )
    filler = Haystack.of_pieces([*[line] * (room // len(line)), line[: room % len(line)]])
    needles = tuple(
        ProseNeedle(KIND, depth, np.asarray(tokens, np.int32), answer_tokens)
        for depth, (tokens, answer_tokens) in zip(depths, asked, strict=True)
    )
    return ProseText(np.concatenate([head, filler.planted(written, np.asarray(depths))]), needles)
