"""The geometry of a model's rotary table: what it may be, its critical pair and its fingerprint."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from geometries import SPEC, every_geometry

from longrope.errors import ModelError
from longrope.rope import (
    NativeScaling,
    RopeSpec,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rotary_dim", 63),
        ("rotary_dim", 0),
        ("rotary_dim", -2),
        ("rotary_dim", 130),
        ("theta", 1.0),
        ("theta", 0.0),
        ("theta", math.nan),
        ("theta", math.inf),
        ("trained_window", 0),
        ("trained_window", -1),
        ("native", NativeScaling("linear", (2.0,) * 31, 1.0)),
    ],
)
def test_a_geometry_that_cannot_be_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ModelError) as caught:
        replace(SPEC, **{field: value})
    assert f"{field} = {value!r}" in caught.value.found
    assert caught.value.needed
    assert caught.value.remedy


def test_plain_geometry_worked_by_hand() -> None:
    """At theta = 10^4 and d = 4 the frequencies are 1 and 1/100."""
    spec = RopeSpec(head_dim=16, rotary_dim=4, theta=1e4, trained_window=100)
    assert spec.num_pairs == 2
    assert spec.frequencies.tolist() == pytest.approx([1, 0.01], rel=1e-15)
    assert spec.wavelengths.tolist() == pytest.approx([2 * math.pi, 200 * math.pi])
    assert spec.attention_factor == 1
    assert spec.frequencies.dtype == np.float64


def test_carried_scaling_divides_the_plain_frequencies() -> None:
    plain = RopeSpec(head_dim=4, rotary_dim=4, theta=1e4, trained_window=400)
    spec = replace(plain, native=NativeScaling("yarn", (1.0, 8.0), 1.25))
    assert spec.plain_frequencies.tolist() == pytest.approx([1, 0.01], rel=1e-15)
    assert spec.frequencies.tolist() == pytest.approx([1, 0.00125], rel=1e-15)
    assert spec.wavelengths.tolist() == pytest.approx([2 * math.pi, 1600 * math.pi])
    assert spec.attention_factor == 1.25


def test_critical_pair_counts_the_models_own_wavelengths() -> None:
    """Of the wavelengths 6.28 and 628.3 a window of 629 holds both, one of 628 the first, one of 6 neither."""
    spec = RopeSpec(head_dim=4, rotary_dim=4, theta=1e4, trained_window=629)
    assert spec.critical_pair == 2
    assert replace(spec, trained_window=628).critical_pair == 1
    assert replace(spec, native=NativeScaling("linear", (2.0, 2.0), 1.0)).critical_pair == 1
    assert replace(spec, trained_window=6).critical_pair == 0


@pytest.mark.parametrize(("theta", "rotary_dim", "window", "pair"), [(1e4, 96, 2048, 31), (5e5, 128, 8192, 35)])
def test_critical_pair_of_the_papers_models(theta: float, rotary_dim: int, window: int, pair: int) -> None:
    """LongRoPE2 states 31 for Phi3-mini and 35 for LLaMA3-8B."""
    assert RopeSpec(rotary_dim, rotary_dim, theta, window).critical_pair == pair


@every_geometry
def test_critical_pair_is_the_first_without_a_whole_turn(theta: float, shape: tuple[int, int], window: int) -> None:
    expected = 0
    while expected < shape[1] // 2 and window * theta ** (-2 * expected / shape[1]) >= 2 * math.pi:
        expected += 1
    assert RopeSpec(*shape, theta, window).critical_pair == expected


def test_fingerprint_changes_with_every_field() -> None:
    native = NativeScaling("linear", (2.0,) * 32, 1.0)
    variants = [
        SPEC,
        replace(SPEC, head_dim=64),
        replace(SPEC, rotary_dim=32),
        replace(SPEC, theta=1e4),
        replace(SPEC, trained_window=4096),
        replace(SPEC, pairing="interleaved"),
        replace(SPEC, native=native),
        replace(SPEC, native=replace(native, rope_type="llama3")),
        replace(SPEC, native=replace(native, lambdas=(2.0,) * 31 + (3.0,))),
        replace(SPEC, native=replace(native, attention_factor=1.1)),
    ]
    fingerprints = [spec.fingerprint for spec in variants]
    assert len(set(fingerprints)) == len(variants)
    assert all(len(name) == 16 and int(name, 16) >= 0 for name in fingerprints)


def test_equal_geometries_have_equal_fingerprints() -> None:
    """One config.json says rope_theta 10000, another 10000.0: the geometry is the same."""
    whole, real = RopeSpec(64, 64, 10000, 4096), RopeSpec(64, 64, 10000.0, 4096)
    assert whole == real
    assert whole.fingerprint == real.fingerprint
