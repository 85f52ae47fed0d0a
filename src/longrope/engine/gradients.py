"""The gradient of a loss by rescale factors; windows go through the model together, or one by one if memory is short.

Shape legend: B = windows, N = tokens of each.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope import distributed
from longrope.engine.passes import weighted_loss_with_graph
from longrope.engine.shrinking import retry_in_less_memory
from longrope.models import LanguageModel, rescaled
from longrope.rope import RescaleFactors


def factor_gradient(
    model: LanguageModel, factors: RescaleFactors, tokens: NDArray[np.integer[Any]], weights: NDArray[np.float64]
) -> tuple[float, list[float], float]:
    """The weighted loss of windows in nats, and its gradient.

    In context-parallel processes each does its part of every window, and all return the whole.

    Args:
        model: that reads them.
        factors: by which it is differentiated.
        tokens: [B, N].
        weights: [B, N - 1] of each token's loss.

    Returns:
        The loss, its gradient by each lambda, and that by the attention factor.
    """
    return retry_in_less_memory(model, tokens.size, partial(_factor_gradient, model, factors, tokens, weights))


def _factor_gradient(
    model: LanguageModel, factors: RescaleFactors, tokens: NDArray[np.integer[Any]], weights: NDArray[np.float64]
) -> tuple[float, list[float], float]:
    with rescaled(model, factors, learnable=True) as rotary:
        assert rotary is not None
        losses = []
        for rows in at_once(model, len(tokens)):
            part = weighted_loss_with_graph(model, tokens[rows], weights[rows])
            part.backward(inputs=[rotary.lambdas, rotary.attention_factor])  # and not into weights that need gradients
            losses.append(part.detach())
        loss = sum(losses[1:], start=losses[0])
        if shard := distributed.shard():
            shard.sum_gradients((rotary.lambdas, rotary.attention_factor))
            loss = shard.total(loss)
        by_lambda, by_attention = rotary.lambdas.grad, rotary.attention_factor.grad
        assert by_lambda is not None
        assert by_attention is not None
        return loss.item(), by_lambda.tolist(), by_attention.item()


def at_once(model: LanguageModel, count: int) -> Iterator[slice]:
    """Which of so many windows go through the model together where gradients are taken: all, or one if memory is short.

    Their losses and gradients are to be added up.
    """
    size = 1 if model.limits.tile_tokens else max(1, count)
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))
