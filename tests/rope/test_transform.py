"""Factors of a tuned model, composed and relative ones, and factors extrapolated to a longer window."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope.errors import FactorsError
from longrope.models import RescaledRotary
from longrope.rope import (
    NativeScaling,
    RescaleFactors,
    RopeSpec,
    RotaryTable,
    baseline_factors,
    compose,
    extrapolate,
    relative_to,
    tuned_spec,
)

SPEC = RopeSpec(head_dim=8, rotary_dim=8, theta=1e4, trained_window=1024)
FACTORS = RescaleFactors((1.0, 1.5, 1.5, 4.0), 4096, SPEC.fingerprint, 4, 1.1, "longrope-evolution", False, (7, 2**63))

# A model that was tuned

CARRYING = replace(SPEC, native=NativeScaling("llama3", (1.0, 1.5, 2.0, 8.0), 1.1))
GROWING = replace(SPEC, native=NativeScaling("dynamic", (1.0,) * 4, 1.0, growth=2.0))
LISTED = replace(SPEC, native=NativeScaling("longrope", (1.0, 1.5, 2.0, 8.0), 1.1, (1.0, 1.0, 1.5, 2.0), 512))
ratios = st.lists(st.floats(1, 16), min_size=4, max_size=4).map(sorted)


def tuned(spec: RopeSpec, lambdas: Sequence[float] = (1.0, 2.0, 3.0, 4.0), **changes: Any) -> RescaleFactors:
    """Factors that weights were tuned with, for four times the trained window."""
    given: dict[str, Any] = {"start_tokens": 3, "attention_factor": 1.2, **changes}
    return RescaleFactors(tuple(lambdas), 4 * spec.trained_window, spec.fingerprint, **given)


def angles_of(spec: RopeSpec, factors: RescaleFactors, positions: range) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin by the module that runs in a model, in float64."""
    rotary = RescaledRotary(
        None, RotaryTable("", (), spec), factors, learnable=True
    )  # so that it never asks the module of a model
    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1, dtype=torch.float64), torch.tensor([[*positions]]))
        return cos, sin


@pytest.mark.parametrize("spec", [SPEC, CARRYING], ids=["plain", "carrying"])
def test_a_tuned_model_has_the_frequencies_of_its_factors(spec: RopeSpec) -> None:
    """And their window as its trained one; its critical pair follows from both."""
    found = tuned_spec(spec, tuned(spec))
    own = 1e4 ** -(np.arange(4) / 4) / np.asarray(spec.native.lambdas if spec.native else [1.0] * 4)
    np.testing.assert_allclose(found.frequencies, own / [1, 2, 3, 4], rtol=1e-15)
    assert found.attention_factor == pytest.approx((1.1 if spec.native else 1) * 1.2)
    assert found.trained_window == 4 * spec.trained_window
    turns = 4 * spec.trained_window * found.frequencies / (2 * math.pi)
    assert found.critical_pair == int((turns >= 1).sum())
    assert (found.theta, found.head_dim, found.pairing) == (spec.theta, spec.head_dim, spec.pairing)
    assert found.fingerprint != spec.fingerprint


@pytest.mark.parametrize("method", ["yarn", "critical"])
@given(window=st.integers(64, 8192), tuned_by=st.integers(1, 16), further=st.integers(2, 16), shape=st.floats(0.3, 1))
def test_pairs_that_never_turned_fully_in_a_tuning_are_slowed_by_the_whole_ratio(
    method: str, window: int, tuned_by: int, further: int, shape: float
) -> None:
    """By the turns that each pair makes in the window of the tuning, with its factors."""
    spec = RopeSpec(head_dim=64, rotary_dim=64, theta=1e4, trained_window=window)
    slow = tuned_by ** np.clip(np.arange(32) / (spec.critical_pair * shape), 0, 1)
    with_factors = replace(tuned(spec), lambdas=tuple(slow.tolist()), target_window=tuned_by * window)
    found = baseline_factors(tuned_spec(spec, with_factors), method, further * tuned_by * window).factor_sets[0].array
    turns = tuned_by * window * 1e4 ** -(np.arange(32) / 32) / slow / (2 * math.pi)
    np.testing.assert_allclose(found[turns < 1 - 1e-9], further, rtol=1e-9)


@pytest.mark.parametrize("spec", [SPEC, CARRYING, LISTED, GROWING], ids=["plain", "carrying", "listed", "growing"])
@settings(deadline=None)
@given(tuning=ratios, relative=ratios, attention=st.floats(0.5, 2))
def test_composed_factors_turn_a_model_as_relative_ones_turn_the_tuned_one(
    spec: RopeSpec, tuning: list[float], relative: list[float], attention: float
) -> None:
    """By the module that runs in a model; start tokens keep the angles that the weights were tuned with."""
    tuned_with = tuned(spec, tuning)
    geometry = tuned_spec(spec, tuned_with)
    found = RescaleFactors(tuple(relative), 10**5, geometry.fingerprint, attention_factor=attention, method="found")
    whole = compose(tuned_with, found, spec)
    whole.check_spec(spec)
    for here, there in zip(
        angles_of(spec, whole, range(3, 5000, 7)), angles_of(geometry, found, range(3, 5000, 7)), strict=True
    ):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)
    plain = replace(whole, lambdas=(1.0,) * 4, start_tokens=0)
    for here, there in zip(angles_of(spec, whole, range(3)), angles_of(spec, plain, range(3)), strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=0)
    grows = spec is GROWING  # it is slower in the longer window by itself
    assert (whole.target_window, whole.method, whole.start_tokens, whole.relaxed) == (10**5, "found", 3, grows)
    assert grows or all(a >= b for a, b in zip(whole.lambdas, tuned_with.lambdas, strict=True))


