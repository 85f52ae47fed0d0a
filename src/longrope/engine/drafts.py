"""Greedy answers by drafts: proposed tokens are read in one pass and kept as far as greedy decoding would write them.

What is written is what ``decode`` writes with the likeliest token at each place: a proposed token is kept only where it
is the likeliest after all before it, and the first that is not is replaced by the one that is (arXiv 2211.17192 with a
temperature of zero). Proposals come from a guess of the answer and from what stood after the same words before
(prompt lookup decoding), so one pass gives several tokens where a model copies, repeats itself, or answers as guessed.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from longrope.engine.kv_cache import KeyValueCache
from longrope.models import LanguageModel

LONGEST_MATCH = 6  # tokens before a place that are the same as at an earlier one; at least one is
Propose = Callable[[Sequence[int]], Sequence[int]]
Steps = Generator[int | list[int], list[int] | None, None]


def draft_steps(
    model: LanguageModel, cache: KeyValueCache, propose: Propose, logits: Tensor, most_tokens: int
) -> Steps:
    """The steps of one greedy answer, written in passes over what is proposed, which the caller makes.

    Args:
        model: run in its current state.
        cache: of what was read, with space for all tokens of the answer but the last. Recurrent states do not go back,
            so with them nothing is proposed.
        propose: given the tokens of the answer so far, tokens that may follow, or none.
        logits: [V] of the first token, by ``read_prompt``.
        most_tokens: of the answer.

    Yields:
        A token of the answer, no end token; or tokens to read into the cache, in exchange for the likeliest after each
        of them.
    """
    written: list[int] = []
    following = [int(logits.argmax())]  # tokens that greedy decoding writes next
    while True:
        for token in following:
            if token in model.end_tokens:
                return
            written.append(token)
            yield token
            if len(written) == most_tokens:
                return
        draft = [] if cache.native else list(propose(written))[: most_tokens - len(written) - 1]
        before = cache.tokens
        likeliest = yield [written[-1], *draft]
        assert likeliest is not None
        kept = next((i for i, token in enumerate(draft) if token != likeliest[i]), len(draft))
        if draft:
            cache.rewind(before + 1 + kept)
        following = [int(token) for token in likeliest[: kept + 1]]


def next_step(steps: Steps, given: list[int] | None) -> int | list[int] | None:
    """The next of the steps of ``draft_steps``, after what it asked for was given; None at their end."""
    try:
        return steps.send(given)
    except StopIteration:
        return None


def look_up(known: NDArray[np.integer[Any]], written: Sequence[int], most_tokens: int) -> list[int]:
    """The tokens that stood where the last written ones stood before, the latest of the longest matches; or none.

    Args:
        known: [n] tokens to look in, such as a prompt.
        written: tokens after them.
        most_tokens: that are returned.
    """
    tokens = np.concatenate([np.asarray(known), np.asarray(written, int)])
    for size in range(min(LONGEST_MATCH, len(tokens) - 1), 0, -1):
        end, starts = tokens[len(tokens) - size :], len(tokens) - size
        same = tokens[:starts] == end[0]
        for i in range(1, size):
            same &= tokens[i : starts + i] == end[i]
        if same.any():
            first = int(np.flatnonzero(same)[-1]) + size
            return [int(token) for token in tokens[first : first + most_tokens]]
    return []
