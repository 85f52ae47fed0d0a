"""The formulas and the geometry of RoPE against transformers' own, their ends derived by hand, and exact angles."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import mpmath
import numpy as np
import pytest
from geometries import RATIOS, SPEC, THETAS, every_geometry
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longrope.rope import (
    Lambdas,
    RopeSpec,
    critical_lambdas,
    dynamic_ntk_lambdas,
    extension_ratio,
    llama3_lambdas,
    ntk_critical_lambdas,
    ntk_lambdas,
    pi_lambdas,
    rebased_lambdas,
    su_attention_factor,
    yarn_attention_factor,
    yarn_lambdas,
)


def theirs(spec: RopeSpec, rope_type: str, tokens: int | None = None, **parameters: Any) -> tuple[Lambdas, float]:
    """[P] frequencies and the attention factor that transformers computes from a config of this geometry."""
    partial = {"partial_rotary_factor": spec.rotary_dim / spec.head_dim} if spec.rotary_dim < spec.head_dim else {}
    config = LlamaConfig(
        hidden_size=4 * spec.head_dim,
        num_attention_heads=2,  # head_dim is not hidden_size / heads
        head_dim=spec.head_dim,
        max_position_embeddings=spec.trained_window,
        rope_parameters={"rope_type": rope_type, "rope_theta": spec.theta, **partial, **parameters},
    )
    frequencies, attention_factor = ROPE_INIT_FUNCTIONS[rope_type](config, None, seq_len=tokens)
    return frequencies.double().numpy(), attention_factor


def assert_same(spec: RopeSpec, lambdas: Lambdas, reference: Lambdas) -> None:
    """Our frequencies are theirs, to the precision of theirs (float32)."""
    assert reference.shape == (spec.num_pairs,)
    np.testing.assert_allclose(spec.frequencies / lambdas, reference, rtol=1e-5)


# Parity with transformers


@every_geometry
def test_pi_is_transformers_linear(theta: float, shape: tuple[int, int], window: int) -> None:
    spec = RopeSpec(*shape, theta, window)
    for ratio in RATIOS:
        reference, attention_factor = theirs(spec, "linear", factor=float(ratio))
        assert_same(spec, pi_lambdas(spec.num_pairs, ratio), reference)
        assert attention_factor == 1


@every_geometry
def test_dynamic_ntk_is_transformers_dynamic(theta: float, shape: tuple[int, int], window: int) -> None:
    spec = RopeSpec(*shape, theta, window)
    for factor, tokens in product((1.0, 2.0, 4.0), (window // 2, window, window + 1, 3 * window, 32 * window)):
        reference, attention_factor = theirs(spec, "dynamic", tokens, factor=factor)
        assert_same(spec, dynamic_ntk_lambdas(spec.num_pairs, window, tokens, factor), reference)
        assert attention_factor == 1


@every_geometry
def test_yarn_is_transformers_yarn(theta: float, shape: tuple[int, int], window: int) -> None:
    spec = RopeSpec(*shape, theta, window)
    for ratio, truncate, (fast, slow) in product(RATIOS, (True, False), ((32.0, 1.0), (64.0, 2.0), (8.0, 0.5))):
        lambdas = yarn_lambdas(theta, spec.num_pairs, window, ratio, beta_fast=fast, beta_slow=slow, truncate=truncate)
        reference, attention_factor = theirs(
            spec, "yarn", factor=float(ratio), beta_fast=fast, beta_slow=slow, truncate=truncate
        )
        assert_same(spec, lambdas, reference)
        assert yarn_attention_factor(ratio) == pytest.approx(attention_factor)


@pytest.mark.parametrize("spec", [SPEC, RopeSpec(64, 64, 10.0, 1024)], ids=["usual", "ramp-ends-past-the-last-pair"])
def test_yarn_defaults_are_those_of_transformers(spec: RopeSpec) -> None:
    reference, _ = theirs(spec, "yarn", factor=8.0)
    assert_same(spec, yarn_lambdas(spec.theta, spec.num_pairs, spec.trained_window, 8), reference)


@every_geometry
def test_llama3_is_transformers_llama3(theta: float, shape: tuple[int, int], window: int) -> None:
    spec = RopeSpec(*shape, theta, window)
    for ratio, (low, high) in product(RATIOS, ((1.0, 4.0), (0.5, 16.0))):
        lambdas = llama3_lambdas(spec.frequencies, ratio, window, low_turns=low, high_turns=high)
        reference, attention_factor = theirs(
            spec, "llama3", factor=float(ratio), low_freq_factor=low, high_freq_factor=high
        )
        assert_same(spec, lambdas, reference)
        assert attention_factor == 1


@every_geometry
def test_lambdas_and_su_are_transformers_longrope(theta: float, shape: tuple[int, int], window: int) -> None:
    """Its long factors divide the frequencies as our lambdas do, and its default attention factor is ours."""
    spec = RopeSpec(*shape, theta, window)
    for ratio in RATIOS:
        lambdas = 1 + np.sort(np.random.default_rng(ratio).random(spec.num_pairs)) * ratio
        short, long = [1.0] * spec.num_pairs, lambdas.tolist()
        reference, attention_factor = theirs(
            spec, "longrope", window + 1, factor=float(ratio), short_factor=short, long_factor=long
        )
        assert_same(spec, lambdas, reference)
        assert su_attention_factor(ratio, window) == pytest.approx(attention_factor)


# Each formula at its ends, by hand


def test_pi_slows_every_pair_by_the_ratio() -> None:
    assert pi_lambdas(3, 8).tolist() == [8, 8, 8]


@pytest.mark.parametrize("ratio", RATIOS)
def test_ntk_leaves_the_fastest_pair_and_slows_the_slowest_by_the_ratio(ratio: int) -> None:
    """It is also plain RoPE of the base theta * s ** (d / (d - 2)), as it was first published."""
    lambdas = ntk_lambdas(SPEC.num_pairs, ratio)
    assert lambdas[0] == 1
    assert lambdas[-1] == ratio
    rebased = replace(SPEC, theta=SPEC.theta * ratio ** (64 / 62))
    np.testing.assert_allclose(SPEC.frequencies / lambdas, rebased.frequencies, rtol=1e-12)


@pytest.mark.parametrize(
    ("spec", "ratio", "real", "rounded", "ntk", "critical"),
    [
        (RopeSpec(64, 64, 1e5, 8192), 8, 19.937, 20, 855_504, 2_785_762),
        (RopeSpec(128, 128, 1e4, 4096), 8, 45.027, 46, 82_685, 180_498),
        (RopeSpec(256, 256, 1e6, 32768), 2, 79.302, 80, 2_010_946, 3_031_433),
    ],
)
def test_bases_of_ntk_and_of_ntk_by_critical_dimension(
    spec: RopeSpec, ratio: float, real: float, rounded: int, ntk: float, critical: float
) -> None:
    """Worked out elsewhere from theta * s ** (d / (d - 2)) and theta * s ** (d / 2c); the base is read from a pair."""
    wanted = spec.num_pairs * math.log(spec.trained_window / (2 * math.pi)) / math.log(spec.theta)
    assert (round(wanted, 3), spec.critical_pair) == (real, rounded)
    for lambdas, base in (
        (ntk_lambdas(spec.num_pairs, ratio), ntk),
        (ntk_critical_lambdas(spec.num_pairs, spec.critical_pair, ratio), critical),
    ):
        for pair in (1, 10, spec.num_pairs - 1):
            assert spec.theta * lambdas[pair] ** (spec.num_pairs / pair) == pytest.approx(base, abs=0.5)


def test_ntk_by_critical_dimension_at_single_pairs_and_at_its_ends() -> None:
    """It exceeds s after the critical pair, where the critical-pair rule stays at s; both agree up to it."""
    spec = RopeSpec(64, 64, 1e5, 8192)
    lambdas, pairs = ntk_critical_lambdas(32, spec.critical_pair, 8), [0, 10, 20, 31]
    assert lambdas[pairs] == pytest.approx([1, 2.8284, 8, 25.107], rel=2e-5)
    assert ntk_lambdas(32, 8)[pairs] == pytest.approx([1, 1.9558, 3.8251, 8], rel=2e-5)
    capped = critical_lambdas(32, spec.critical_pair, 8)
    assert lambdas[:21].tolist() == capped[:21].tolist()
    assert (lambdas[21:] > 8).all()
    assert (capped[21:] == 8).all()
    assert ntk_critical_lambdas(32, 20, 1).tolist() == [1] * 32
    assert ntk_critical_lambdas(3, 0, 8).tolist() == [1, 8, 64]  # no pair makes a whole turn


@pytest.mark.parametrize("ratio", [2.0, 8.0, 100.0])
def test_a_new_base_is_plain_rope_of_that_base(ratio: float) -> None:
    for exponent in (0.5, 1.0, 64 / 62, 3.0):
        rebased = replace(SPEC, theta=SPEC.theta * ratio**exponent)
        lambdas = rebased_lambdas(SPEC.num_pairs, ratio, exponent)
        np.testing.assert_allclose(SPEC.frequencies / lambdas, rebased.frequencies, rtol=1e-12)
    np.testing.assert_allclose(rebased_lambdas(32, ratio, 64 / 62), ntk_lambdas(32, ratio), rtol=1e-12)
    np.testing.assert_allclose(rebased_lambdas(32, ratio, 64 / 40), ntk_critical_lambdas(32, 20, ratio), rtol=1e-12)


@pytest.mark.parametrize("factor", [1.0, 4.0])
@pytest.mark.parametrize("tokens", [1, 4096, 8191, 8192])
def test_dynamic_ntk_changes_nothing_within_the_window(tokens: int, factor: float) -> None:
    assert dynamic_ntk_lambdas(5, 8192, tokens, factor).tolist() == [1] * 5


def test_dynamic_ntk_at_s_windows_is_ntk() -> None:
    assert dynamic_ntk_lambdas(5, 8192, 16 * 8192).tolist() == pytest.approx([1, 2, 4, 8, 16])


def test_dynamic_ntk_with_a_factor_grows_that_much_faster() -> None:
    """At two windows the ratio is 4 * 2 - 3 = 5."""
    assert dynamic_ntk_lambdas(2, 8192, 16384, 4.0).tolist() == pytest.approx([1, 5])


@pytest.mark.parametrize(("theta", "window", "ratio"), [(1e4, 4096, 8), (1e5, 8192, 32), (5e5, 131072, 2)])
def test_yarn_ramp_lies_between_32_turns_and_1(theta: float, window: int, ratio: int) -> None:
    """Without rounding, a pair changes if it turns less than 32 times, and changes fully if less than once."""
    turns = [window / (2 * math.pi * theta ** (2 * i / 128)) for i in range(64)]
    lambdas = yarn_lambdas(theta, 64, window, ratio, truncate=False)
    assert [x == 1 for x in lambdas] == [n >= 32 for n in turns]
    assert [x == ratio for x in lambdas] == [n <= 1 for n in turns]
    assert 1 < np.sum((lambdas > 1) & (lambdas < ratio)) < 64


def test_yarn_worked_by_hand() -> None:
    """At d = 8 and L = 1024: 32 turns at pair 0.707 and 1 turn at pair 2.212, so the whole-pair ramp is 0, 1/3, 2/3, 1.

    The frequency is kept by 1 - 3/4 of the ramp: 1, 3/4, 1/2, 1/4 at s = 4.
    """
    assert yarn_lambdas(1e4, 4, 1024, 4).tolist() == pytest.approx([1, 4 / 3, 2, 4])


@pytest.mark.parametrize(("theta", "window"), [(1e4, 6), (10.0, 1)], ids=["no-span", "span-below-0"])
def test_yarn_divides_all_pairs_but_the_first_where_none_turns_once(theta: float, window: int) -> None:
    """The ramp's ends fall together at pair 0 (6 tokens are 0.95 turns) or change places (pair -3 at theta 10)."""
    assert yarn_lambdas(theta, 4, window, 4).tolist() == pytest.approx([1, 4, 4, 4])


