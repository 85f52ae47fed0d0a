"""The factors of methods that need no search: one function for each row of the registry, by the formulas of scaling."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from longrope import registry
from longrope.errors import FactorsError
from longrope.rope.factors import FactorTable, RescaleFactors, as_table
from longrope.rope.geometry import RopeSpec, extension_ratio
from longrope.rope.scaling import (
    Lambdas,
    critical_lambdas,
    dynamic_ntk_lambdas,
    ntk_critical_lambdas,
    ntk_lambdas,
    pi_lambdas,
    su_attention_factor,
    yarn_attention_factor,
    yarn_lambdas,
)

REAL_TURNS = 10  # in the trained window: pairs of fewer turns are trained too little (LongRoPE2, section 3.2)


def baseline_factors(spec: RopeSpec, method: str, target_tokens: int, lengths: Iterable[int] = ()) -> FactorTable:
    """The factors of a baseline by its formula, for a target window; searches start from the same ones.

    Args:
        spec: the model's geometry.
        method: one of ``registry.formulas()``; its row states its attention factor.
        target_tokens: L'.
        lengths: dynamic NTK gets one factor set for each of these lengths (and for L').
    """
    if method not in (known := registry.formulas()):
        raise FactorsError(
            f"The method {method!r} has no closed form.",
            f"Known: {', '.join(known)}. {registry.describe_measured_alone()}",
            "Choose one of them.",
        )
    made = registry.resolve(registry.METHODS[method].make)(spec, target_tokens, lengths)
    return FactorTable(tuple(replace(factor_set, method=method) for factor_set in as_table(made).factor_sets))


def pi_table(spec: RopeSpec, target_tokens: int, _: Iterable[int] = ()) -> FactorTable:
    """Position interpolation."""
    return _one_set(spec, target_tokens, pi_lambdas(spec.num_pairs, extension_ratio(spec, target_tokens)))


def ntk_table(spec: RopeSpec, target_tokens: int, _: Iterable[int] = ()) -> FactorTable:
    """NTK-aware scaling."""
    return _one_set(spec, target_tokens, ntk_lambdas(spec.num_pairs, extension_ratio(spec, target_tokens)))


def ntk_critical_table(spec: RopeSpec, target_tokens: int, _: Iterable[int] = ()) -> FactorTable:
    """NTK by critical dimension."""
    ratio = extension_ratio(spec, target_tokens)
    return _one_set(spec, target_tokens, ntk_critical_lambdas(spec.num_pairs, spec.critical_pair, ratio))


def own_yarn_lambdas(spec: RopeSpec, ratio: float) -> Lambdas:
    """YaRN's ramp by the turns of a model's own RoPE in its window; of tuned weights, in the one they were tuned at."""
    slowed = np.asarray(spec.native.lambdas) if spec.native else None
    return yarn_lambdas(spec.theta, spec.num_pairs, spec.trained_window, ratio, slowed=slowed)


def yarn_table(spec: RopeSpec, target_tokens: int, _: Iterable[int] = ()) -> FactorTable:
    """YaRN with its attention factor."""
    ratio = extension_ratio(spec, target_tokens)
    return _one_set(spec, target_tokens, own_yarn_lambdas(spec, ratio), yarn_attention_factor(ratio))


def critical_table(spec: RopeSpec, target_tokens: int, _: Iterable[int] = ()) -> FactorTable:
    """The critical-pair rule with LongRoPE's attention factor."""
    return _critical(spec, target_tokens, turns=1)


def real_critical_table(spec: RopeSpec, target_tokens: int, _: Iterable[int] = ()) -> FactorTable:
    """The same from the first pair on that turns less than ten times: the real critical pair lies before the other."""
    return _critical(spec, target_tokens, turns=REAL_TURNS)


def _critical(spec: RopeSpec, target_tokens: int, turns: float) -> FactorTable:
    ratio = extension_ratio(spec, target_tokens)
    lambdas = critical_lambdas(spec.num_pairs, spec.pair_turning(turns), ratio)
    return _one_set(spec, target_tokens, lambdas, su_attention_factor(ratio, spec.trained_window))


def dynamic_ntk_table(spec: RopeSpec, target_tokens: int, lengths: Iterable[int] = ()) -> FactorTable:
    """Dynamic NTK: one set of factors for each of the lengths and for the target."""
    pairs, window = spec.num_pairs, spec.trained_window
    made = {n: dynamic_ntk_lambdas(pairs, window, n) for n in sorted({*lengths, target_tokens})}
    return FactorTable(tuple(_one_set(spec, n, lambdas).factor_sets[0] for n, lambdas in made.items()))


def _one_set(spec: RopeSpec, target_tokens: int, lambdas: Lambdas, attention_factor: float = 1.0) -> FactorTable:
    """One factor set from lambdas relative to what the model does in its trained window.

    Where its own scaling grows beyond that (dynamic NTK), the same angles are stated relative to it.
    """
    grows = spec.native is not None and spec.native.growth > 0 and target_tokens > spec.trained_window
    if grows:
        lambdas = lambdas * spec.lambdas_at(spec.trained_window) / spec.lambdas_at(target_tokens)
    own, name = tuple(lambdas.tolist()), spec.fingerprint
    return as_table(RescaleFactors(own, target_tokens, name, attention_factor=attention_factor, relaxed=grows))
