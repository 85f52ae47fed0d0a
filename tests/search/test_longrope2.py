"""LongRoPE2's search: its space by hand, its score against whole logits, its budget, and a whole search of a model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.data import TokenText
from longrope.models import LanguageModel
from longrope.recipe import SearchRecipe
from longrope.registry import METHODS
from longrope.rope import RescaleFactors, RopeSpec, baseline_factors, load_factors
from longrope.runs.records import Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.search import cut_windows
from longrope.search.choice import TailAndNeedles
from longrope.search.longrope2 import METHOD, CriticalSpace, divide, search_longrope2

SMOLLM2 = RopeSpec(head_dim=64, rotary_dim=64, theta=1e5, trained_window=8192)
SPACE = CriticalSpace(num_pairs=8, ratio=4.0, critical_pairs=(3, 5))


def test_the_real_critical_pair_is_the_first_with_less_than_ten_turns() -> None:
    """SmolLM2 by hand: 8192 / (2 pi 1e5^(i/32)) is 12.1 for i = 13 and 8.5 for i = 14; below 1 first for i = 20."""
    turns = [8192 / (2 * np.pi * 1e5 ** (i / 32)) for i in (13, 14, 19, 20)]
    assert turns == pytest.approx([12.13, 8.46, 1.40, 0.978], rel=1e-3)
    assert (SMOLLM2.pair_turning(10), SMOLLM2.pair_turning(1), SMOLLM2.critical_pair) == (14, 20, 20)
    (only,) = baseline_factors(SMOLLM2, "critical-real", 65536).factor_sets
    assert only.lambdas[14:] == (8.0,) * 18
    assert only.lambdas[7] == pytest.approx(8**0.5)
    assert only.lambdas[0] == 1
    assert only.attention_factor == baseline_factors(SMOLLM2, "critical", 65536).factor_sets[0].attention_factor
    assert METHODS["critical-real"].baseline


@given(st.integers(0, 10_000))
def test_every_candidate_keeps_slow_pairs_at_s_or_above_and_fast_ones_on_the_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parents = [SPACE.place(np.sort(rng.uniform(1, 5, 8)), 0, "drawn") for _ in range(2)]
    made = [*parents, SPACE.mutate(parents[0], rng, 0.5), SPACE.cross(parents[0], parents[1], rng)]
    for candidate in made:
        lambdas, pair = np.array(candidate.lambdas), SPACE.critical_pair(candidate)
        assert 3 <= pair <= 5
        assert (np.diff(lambdas) >= 0).all()
        assert (lambdas[pair:] >= 4).all()
        assert (lambdas <= 5).all()
        assert lambdas[:pair] == pytest.approx(lambdas[pair] ** (np.arange(pair) / pair), abs=0.006)
        assert candidate.start_tokens == 0
        assert SPACE.mutate(candidate, rng, 0.0).steps == candidate.steps, "its critical pair is inherited"
        assert SPACE.cross(candidate, candidate, rng).steps == candidate.steps


def test_a_rule_is_placed_as_it_is_but_for_the_grid() -> None:
    curve = 4.0 ** np.minimum(np.arange(8) / 4, 1)
    placed = SPACE.place(curve, 0, "critical")
    assert placed.lambdas == pytest.approx(curve.tolist(), abs=0.006)
    assert SPACE.critical_pair(placed) == 4
    assert SPACE.critical_pair(SPACE.place(4.0 ** (np.arange(8) / 7), 0, "ntk")) == 5  # its pair 7 is out of reach


def test_mutations_move_the_pair_and_the_slow_factors() -> None:
    rng, parent = np.random.default_rng(0), SPACE.place(4.0 ** np.minimum(np.arange(8) / 4, 1), 0, "critical")
    made = [SPACE.mutate(parent, rng, 0.3) for _ in range(50)]
    assert {SPACE.critical_pair(candidate) for candidate in made} == {3, 4, 5}
    assert len({candidate.steps[-1] for candidate in made}) > 10


@pytest.mark.parametrize("passes", [60, 150, 400])
def test_the_candidates_fit_the_passes(passes: int) -> None:
    evolution = divide(passes, np.zeros((2, 8), np.int32), np.zeros((2, 8), np.int32))
    candidates = evolution.population + evolution.generations * (evolution.mutations + evolution.crossovers)
    assert evolution.windows == 2
    assert passes * 0.6 <= 2 * candidates + 5 * 2 <= max(passes, 42)


@pytest.fixture(scope="module")
def found(
    model: LanguageModel, text: TokenText, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RescaleFactors, RunDir, list[str]]:
    """A search at a window that holds needles."""
    run, lines = RunDir(tmp_path_factory.mktemp("longrope2")), list[str]()
    settings = SearchRecipe(validation_windows=1)
    given: dict[str, Any] = {"settings": settings, "seed": 3, "passes": 20, "on_message": lines.append}
    factors = search_longrope2(model, text, 2048, run=run, **given)
    return factors, run, lines


def test_a_search_is_scored_by_the_answers_alone(
    found: tuple[RescaleFactors, RunDir, list[str]], model: LanguageModel, text: TokenText
) -> None:
    """Its losses are those of the choice's needles, held against whole logits elsewhere, and the best is returned."""
    factors, run, lines = found
    trials = read_records(run.trials, Trial)
    _, held_out = cut_windows(text, 2048, 1, seed=3)
    held = TailAndNeedles.prepare(model, held_out, 0, seed=3)
    assert held.planted is not None
    validated = [trial for trial in trials if trial.kind == "validation"]
    best = min(validated, key=lambda trial: trial.loss_nats)
    assert held.needle_loss(factors).loss_nats == pytest.approx(best.loss_nats, rel=1e-6)
    assert best.loss_nats <= min(trial.loss_nats for trial in validated if trial.origin.startswith("critical"))
    assert {trial.method for trial in trials} == {METHOD} == {factors.chosen_by}
    assert load_factors(run.factors(METHOD)).factor_sets == (factors,)
    assert factors.searched
    assert len(lines) == 1
    assert "by needles" in lines[0]


def test_a_window_too_short_for_needles_is_scored_by_its_second_half(
    model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    lines: list[str] = []
    run, settings = RunDir(tmp_path), SearchRecipe(validation_windows=1)
    search_longrope2(model, text, 128, run=run, settings=settings, passes=40, on_message=lines.append)
    trial = read_records(run.trials, Trial)[0]
    assert (trial.kind, trial.num_tokens) == ("validation", 64)
    assert "second half" in lines[0]
