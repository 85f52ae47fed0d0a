"""The mathematics of the gradient search, against ``torch.optim.Adam`` and autograd."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from valleys import GRADIENT, RATIO, SPEC, Valley, descending

from longrope.recipe import GradientRecipe
from longrope.rope import RopeSpec, baseline_factors
from longrope.runs.records import Trial
from longrope.search.descend import Adam, descend, increments_of, lambdas_of, slope_of_increments
from longrope.search.score import TrialLog


def test_adam_is_torch_adam() -> None:
    """500 steps of three rates, gradients over twelve orders of magnitude."""
    rng = np.random.default_rng(0)
    rates = np.array([0.1, 0.01, 0.5])
    begin = rng.normal(size=3)
    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in begin]
    oracle = torch.optim.Adam([{"params": [t], "lr": lr} for t, lr in zip(tensors, rates, strict=True)])
    adam = Adam(begin.copy(), rates)
    for _ in range(500):
        gradient = rng.normal(size=3) * 10 ** rng.uniform(-9, 3)
        for tensor, slope in zip(tensors, gradient, strict=True):
            tensor.grad = torch.tensor(slope, dtype=torch.float64)
        oracle.step()
        adam.step(gradient)
        np.testing.assert_allclose(adam.parameters, [t.item() for t in tensors], rtol=1e-10, atol=1e-12)


def test_adam_scale_multiplies_one_step() -> None:
    whole, half, none = (Adam(np.zeros(2), np.array([0.1, 0.2])) for _ in range(3))
    for adam, scale in ((whole, 1.0), (half, 0.5), (none, 0.0)):
        adam.step(np.array([3.0, -2.0]), scale)
    np.testing.assert_allclose(whole.parameters, [-0.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(half.parameters, whole.parameters / 2)
    assert none.parameters.tolist() == [0.0, 0.0]


vectors = st.lists(st.floats(-6, 3), min_size=1, max_size=32)
pairs, ratios = st.integers(0, 32), st.floats(1, 32)


@settings(deadline=None)
@given(vectors, st.integers(0, 1000), pairs, ratios)
def test_slope_of_increments_is_what_autograd_gives(
    increments: list[float], seed: int, critical: int, ratio: float
) -> None:
    """From the critical pair on, the sum goes on from ln s where it is below that."""
    critical = min(critical, len(increments))
    weights = np.random.default_rng(seed).normal(size=len(increments))
    u = torch.tensor(increments, dtype=torch.float64, requires_grad=True)
    steps = functional.softplus(u, beta=50.0, threshold=1e9)
    logs: list[torch.Tensor] = []
    for i, step in enumerate(steps):
        before = logs[-1] if logs else torch.zeros((), dtype=torch.float64)
        logs.append((before.clamp(min=math.log(ratio)) if i == critical else before) + step)
    lambdas = torch.stack(logs).exp()
    (torch.tensor(weights) @ lambdas).backward()
    assert u.grad is not None
    scale = np.abs(weights) @ lambdas.detach().numpy()
    slope = slope_of_increments(np.array(increments), weights.tolist(), critical, ratio)
    np.testing.assert_allclose(slope, u.grad.numpy(), rtol=1e-9, atol=1e-12 * scale)
    found = lambdas_of(np.array(increments), critical, ratio)
    np.testing.assert_allclose(found, lambdas.detach().numpy(), rtol=1e-12)
    assert (found[critical:] >= ratio * (1 - 1e-12)).all()


@settings(deadline=None)
@given(st.lists(st.floats(-0.055, 0.2), min_size=1, max_size=32), pairs, ratios)
def test_increments_and_lambdas_are_inverse(increments: list[float], critical: int, ratio: float) -> None:
    critical = min(critical, len(increments))
    lambdas = lambdas_of(np.array(increments), critical, ratio)
    np.testing.assert_allclose(increments_of(lambdas, critical, ratio), increments, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(1, 64), min_size=1, max_size=32).map(sorted), pairs, ratios)
def test_lambdas_come_back_up_to_the_smallest_increment(lambdas: list[float], critical: int, ratio: float) -> None:
    """Flat stretches are raised by a thousandth a pair, and never more; from the critical pair on all are s or more."""
    critical = min(critical, len(lambdas))
    back = lambdas_of(increments_of(np.array(lambdas), critical, ratio), critical, ratio)
    wanted = np.where(np.arange(len(lambdas)) >= critical, np.maximum(lambdas, ratio), lambdas)
    assert (np.diff(back, prepend=1.0) > 0).all()
    assert (np.log(back / wanted) >= -1e-9).all()
    assert (np.log(back / wanted) <= 1e-3 * np.arange(1, len(lambdas) + 1) + 1e-9).all()


def test_the_descent_keeps_pairs_that_never_turned_fully_at_the_ratio_or_above() -> None:
    """Whatever the loss over text would like."""
    log = TrialLog(None, GRADIENT)
    descending(Valley(optimum=(1.15, 1.6, 2.9, 3.7), start_tokens=0), log, settings=GradientRecipe(steps=300))
    descent = [trial for trial in log.made if trial.origin == "gradient"]
    assert min(min(trial.lambdas[SPEC.critical_pair :]) for trial in descent) >= RATIO * (1 - 1e-9)
    np.testing.assert_allclose(descent[-1].lambdas, (1.15, 1.6, RATIO, RATIO), rtol=0.02)


@pytest.mark.parametrize("free", [0, 2, 3])
def test_the_scan_finds_the_pairs_after_the_critical_one_that_take_smaller_lambdas(free: int) -> None:
    """The critical pair and those after it turn 0.97, 0.72, 0.54 and 0.41 times; from the floor on none is below s."""
    spec = RopeSpec(head_dim=64, rotary_dim=64, theta=10_000.0, trained_window=256)
    starts = [baseline_factors(spec, name, 2048).factor_sets[0] for name in ("pi", "ntk", "yarn", "critical")]
    floor, ratio = spec.critical_pair + free, 8.0
    low = ratio ** (0.7 * np.minimum(np.arange(spec.num_pairs) / spec.critical_pair, 1))
    wanted = np.where(np.arange(spec.num_pairs) < floor, low if free else low ** (1 / 0.7), ratio)
    valley, log = Valley(tuple(wanted.tolist()), attention=1.17, start_tokens=0), TrialLog(None, GRADIENT)
    found = descend(valley, spec, starts, GradientRecipe(floor="scan"), max_start_tokens=0, log=log)
    descent = [trial for trial in log.made if trial.origin == "gradient"]
    assert min(min(trial.lambdas[floor:]) for trial in descent) >= ratio * (1 - 1e-9)
    np.testing.assert_allclose(found.lambdas, wanted, rtol=0.2)
    assert max(found.lambdas[:floor]) < 0.7 * ratio or not free


def test_a_start_that_is_raised_before_the_first_step_is_left_for_what_comes_after() -> None:
    """NTK is below s at the floor: the loss of the start is not that of the factors that the first step is from."""
    valley, trials = Valley(optimum=(1.0, 1.59, 2.6, 4.0), attention=1.4, start_tokens=0), list[Trial]()
    settings = GradientRecipe(steps=48, validate_every=4, start="ntk")
    found = descending(valley, TrialLog(None, GRADIENT, on_trial=trials.append), settings)
    looks = [t.loss_nats for t in trials if t.kind == "validation" and t.origin == "gradient"]
    assert looks[-1] < looks[0] - 0.2
    assert found.chosen_by == GRADIENT
    assert found.method not in ("yarn", "ntk", "critical")


def test_lambdas_that_fall_are_raised_to_the_highest_before_them() -> None:
    increments = increments_of(np.array([1.0, 4.0, 2.0, 3.0, 8.0]), 4, 8.0)
    back = lambdas_of(increments, 4, 8.0)
    np.testing.assert_allclose(back, [1.0, 4.0, 4.0, 4.0, 8.0], rtol=5e-3)
