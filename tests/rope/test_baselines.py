"""Baselines by hand, at d = 8, L = 1024, L' = 4096 (s = 4)."""

import math

import pytest

from longrope.errors import FactorsError
from longrope.rope import (
    RopeSpec,
    baseline_factors,
)

SPEC = RopeSpec(head_dim=8, rotary_dim=8, theta=1e4, trained_window=1024)


@pytest.mark.parametrize(
    ("method", "lambdas", "attention_factor"),
    [
        ("pi", [4, 4, 4, 4], 1),
        ("ntk", [1, 4 ** (1 / 3), 4 ** (2 / 3), 4], 1),
        ("dynamic-ntk", [1, 4 ** (1 / 3), 4 ** (2 / 3), 4], 1),
        ("yarn", [1, 4 / 3, 2, 4], 1 + 0.1 * math.log(4)),  # the ramp is worked out in test_rope.py
    ],
)
def test_baselines_by_hand(method: str, lambdas: list[float], attention_factor: float) -> None:
    (only,) = baseline_factors(SPEC, method, 4096).factor_sets
    assert only.lambdas == pytest.approx(lambdas)
    assert only.attention_factor == pytest.approx(attention_factor)
    assert (only.method, only.target_window, only.start_tokens, only.relaxed) == (method, 4096, 0, False)
    only.check_spec(SPEC)


@pytest.mark.parametrize("method", ["pi", "ntk", "dynamic-ntk", "yarn"])
@pytest.mark.parametrize("tokens", [1, 512, 1024])
def test_baselines_change_nothing_within_the_trained_window(method: str, tokens: int) -> None:
    (only,) = baseline_factors(SPEC, method, tokens).factor_sets
    assert only.is_identity
    assert only.target_window == tokens


def test_dynamic_ntk_has_a_factor_set_for_each_length_and_the_target() -> None:
    table = baseline_factors(SPEC, "dynamic-ntk", 4096, lengths=(2048, 512, 2048, 4096))
    assert [factor_set.target_window for factor_set in table.factor_sets] == [512, 2048, 4096]
    assert table.choose(512).is_identity
    assert table.choose(513).lambdas == pytest.approx((1, 2 ** (1 / 3), 2 ** (2 / 3), 2))
    assert table.choose(4096).lambdas[-1] == pytest.approx(4)


def test_lengths_are_for_dynamic_ntk_alone() -> None:
    assert len(baseline_factors(SPEC, "ntk", 4096, lengths=(512, 2048)).factor_sets) == 1


@pytest.mark.parametrize("method", ["none", "longrope-evolution", "PI"])
def test_a_method_without_closed_form_is_refused(method: str) -> None:
    with pytest.raises(FactorsError) as caught:
        baseline_factors(SPEC, method, 4096)
    assert repr(method) in caught.value.found
    assert "dynamic-ntk" in caught.value.needed
