"""The feasible set of rescale factors that the evolutionary search samples (LongRoPE, arXiv 2402.13753, section 3.2).

A candidate is a non-decreasing vector of lambdas on a grid of 0.01 between 1 and 1.25 s, and a number of start tokens.
Every proposal is feasible by construction: coordinates are drawn between others or projected, never rejected.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from longrope.rope import Lambdas

STEPS_PER_UNIT = 100
START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)


@dataclass(frozen=True)
class Candidate:
    """A point of the space: lambdas in grid steps (hundredths), start tokens, and where it came from."""

    steps: tuple[int, ...]
    start_tokens: int
    origin: str

    @property
    def lambdas(self) -> tuple[float, ...]:
        """[P] lambdas."""
        return tuple(step / STEPS_PER_UNIT for step in self.steps)

    @property
    def key(self) -> tuple[tuple[int, ...], int]:
        """What makes two candidates the same point."""
        return self.steps, self.start_tokens


@dataclass(frozen=True)
class FactorSpace:
    """The space for ``num_pairs`` pairs and the extension ratio s, searched below ``max_start_tokens``."""

    num_pairs: int
    ratio: float
    max_start_tokens: int = START_TOKENS[-1]

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """The lowest and highest lambda in grid steps: 1.0 and 1.25 s."""
        return STEPS_PER_UNIT, max(STEPS_PER_UNIT, int(1.25 * self.ratio * STEPS_PER_UNIT + 1e-9))

    @cached_property
    def start_tokens(self) -> tuple[int, ...]:
        """The numbers of start tokens to choose from."""
        return tuple(n for n in START_TOKENS if n <= self.max_start_tokens)

    def place(self, lambdas: Lambdas, start_tokens: int, origin: str) -> Candidate:
        """Return the feasible candidate nearest to any vector [P]: projected, bounded and rounded to the grid."""
        low, high = self.bounds
        steps = np.rint(np.clip(project_monotone(np.asarray(lambdas) * STEPS_PER_UNIT), low, high)).astype(int)
        return Candidate(tuple(steps.tolist()), start_tokens, origin)

    def mutate(self, parent: Candidate, rng: Generator, probability: float) -> Candidate:
        """Redraw each coordinate with this probability between the nearest other values; likewise the start tokens."""
        steps = np.asarray(parent.steps)
        self.redraw(steps, np.flatnonzero(rng.random(self.num_pairs) < probability), rng, self.bounds[0])
        redraw = rng.random() < probability
        start_tokens = int(rng.choice(self.start_tokens)) if redraw else parent.start_tokens
        return Candidate(tuple(steps.tolist()), start_tokens, "mutation")

    def redraw(self, steps: NDArray[np.int64], places: NDArray[np.int64], rng: Generator, least: int) -> None:
        """Redraw some grid steps [P] in place; others of the same value move along, so a flat vector (PI) can, too."""
        for i in places:
            low = max((step for step in steps[:i] if step < steps[i]), default=least)
            high = min((step for step in steps[i:] if step > steps[i]), default=self.bounds[1])
            drawn = rng.integers(low, high + 1)
            steps[:i], steps[i:] = np.minimum(steps[:i], drawn), np.maximum(steps[i:], drawn)
            steps[i] = drawn

    def cross(self, first: Candidate, second: Candidate, rng: Generator) -> Candidate:
        """Take each coordinate from either parent with equal chance, then project onto the monotone vectors."""
        from_first = rng.random(self.num_pairs) < 0.5
        mixed = np.where(from_first, first.steps, second.steps) / STEPS_PER_UNIT
        start_tokens = (first if rng.random() < 0.5 else second).start_tokens
        return self.place(mixed, start_tokens, "crossover")


def project_monotone(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The non-decreasing vector [P] nearest to ``values`` in the Euclidean sense (isotonic regression).

    By the min-max formula: entry i is the maximum over a <= i of the minimum over b >= i of mean(values[a..b]).
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    starts, ends = np.arange(len(values))[:, None], np.arange(1, len(values) + 1)[None, :]
    means = np.where(ends > starts, (sums[1:][None, :] - sums[:-1][:, None]) / np.maximum(ends - starts, 1), np.inf)
    suffix_min = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]  # [a, i]: min over b >= i
    suffix_min = np.where(ends > starts, suffix_min, -np.inf)
    return np.asarray(suffix_min.max(axis=0), dtype=np.float64)