@pytest.mark.parametrize("turns", [2.0, 5.0, 20.0])
def test_yarn_between_equal_turns_is_a_step(turns: float) -> None:
    """Pairs that turn more often than that stay, the others are divided by s: no pair lies on a ramp."""
    lambdas = yarn_lambdas(1e4, 32, 4096, 8, beta_fast=turns, beta_slow=turns, truncate=False)
    made = [4096 / (2 * math.pi * 1e4 ** (i / 32)) for i in range(32)]
    assert lambdas.tolist() == pytest.approx([1 if n > turns else 8 for n in made], rel=1e-12)


def test_yarn_without_a_span_is_transformers_yarn() -> None:
    spec = RopeSpec(8, 8, 1e4, 6)
    assert_same(spec, yarn_lambdas(1e4, 4, 6, 4), theirs(spec, "yarn", factor=4.0)[0])


def test_llama3_worked_by_hand() -> None:
    """5, 4, 2.5, 1 and 0.5 turns at s = 8: kept, kept, half kept (1 / (1/2 + 1/16) = 16/9), divided, divided."""
    frequencies = 2 * np.pi * np.array([5, 4, 2.5, 1, 0.5]) / 8192
    lambdas = llama3_lambdas(frequencies, 8, 8192)
    assert lambdas.tolist() == pytest.approx([1, 1, 16 / 9, 8, 8])
    assert lambdas[0] == 1
    assert lambdas[-1] == 8


