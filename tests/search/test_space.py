"""The feasible set: every proposal lies in it, every corner can be reached, and projections are the nearest points.

The oracles: pool-adjacent-violators in exact fractions, and exhaustive search of small spaces.
"""

from fractions import Fraction
from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.search.space import START_TOKENS, Candidate, FactorSpace, project_monotone

spaces = st.builds(
    FactorSpace,
    num_pairs=st.integers(1, 64),
    ratio=st.one_of(st.sampled_from([1.0, 1.001, 2.0, 8.0, 512.0]), st.floats(1, 512)),
    max_start_tokens=st.integers(0, 300),
)
seeds = st.integers(0, 2**32 - 1)
reals = st.floats(-1e4, 1e4)
EVERY_TRIPLE = np.array(list(combinations_with_replacement(range(100, 126), 3)))


def assert_feasible(space: FactorSpace, candidate: Candidate) -> None:
    """Monotone, within [1, 1.25 s], on the grid of 0.01, start tokens from the paper's set and within the limit."""
    assert len(candidate.lambdas) == space.num_pairs
    assert list(candidate.lambdas) == sorted(candidate.lambdas)
    assert candidate.lambdas[0] >= 1
    assert candidate.lambdas[-1] <= 1.25 * space.ratio + 1e-9
    assert all(isinstance(step, int) for step in candidate.steps)
    assert all(x == round(x, 2) for x in candidate.lambdas)
    assert candidate.start_tokens in {0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256}
    assert candidate.start_tokens <= space.max_start_tokens
    assert isinstance(candidate.start_tokens, int)


def draw(space: FactorSpace, rng: np.random.Generator) -> Candidate:
    """A candidate whose lambdas are uniform draws from the grid, sorted."""
    steps = np.sort(rng.integers(space.bounds[0], space.bounds[1] + 1, space.num_pairs))
    return Candidate(tuple(steps.tolist()), int(rng.choice(space.start_tokens)), "drawn")


def pooled(values: list[float]) -> list[float]:
    """Isotonic regression by pooling adjacent violators, in exact fractions."""
    blocks: list[tuple[Fraction, int]] = []
    for value in values:
        blocks.append((Fraction(value), 1))
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = (blocks[-1][0] + last[0], blocks[-1][1] + last[1])
    return [float(total / size) for total, size in blocks for _ in range(size)]


# Feasibility


