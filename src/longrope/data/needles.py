"""Needles: made-up facts planted in a window and asked for at its end, and the tokens of an answer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.data.documents import encode
from longrope.data.facts import draw_codes, draw_varied
from longrope.data.windows import Tokens
from longrope.errors import TextsError
from longrope.tune_recipe import CODES, VARIED


def encode_answer(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], int]:
    """Token ids of a prompt with its answer, and how many of the last ones are the answer.

    A tokenizer may join the two; what differs from the prompt alone belongs to the answer, but for white space before
    it: a model that would say " the number 48213" has found the key, too.

    Raises:
        TextsError: as ``check_answer``.
    """
    asked, answered = encode(tokenizer, prompt), encode(tokenizer, f"{prompt} {answer}")
    first = next((i for i, (a, b) in enumerate(zip(asked, answered, strict=False)) if a != b), len(asked))
    while first < len(answered) and not tokenizer.decode(answered[first]).strip():
        first += 1
    check_answer(tokenizer, answer, answered[first:])
    return answered, len(answered) - first


def check_answer(tokenizer: Any, answer: str, tokens: Sequence[int]) -> None:
    """Refuse an answer with characters that the vocabulary lacks.

    Args:
        tokenizer: which writes its unknown token for them, or nothing where it has none.
        answer: of which letters and digits are compared, if it is of ASCII alone: others may lose their accents.
        tokens: of the answer, perhaps with the end of what stands before it.

    Raises:
        TextsError: the tokens do not write the answer, so they may stand for another one.
    """
    written = tokenizer.decode(tokens)
    unknown = tokenizer.unk_token_id is not None and tokenizer.unk_token_id in tokens
    whole = not answer.isascii() or _alphanumeric(written).endswith(_alphanumeric(answer))
    if unknown or not whole or not written.strip():
        raise TextsError(
            f"The tokenizer writes {answer!r} {f'with {tokenizer.unk_token!r}' if unknown else f'as {written!r}'}.",
            "The vocabulary must hold all characters of an answer, or any other answer would be right, too.",
            "Leave out what asks for such answers (passkeys, needles, ruler), or take a model with another tokenizer.",
        )


def _alphanumeric(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def plant_needles(
    window: Tokens, tokenizer: Any, rng: np.random.Generator, kinds: str = CODES
) -> tuple[Tokens, NDArray[np.bool_]]:
    """Plant made-up facts at all depths of a window [N] and ask for each of them at its end.

    Args:
        window: token ids.
        tokenizer: the model's.
        rng: of facts, depths and the order of questions.
        kinds: ``codes`` plants eight; ``varied`` as many as take an eighth of the window, 32 at most.

    Returns:
        The new window [N], and which next tokens [N - 1] are answers.

    Raises:
        TextsError: facts and questions would take more than half of the window.
    """
    drawn = draw_codes(rng) if kinds == CODES else draw_varied(rng)
    stated = [encode(tokenizer, f"\n{fact.beginning} {fact.answer}.\n") for fact in drawn]
    if kinds == VARIED:
        stated = stated[: max(1, len(window) // 8 // (3 * max(map(len, stated))))]  # a question takes about two facts
    asked = [drawn[i] for i in rng.permutation(len(stated))]
    questions = [encode_answer(tokenizer, f"\n{fact.question} {fact.beginning}", fact.answer) for fact in asked]
    end = np.concatenate([[*tokens] for tokens, _ in questions])
    answers = np.concatenate([np.arange(len(tokens)) >= len(tokens) - count for tokens, count in questions])
    room = len(window) - len(end) - sum(map(len, stated))
    if room < len(window) // 2:
        raise TextsError(
            f"Needles would take {len(window) - room} tokens of a window of {len(window)}.",
            "They may take half of it at most.",
            "Set needle_weight = 0, or take a longer window.",
        )
    depths = (np.arange(len(stated)) + rng.random(len(stated))) / len(stated)
    pieces = np.split(window[:room], (1 + depths * (room - 1)).astype(int))
    planted = [part for piece, fact in zip(pieces, stated, strict=False) for part in (piece, fact)]
    tokens = np.concatenate([*planted, pieces[-1], end]).astype(np.int32)
    return tokens, np.concatenate([np.zeros(len(window) - len(end) - 1, bool), answers])
