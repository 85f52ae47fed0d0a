"""Rotary position embedding: geometry, the formulas that rescale it, and the formats that state it. Knows no torch."""

from longrope.rope.geometry import Carried, FactorLists, RopeSpec, RotaryTable, extension_ratio
from longrope.rope.scaling import (
    Lambdas,
    critical_lambdas,
    dynamic_ntk_lambdas,
    llama3_lambdas,
    ntk_lambdas,
    pi_lambdas,
    su_attention_factor,
    yarn_attention_factor,
    yarn_lambdas,
)

__all__ = [
    "Carried",
    "FactorLists",
    "Lambdas",
    "RopeSpec",
    "RotaryTable",
    "critical_lambdas",
    "dynamic_ntk_lambdas",
    "extension_ratio",
    "llama3_lambdas",
    "ntk_lambdas",
    "pi_lambdas",
    "su_attention_factor",
    "yarn_attention_factor",
    "yarn_lambdas",
]
