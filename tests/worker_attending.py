"""One process of a launch of tests/engine/test_attending.py: losses and gradients of windows that processes share.

torchrun --standalone --nproc-per-node 2 tests/worker_attending.py FILE FAMILY...
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
from attending import TOKENS, as_model, make_network, sinks_of

from longrope import distributed
from longrope.engine.passes import token_losses, weighted_loss_with_graph


def shared_pass(family: str) -> tuple[Any, Any]:
    """Losses, and the gradients of their mean for sinks and embedding."""
    model = as_model(make_network(family))
    losses = token_losses(model, TOKENS)
    wanted = [*sinks_of(model.network), model.network.get_input_embeddings().weight]
    for weight in wanted:
        weight.requires_grad_()
    weighted_loss_with_graph(model, TOKENS, np.full((2, 47), 1 / 94), recompute=True).backward()
    shard = distributed.shard()
    assert shard
    shard.sum_gradients(wanted)
    return losses, [weight.grad for weight in wanted]


def main() -> None:
    """Run all families with the windows shared."""
    with distributed.launched(2, device="cpu"):
        found = {family: shared_pass(family) for family in sys.argv[2:]}
        if distributed.is_main():
            Path(sys.argv[1]).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
