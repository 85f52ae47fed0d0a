"""YaRN of a model that turns by factors already counts each pair's turns as it turns, in the window it was tuned at."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.rope import RescaleFactors, RopeSpec, baseline_factors, own_yarn_lambdas, tuned_spec, yarn_lambdas

SPEC = RopeSpec(64, 64, 1e4, 2048)
BETA_FAST, BETA_SLOW = 32.0, 1.0


def turns_of(spec: RopeSpec, lambdas: tuple[float, ...], window: int) -> list[float]:
    """Turns of each pair within a window, by the definition."""
    return [window / (2 * math.pi * lambdas[i] * spec.theta ** (2 * i / spec.rotary_dim)) for i in range(len(lambdas))]


def tuned_with(method: str, window: int) -> RescaleFactors:
    return baseline_factors(SPEC, method, window).factor_sets[0]


@pytest.mark.parametrize("method", ["pi", "ntk", "yarn", "critical"])
@pytest.mark.parametrize("ratio", [2, 8])
def test_pairs_are_judged_by_their_turns_in_the_window_of_the_tuning(method: str, ratio: int) -> None:
    """Many turns: they stay; less than one: they are slowed by all of s. Ends are rounded outwards to whole pairs."""
    first = tuned_with(method, 4 * SPEC.trained_window)
    lambdas = own_yarn_lambdas(tuned_spec(SPEC, first), ratio)
    turns = turns_of(SPEC, first.lambdas, 4 * SPEC.trained_window)
    before = [i for i, turned in enumerate(turns) if turned > BETA_FAST]
    after = [i for i, turned in enumerate(turns) if turned < BETA_SLOW]
    assert np.allclose(lambdas[: len(before)], 1)
    assert np.allclose(lambdas[after[0] + 1 :], ratio)
    between = lambdas[len(before) + 1 : after[0]]
    assert ((between > 1) & (between < ratio)).all()


def test_weights_tuned_by_interpolation_have_the_ramp_of_the_plain_model() -> None:
    """Each pair turns in 4 L as it turned in L."""
    own = own_yarn_lambdas(tuned_spec(SPEC, tuned_with("pi", 4 * SPEC.trained_window)), 4)
    assert own.tolist() == pytest.approx(yarn_lambdas(SPEC.theta, SPEC.num_pairs, SPEC.trained_window, 4).tolist())


def test_a_plain_model_has_the_closed_formula() -> None:
    """To the bit."""
    plain = yarn_lambdas(SPEC.theta, SPEC.num_pairs, SPEC.trained_window, 8)
    assert own_yarn_lambdas(SPEC, 8).tolist() == plain.tolist()
    ones = yarn_lambdas(SPEC.theta, SPEC.num_pairs, SPEC.trained_window, 8, slowed=np.ones(SPEC.num_pairs))
    assert ones.tolist() == plain.tolist()


@given(st.floats(0.5, 3), st.integers(2, 64), st.floats(1.5, 16))
def test_a_slower_base_is_the_same_as_factors_that_slow_by_it(share: float, pairs: int, ratio: float) -> None:
    """Of lambdas that are those of another base the ramp is the closed formula with that base."""
    base, window = 1e4 ** (1 + share), 4096
    slowed = (base / 1e4) ** (np.arange(pairs) / pairs)
    own = yarn_lambdas(1e4, pairs, window, ratio, slowed=slowed, truncate=False)
    direct = yarn_lambdas(base, pairs, window, ratio, truncate=False)
    end = pairs * math.log(window / (2 * math.pi)) / math.log(base)
    if end <= pairs - 1:  # beyond the last pair the two bases go on at different steps
        assert own == pytest.approx(direct)