@given(space=spaces, seed=seeds, probability=st.floats(0, 1))
def test_every_proposal_is_feasible(space: FactorSpace, seed: int, probability: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = draw(space, rng), draw(space, rng)
    assert_feasible(space, first)
    assert_feasible(space, second)
    for _ in range(5):
        first, second = space.mutate(first, rng, probability), space.cross(first, second, rng)
        assert_feasible(space, first)
        assert_feasible(space, second)
        assert (first.origin, second.origin) == ("mutation", "crossover")


@given(space=spaces, data=st.data())
def test_any_vector_is_placed_in_the_space(space: FactorSpace, data: st.DataObject) -> None:
    vector = data.draw(st.lists(reals, min_size=space.num_pairs, max_size=space.num_pairs))
    start_tokens = data.draw(st.sampled_from(space.start_tokens))
    candidate = space.place(np.array(vector), start_tokens, "ntk")
    assert_feasible(space, candidate)
    assert (candidate.start_tokens, candidate.origin) == (start_tokens, "ntk")


@given(space=spaces, seed=seeds)
def test_a_feasible_vector_is_placed_where_it_is(space: FactorSpace, seed: int) -> None:
    candidate = draw(space, np.random.default_rng(seed))
    assert space.place(np.array(candidate.lambdas), candidate.start_tokens, "same").key == candidate.key


@given(vector=st.lists(st.floats(0.9, 1.4), min_size=3, max_size=3))
def test_place_finds_the_nearest_of_all_candidates(vector: list[float]) -> None:
    """Three pairs at s = 1 have 26 levels, 1.00 to 1.25, and so 3276 candidates."""
    distances = np.sum((EVERY_TRIPLE - 100 * np.array(vector)) ** 2, axis=1)
    placed = np.array(FactorSpace(3, 1.0).place(np.array(vector), 0, "any").steps)
    assert np.sum((placed - 100 * np.array(vector)) ** 2) == pytest.approx(distances.min(), abs=1e-9)


@pytest.mark.parametrize(
    ("ratio", "high"), [(0.5, 100), (1.0, 125), (1.1, 137), (1.44, 180), (8.0, 1000), (512.0, 64000)]
)
def test_bounds_are_one_and_a_quarter_more_than_the_ratio(ratio: float, high: int) -> None:
    assert FactorSpace(4, ratio).bounds == (100, high)


@pytest.mark.parametrize(
    ("limit", "allowed"), [(0, (0,)), (3, (0, 1, 2)), (4, (0, 1, 2, 4)), (255, START_TOKENS[:-1]), (999, START_TOKENS)]
)
def test_start_tokens_end_at_the_limit(limit: int, allowed: tuple[int, ...]) -> None:
    assert FactorSpace(4, 8.0, limit).start_tokens == allowed


def test_the_numbers_of_start_tokens_are_those_of_the_paper() -> None:
    """Section 3.3 of arXiv 2402.13753 lists them; all of them are offered, and no other."""
    assert FactorSpace(4, 8.0).start_tokens == (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)


@pytest.mark.parametrize("num_pairs", [1, 64])
@pytest.mark.parametrize("ratio", [1.0, 512.0])
def test_extreme_spaces_yield_candidates(num_pairs: int, ratio: float) -> None:
    space, rng = FactorSpace(num_pairs, ratio, 0), np.random.default_rng(0)
    parent = space.place(np.full(num_pairs, 1e9), 0, "top")
    assert parent.lambdas == (1.25 * ratio,) * num_pairs
    for candidate in (draw(space, rng), space.mutate(parent, rng, 1.0), space.cross(parent, parent, rng)):
        assert_feasible(space, candidate)


# Reach


def test_mutation_changes_every_coordinate_and_the_start_tokens_and_not_all_at_once() -> None:
    space, rng = FactorSpace(16, 8.0), np.random.default_rng(0)
    parent = space.place(np.linspace(1, 8, 16), 16, "ramp")
    children = [space.mutate(parent, rng, 0.3) for _ in range(600)]
    changed = np.array([np.not_equal(child.steps, parent.steps) for child in children])
    share = changed.mean(axis=0)  # 0.3, less the redraws that hit the old value
    assert np.all((share > 0.2) & (share < 0.36)), share
    assert {child.start_tokens for child in children} == set(START_TOKENS)
    kept = np.mean([child.start_tokens == 16 for child in children])
    assert 0.65 < kept < 0.8  # 0.7 + 0.3 / 14


def test_mutation_without_probability_changes_nothing() -> None:
    space, rng = FactorSpace(16, 8.0), np.random.default_rng(0)
    parent = draw(space, rng)
    assert space.mutate(parent, rng, 0.0).key == parent.key


def test_repeated_mutation_reaches_every_point_both_bounds_included() -> None:
    """Two pairs at s = 1 have 26 levels, 1.00 to 1.25, and so 351 points."""
    space, rng = FactorSpace(2, 1.0), np.random.default_rng(0)
    candidate, visited = draw(space, rng), set()
    for _ in range(20_000):
        candidate = space.mutate(candidate, rng, 0.3)
        visited.add(candidate.steps)
    assert visited == set(combinations_with_replacement(range(100, 126), 2))


def test_crossover_takes_each_coordinate_from_either_parent() -> None:
    """Any mixture of these parents is monotone already, so projection must leave all eight (and both counts) alone."""
    space, rng = FactorSpace(3, 8.0), np.random.default_rng(0)
    first, second = Candidate((100, 200, 300), 0, "a"), Candidate((150, 250, 350), 64, "b")
    children = {space.cross(first, second, rng).key for _ in range(400)}
    mixtures = {(a, b, c) for a in (100, 150) for b in (200, 250) for c in (300, 350)}
    assert children == {(steps, start) for steps in mixtures for start in (0, 64)}


def test_crossover_projects_what_is_not_monotone() -> None:
    """Of (2, 2) and (4, 4), the mixture (4, 2) becomes (3, 3)."""
    space, rng = FactorSpace(2, 8.0), np.random.default_rng(0)
    first, second = Candidate((200, 200), 0, "a"), Candidate((400, 400), 0, "b")
    children = {space.cross(first, second, rng).steps for _ in range(100)}
    assert children == {(200, 200), (200, 400), (300, 300), (400, 400)}


# Projection


@given(st.lists(reals, min_size=1, max_size=40))
def test_projection_is_isotonic_regression(values: list[float]) -> None:
    projected = project_monotone(np.array(values))
    assert np.all(np.diff(projected) >= 0)
    np.testing.assert_allclose(projected, pooled(values), rtol=1e-9, atol=1e-8)


@given(st.lists(reals, min_size=1, max_size=40))
def test_projection_is_idempotent(values: list[float]) -> None:
    projected = project_monotone(np.array(values))
    np.testing.assert_allclose(project_monotone(projected), projected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7], [7]),
        ([1, 2, 3], [1, 2, 3]),
        ([3, 2, 1], [2, 2, 2]),
        ([1, 3, 2, 4], [1, 2.5, 2.5, 4]),
        ([4, 0, 5, 3, 9], [2, 2, 4, 4, 9]),
        ([9, 1, 1, 1], [3, 3, 3, 3]),
    ],
)
def test_projection_worked_by_hand(values: list[float], expected: list[float]) -> None:
    assert project_monotone(np.array(values, dtype=float)).tolist() == pytest.approx(expected)


# Chance


def test_the_seed_decides_everything() -> None:
    def history(seed: int) -> list[tuple[tuple[int, ...], int]]:
        space, rng = FactorSpace(8, 8.0), np.random.default_rng(seed)
        first, second = draw(space, rng), draw(space, rng)
        for _ in range(5):
            first, second = space.mutate(first, rng, 0.3), space.cross(first, second, rng)
        return [first.key, second.key]

    assert history(1) == history(1)
    assert history(1) != history(2)


def test_candidates_are_the_same_point_wherever_they_came_from() -> None:
    one = Candidate((100, 250), 4, "mutation")
    assert one.lambdas == (1.0, 2.5)
    assert one.key == Candidate((100, 250), 4, "crossover").key
    assert one.key != Candidate((100, 250), 8, "mutation").key
    assert one.key != Candidate((100, 251), 4, "mutation").key
