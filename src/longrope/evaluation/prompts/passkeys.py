"""Passkey prompts: a five-digit passkey hidden at some depth of a long filler, asked for at the end.

The prompt ends where the digits begin: white space that a tokenizer puts before them is part of it. Prompts are built
in tokens, to an exact length, with any tokenizer; the sentences are our own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longrope.data import Tokens, encode, encode_answer, fingerprint, opening_tokens
from longrope.errors import TextsError

DEPTHS = 10
KEY_DIGITS = 5
OPENING = (
    "One important fact is hidden in the long text below. Find it and keep it in mind; it is asked for at the end.\n"
)
FILLER = "The river runs to the sea. The wind moves the leaves. Night follows day. People come and people go.\n"
NEEDLE = "The pass key is {key}. Keep it in mind: {key} is the pass key.\n"
QUESTION = "What is the pass key? The pass key is"


@dataclass(frozen=True)
class Passkey:
    """One task: the prompt with its answer, the number of answer tokens at its end, and the depth of the needle."""

    tokens: Tokens
    answer_tokens: int
    depth: float


def build_passkey(tokenizer: Any, length: int, depth: float, key: str) -> Passkey:
    """Build one task whose prompt and answer together are exactly ``length`` tokens.

    Args:
        tokenizer: the model's.
        length: in tokens.
        depth: where in the filler the needle stands, 0 (start) to 1 (end).
        key: the digits to hide.

    Raises:
        TextsError: the length does not hold the opening, the needle and the question.
    """
    head, needle = [*opening_tokens(tokenizer), *encode(tokenizer, OPENING)], encode(tokenizer, NEEDLE.format(key=key))
    question, answer_tokens = encode_answer(tokenizer, QUESTION, key)
    room = length - len(head) - len(needle) - len(question)
    if room < 0:
        raise TextsError(
            f"A passkey prompt of {length} tokens was asked for.",
            f"At least {length - room} tokens are needed for its sentences.",
            "Measure passkeys at a greater length.",
        )
    line = encode(tokenizer, FILLER)
    before = round(depth * room / len(line)) * len(line)  # whole lines, so that the needle begins a line
    before = min(before, room)
    filler = line * math.ceil(room / len(line))
    tokens = [*head, *filler[:before], *needle, *filler[: room - before], *question]
    return Passkey(np.asarray(tokens, np.int32), answer_tokens, depth)


def build_passkeys(tokenizer: Any, length: int, count: int, seed: int) -> list[Passkey]:
    """Build ``count`` tasks with needles at ten depths in turn, 5 % to 95 %, passkeys drawn from the seed."""
    rng = np.random.default_rng([seed, length])
    depths = spread_depths(count)
    keys = [str(rng.integers(10 ** (KEY_DIGITS - 1), 10**KEY_DIGITS)) for _ in depths]
    return [build_passkey(tokenizer, length, depth, key) for depth, key in zip(depths, keys, strict=True)]


def spread_depths(count: int) -> list[float]:
    """Ten depths in turn, 5 % to 95 %."""
    return [(i % DEPTHS + 0.5) / DEPTHS for i in range(count)]


def tasks_fingerprint(tasks: Sequence[Passkey]) -> str:
    """Sixteen hex digits that name the content of tasks of one length."""
    return fingerprint(np.stack([task.tokens for task in tasks]))
