"""Several texts, each with a cache of its own, that go on side by side: one pass reads the next tokens of all."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from longrope.engine.context import ForwardContext, run_decoder
from longrope.engine.decoding import read_all
from longrope.engine.kv_cache import KeyValueCache, SeveralKeys
from longrope.engine.loss import logits_of
from longrope.engine.memory import free_memory
from longrope.engine.questions import takes_rows
from longrope.engine.tiling import changed_layers
from longrope.models import LanguageModel, at_length

MOST_ROWS = 8
MEMORY_SHARE = 4  # of the free memory, what the other caches may take


def rows_beside(model: LanguageModel, cache: KeyValueCache) -> int:
    """How many texts may go on side by side, by the memory that the cache of one of them takes; at least 1."""
    if not takes_rows(model, cache):
        return 1
    return 1 + min(MOST_ROWS - 1, free_memory(model) // MEMORY_SHARE // max(1, cache.num_bytes))


def read_side_by_side(
    model: LanguageModel, texts: Sequence[list[int]], caches: Sequence[KeyValueCache]
) -> list[list[int]]:
    """Read the next tokens of several texts into their caches; the likeliest token after each of them.

    Shorter ones are filled up at their ends, which their caches forget.

    Args:
        model: run in its current state.
        texts: one token or more of each.
        caches: of the same capacity, with space for as many tokens as the longest has; of a model and caches for which
            ``rows_beside`` has said more than 1, unless there is one alone.
    """
    if len(texts) == 1:
        return [read_all(model, np.asarray(texts), caches[0], len(texts[0]))[0].argmax(-1).tolist()]
    longest, begun = max(map(len, texts)), [cache.tokens for cache in caches]
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    likeliest = _read(model, ids, caches).argmax(-1).tolist()
    for text, cache, first in zip(texts, caches, begun, strict=True):
        cache.rewind(first + len(text))
    return [row[: len(text)] for row, text in zip(likeliest, texts, strict=True)]


def _read(model: LanguageModel, ids: Tensor, caches: Sequence[KeyValueCache]) -> Tensor:
    """The logits [B, n, V] after tokens [B, n], which the caches keep."""
    capacity = {cache.capacity for cache in caches}
    assert len(capacity) == 1
    first = torch.tensor([cache.tokens for cache in caches])
    for cache in caches:
        cache.begin_pass()

    def change(forward: object, index: int) -> object:
        def run(hidden: Tensor, *args: object, **kwargs: object) -> object:
            keys = SeveralKeys([cache.keys_of(index) for cache in caches])
            with context.caching(keys):
                return forward(hidden, *args, **kwargs)  # type: ignore[operator]

        return run

    context = ForwardContext(model.network, changed_layers(model.network, change))  # type: ignore[arg-type]
    positions = first[:, None] + torch.arange(ids.shape[1])
    given = {"input_ids": ids.to(model.device), "position_ids": positions.to(model.device)}
    with torch.inference_mode(), at_length(model, capacity.pop()):
        return logits_of(model.network, run_decoder(context, given)).float()
