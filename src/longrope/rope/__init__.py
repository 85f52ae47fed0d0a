"""Rotary position embedding: geometry, the formulas that rescale it, and the formats that state it. Knows no torch."""

from longrope.rope.baselines import baseline_factors, own_yarn_lambdas
from longrope.rope.factors import FactorTable, RescaleFactors, as_one, as_table, dump_factors, load_factors, unscaled
from longrope.rope.geometry import FactorLists, Layout, NativeScaling, RopeSpec, RotaryTable, extension_ratio
from longrope.rope.given import GivenFactors, read_given
from longrope.rope.scaling import (
    Lambdas,
    critical_lambdas,
    dynamic_ntk_lambdas,
    llama3_lambdas,
    ntk_critical_lambdas,
    ntk_lambdas,
    pi_lambdas,
    rebased_lambdas,
    su_attention_factor,
    yarn_attention_factor,
    yarn_lambdas,
)
from longrope.rope.transform import at_window, compose, counted_from, extrapolate, relative_to, tuned_spec

__all__ = [
    "FactorLists",
    "FactorTable",
    "GivenFactors",
    "Lambdas",
    "Layout",
    "NativeScaling",
    "RescaleFactors",
    "RopeSpec",
    "RotaryTable",
    "as_one",
    "as_table",
    "at_window",
    "baseline_factors",
    "compose",
    "counted_from",
    "critical_lambdas",
    "dump_factors",
    "dynamic_ntk_lambdas",
    "extension_ratio",
    "extrapolate",
    "llama3_lambdas",
    "load_factors",
    "ntk_critical_lambdas",
    "ntk_lambdas",
    "own_yarn_lambdas",
    "pi_lambdas",
    "read_given",
    "rebased_lambdas",
    "relative_to",
    "su_attention_factor",
    "tuned_spec",
    "unscaled",
    "yarn_attention_factor",
    "yarn_lambdas",
]
