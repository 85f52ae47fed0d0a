"""Several short questions about one text that was read before: all of them are read side by side, in few passes."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from longrope.engine.context import ForwardContext
from longrope.engine.decoding import read_all
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.memory import choose_tile, free_memory
from longrope.models import LanguageModel

ALIKE = {"full_attention", "sliding_attention"}  # kinds of layers that work on each row of a batch by itself
MEMORY_SHARE = 16  # of the free memory, what the keys and values of a layer may take in all rows
Question = tuple[NDArray[np.integer], int]
"""(tokens of a question and its answer, how many of the last ones are the answer)."""


def follow_greedily(model: LanguageModel, questions: Sequence[Question], cache: KeyValueCache) -> list[bool]:
    """Whether greedy decoding after what is in the cache, and each question, would begin with its answer.

    By teacher forcing: it does so exactly when each token of the answer is the likeliest after all before it. The
    questions are rows of a batch, each after a copy of the keys and values of the layer at work, which keep none of
    them; rows are filled up at their ends, which no token before them sees. In layers that may not take rows so, and
    where a copy is large, questions are read one by one.

    Args:
        model: run in its current state.
        questions: about the text in the cache, each with an answer of one token or more after another token.
        cache: of the text, with space for the longest question.

    Raises:
        ModelError: as of ``prefill``.
    """
    rows, begun = _rows_at_once(model, cache, questions), cache.tokens
    if rows > 1:
        batches = (questions[first : first + rows] for first in range(0, len(questions), rows))
        return [found for batch in batches for found in _follow_side_by_side(model, batch, cache)]
    found = []
    for tokens, answer_tokens in questions:
        cache.rewind(begun)
        ids = torch.as_tensor(tokens, dtype=torch.long)
        likeliest = read_all(model, ids[None], cache, answer_tokens + 1)[0, :-1].argmax(-1).cpu()
        found.append(bool((likeliest == ids[-answer_tokens:]).all()))
    return found


def _follow_side_by_side(model: LanguageModel, questions: Sequence[Question], cache: KeyValueCache) -> list[bool]:
    longest = max(len(tokens) for tokens, _ in questions)
    ids = torch.zeros((len(questions), longest), dtype=torch.long)
    for row, (tokens, _) in enumerate(questions):
        ids[row, : len(tokens)] = torch.as_tensor(tokens)
    last = max(longest - (len(tokens) - answer_tokens) + 1 for tokens, answer_tokens in questions)
    with cache.forgetting():
        likeliest = read_all(model, ids, cache, last).argmax(-1).cpu()  # [Q, last], of the tokens that come next
    found = []
    for row, (tokens, answer_tokens) in enumerate(questions):
        first = len(tokens) - answer_tokens - 1 - (longest - last)  # the place before the answer
        guessed = likeliest[row, first : first + answer_tokens]
        found.append(bool((guessed == ids[row, len(tokens) - answer_tokens : len(tokens)]).all()))
    return found


def takes_rows(model: LanguageModel, cache: KeyValueCache) -> bool:
    """Whether layers work on each row of a batch by itself, and the cache holds keys and values as they are."""
    kinds = set(getattr(model.network.config, "layer_types", None) or ALIKE)
    if cache.native or cache.eight_bit or not kinds <= ALIKE:
        return False
    context = ForwardContext(model.network, {})
    return not (context.adapted or context.choosing)


def _rows_at_once(model: LanguageModel, cache: KeyValueCache, questions: Sequence[Question]) -> int:
    """How many questions may be read side by side; 1 where the model's layers may not take rows so."""
    if not takes_rows(model, cache):
        return 1
    largest = max(keys.num_bytes for keys in cache.layers)
    longest = max(len(tokens) for tokens, _ in questions)
    fitting = free_memory(model) // MEMORY_SHARE // max(1, largest)
    return max(1, min(fitting, choose_tile(model)[0] // longest, len(questions)))
