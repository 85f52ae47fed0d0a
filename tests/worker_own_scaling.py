"""One process of a launch of tests/distributed/test_own_scaling.py: models with each kind of scaling of their own.

torchrun --standalone --nproc-per-node 2 tests/worker_own_scaling.py FILE
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from own_scalings import EXCESSES, KINDS, LENGTHS, factors_near_ones, make_ids, make_model

from longrope import distributed
from longrope.engine.decoding import read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.models import LanguageModel, rescaled


def passes(model: LanguageModel, tokens: int, excess: float | None) -> dict[str, Any]:
    """Losses and the gradient of the embeddings with factors of 1 + excess, or without factors."""
    factors = None if excess is None else factors_near_ones(model, tokens, excess)
    ids = make_ids(tokens)
    embedding = model.network.get_input_embeddings().weight
    with rescaled(model, factors):
        losses = token_losses(model, ids)[0]
        embedding.requires_grad_(True).grad = None
        weighted_loss_with_graph(model, ids, np.full((1, tokens - 1), 1 / tokens), recompute=True).backward()
    gradient = embedding.grad
    embedding.requires_grad_(False)
    if shard := distributed.shard():
        shard.sum_gradients([embedding])
        gradient = embedding.grad
    return {"losses": losses, "gradient": gradient}


def shared() -> dict[Any, Any]:
    """Passes of every kind at every length, from the longest to the shortest and back, by processes that share them."""
    found = dict[Any, Any]()
    for kind in KINDS:
        model = make_model(kind)
        for tokens in (*reversed(LENGTHS), *LENGTHS):
            found |= {(kind, tokens, excess): passes(model, tokens, excess) for excess in EXCESSES}
    return found


def alone() -> dict[Any, Any]:
    """Answers with a cache across the switch, by processes that work apart, each at lengths of its own order."""
    found = dict[Any, Any]()
    order = LENGTHS if distributed.is_main() else LENGTHS[::-1]
    for kind in KINDS:
        model = make_model(kind)
        for planned in order:
            for excess in EXCESSES:
                cache = KeyValueCache(model, planned)
                factors = None if excess is None else factors_near_ones(model, planned, excess)
                with rescaled(model, factors), torch.inference_mode():
                    logits = read_prompt(model, make_ids(planned)[0].numpy(), cache)
                found[kind, planned, excess] = logits
    return found


def main() -> None:
    """Run everything and leave the results of each process in a file of its own."""
    with distributed.launched(2, device="cpu"):
        together = shared()
    with distributed.launched(1, device="cpu"):
        apart = alone()
        rank = 0 if distributed.is_main() else 1
    Path(f"{sys.argv[1]}.{rank}").write_bytes(pickle.dumps((together, apart)))


if __name__ == "__main__":
    main()
