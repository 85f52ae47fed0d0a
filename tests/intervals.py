"""Perplexities, and intervals of losses over blocks or over documents, whatever the number of documents."""

import numpy as np

from longrope.evaluation.statistics import block_units, document_units, units_interval


def perplexity(losses: np.ndarray | list[float]) -> float:
    """exp of the mean of losses in nats."""
    return float(np.exp(np.mean(losses)))


def block_interval(losses: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the perplexity of losses [W, N - 1] over blocks."""
    _, low, high, _ = units_interval(block_units(losses), seed)
    return low, high


def document_interval(losses: np.ndarray, documents: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % interval of the perplexity of losses [W, N - 1] over documents [W, N - 1], two or more."""
    _, low, high, _ = units_interval(document_units(losses, documents), seed)
    return low, high