@given(tuning=ratios, further=ratios, flat=st.booleans())
def test_composing_undoes_what_relative_factors_are(tuning: list[float], further: list[float], flat: bool) -> None:
    """Also where all lambdas are the same, and quotients differ in their last bits."""
    further = [further[0]] * 4 if flat else further
    tuned_with = tuned(SPEC, tuning)
    total = replace(
        tuned_with, lambdas=tuple(x * y for x, y in zip(tuning, further, strict=True)), attention_factor=1.5
    )
    relative = relative_to(tuned_with, total, SPEC)
    assert relative.lambdas == pytest.approx(further)
    assert relative.start_tokens == 0
    assert relative.attention_factor == pytest.approx(1.25)
    back = compose(tuned_with, relative, SPEC)
    assert back.lambdas == pytest.approx(total.lambdas, rel=1e-15)
    assert back.attention_factor == pytest.approx(1.5, rel=1e-15)
    assert replace(back, lambdas=total.lambdas, attention_factor=1.5, relaxed=False) == total


def test_composed_and_extrapolated_factors_keep_where_they_come_from() -> None:
    """A second search's result names both steps and the second search, also once it is extrapolated."""
    tuned_with = tuned(SPEC, method="longrope-gradient", chosen_by="longrope-gradient")
    geometry = tuned_spec(SPEC, tuned_with)
    found = baseline_factors(geometry, "yarn", 8 * SPEC.trained_window).factor_sets[0]
    second = compose(tuned_with, replace(found, chosen_by="longrope-evolution"), SPEC)
    wanted = ("longrope-gradient+yarn", "longrope-evolution")
    assert (second.method, second.chosen_by) == wanted
    further = extrapolate(relative_to(tuned_with, second, SPEC), geometry, 16 * SPEC.trained_window)
    for factors in (further, compose(tuned_with, further, SPEC)):
        assert (factors.method, factors.chosen_by) == wanted
    assert compose(tuned_with, found, SPEC).chosen_by == "longrope-gradient", "nobody chose the second step"


def test_a_model_that_was_never_tuned_is_its_own_measure() -> None:
    assert tuned_spec(SPEC, None) is SPEC
    assert compose(None, FACTORS, SPEC) is FACTORS
    assert relative_to(None, FACTORS, SPEC) is FACTORS


def test_the_geometry_of_a_model_tuned_with_foreign_factors_is_refused() -> None:
    with pytest.raises(FactorsError, match="rotary geometry"):
        tuned_spec(CARRYING, tuned(SPEC))


# NativeScaling on


@pytest.mark.parametrize("spec", [SPEC, CARRYING, tuned_spec(SPEC, tuned(SPEC))], ids=["plain", "carrying", "tuned"])
@pytest.mark.parametrize("method", ["pi", "ntk", "critical"])
@given(found=st.floats(1.5, 64), wanted=st.floats(1, 512))
def test_baselines_are_extrapolated_exactly(spec: RopeSpec, method: str, found: float, wanted: float) -> None:
    """To longer and to shorter windows, and back to the model as it is at the trained one."""
    windows = [int(ratio * spec.trained_window) for ratio in (found, wanted)]
    before, after = (baseline_factors(spec, method, window).factor_sets[0] for window in windows)
    extrapolated = extrapolate(before, spec, windows[1])
    assert extrapolated.lambdas == pytest.approx(after.lambdas, rel=1e-9)
    assert replace(extrapolated, lambdas=after.lambdas, attention_factor=after.attention_factor) == after


@given(found=st.floats(1.5, 64), wanted=st.floats(1, 512))
def test_yarns_attention_factor_is_extrapolated_exactly(found: float, wanted: float) -> None:
    windows = [int(ratio * SPEC.trained_window) for ratio in (found, wanted)]
    before, after = (baseline_factors(SPEC, "yarn", window).factor_sets[0] for window in windows)
    assert extrapolate(before, SPEC, windows[1]).attention_factor == pytest.approx(after.attention_factor, rel=1e-9)


def test_what_a_search_found_keeps_its_shape() -> None:
    """By hand: from 4 to 16 times the window every lambda is squared, and the attention factor's excess doubles."""
    extrapolated = extrapolate(FACTORS, SPEC, 16 * 1024)
    assert extrapolated.lambdas == pytest.approx((1.0, 2.25, 2.25, 16.0))
    assert extrapolated.attention_factor == pytest.approx(1.2)
    assert replace(extrapolated, lambdas=FACTORS.lambdas, attention_factor=1.1, target_window=4096) == FACTORS
    assert extrapolate(FACTORS, SPEC, 1024).is_identity


@pytest.mark.parametrize("window", [1, 1024])
def test_factors_of_the_trained_window_have_nothing_to_carry_on(window: int) -> None:
    with pytest.raises(FactorsError) as caught:
        extrapolate(replace(FACTORS, target_window=window), SPEC, 8192)
    assert f"Factors for {window} tokens" in caught.value.found
    assert "trained on 1024" in caught.value.found