def test_attention_factors_by_hand() -> None:
    """At s = 1 and below they are 1; su at 4k -> 128k is what the Phi-3 128k checkpoints use, sqrt(1 + 5/12)."""
    assert [yarn_attention_factor(s) for s in (0.5, 1)] == [1, 1]
    assert [su_attention_factor(s, 4096) for s in (0.5, 1)] == [1, 1]
    assert yarn_attention_factor(math.exp(10)) == pytest.approx(2)
    assert su_attention_factor(32, 4096) == pytest.approx(1.1902380714238083, rel=1e-15)
    assert su_attention_factor(8192, 8192) == pytest.approx(math.sqrt(2))


def test_extension_ratio_is_at_least_one() -> None:
    assert [extension_ratio(SPEC, tokens) for tokens in (1, 8192, 12288, 65536)] == [1, 1, 1.5, 8]


@given(
    theta=st.floats(1e3, 1e7),
    num_pairs=st.integers(1, 64),
    window=st.integers(512, 2**17),
    beyond=st.integers(0, 2**21),
    truncate=st.booleans(),
)
def test_every_method_stays_between_one_and_the_ratio_and_never_decreases(
    theta: float, num_pairs: int, window: int, beyond: int, truncate: bool
) -> None:
    spec = RopeSpec(2 * num_pairs, 2 * num_pairs, theta, window)
    ratio = extension_ratio(spec, window + beyond)
    for lambdas in (
        pi_lambdas(num_pairs, ratio),
        ntk_lambdas(num_pairs, ratio),
        dynamic_ntk_lambdas(num_pairs, window, window + beyond),
        yarn_lambdas(theta, num_pairs, window, ratio, truncate=truncate),
        llama3_lambdas(spec.frequencies, ratio, window),
    ):
        assert lambdas.dtype == np.float64
        assert lambdas.shape == (num_pairs,)
        assert lambdas.min() >= 1
        assert lambdas.max() <= ratio * (1 + 1e-12)
        assert np.all(np.diff(lambdas) >= 0)


# Angles at two million tokens


@pytest.mark.parametrize("theta", THETAS)
def test_float64_angles_hold_at_2048k_and_float32_ones_do_not(theta: float) -> None:
    """The reference has 50 digits. Each position is a float32 number itself, so the error is the product's alone."""
    spec = RopeSpec(128, 128, theta, 8192)
    single = (1 / np.float32(theta) ** (np.arange(0, 128, 2, dtype=np.float32) / np.float32(128))).astype(np.float32)
    for position in (2**21 - 1, 2**21):
        with mpmath.workdps(50):
            exact = [position * mpmath.mpf(theta) ** (-mpmath.mpf(2 * i) / 128) for i in range(64)]
            double_error = max(
                abs(mpmath.mpf(float(a)) - b) for a, b in zip(position * spec.frequencies, exact, strict=True)
            )
            products = np.float32(position) * single
            single_error = max(abs(mpmath.mpf(float(a)) - b) for a, b in zip(products, exact, strict=True))
        assert products.dtype == np.float32
        assert double_error < 1e-8
        assert single_error > 0.01
