"""What tests add to the registry: a method of one function, as a package of one's own would."""

from collections.abc import Iterable

from longrope.factors import FactorTable, RescaleFactors, as_table
from longrope.rope import RopeSpec


def toy_table(spec: RopeSpec, target_tokens: int, _: Iterable[int]) -> FactorTable:
    """Twice as slow, whatever the target."""
    return as_table(RescaleFactors((2.0,) * spec.num_pairs, target_tokens, spec.fingerprint))
