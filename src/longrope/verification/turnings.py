"""The RoPE that a client may have applied: the right one, the original, and what faults make of it.

Shape legend: P = rotated pairs.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from longrope.rope import Lambdas, RescaleFactors, RopeSpec, pi_lambdas, su_attention_factor
from longrope.verification.clients import Client
from longrope.verification.truth import Truth

USUAL_THETA = 10_000.0  # what runtimes take where a config states none

LONG, SHORT, ORIGINAL = "long factors", "short factors", "original"
WHOLE, NO_ATTENTION = "scaling", "without its attention factor"


@dataclass(frozen=True, eq=False)
class Turning:
    """Angles of every pair, and the factor on cos and sin.

    Attributes:
        frequencies: [P] radians per token.
        attention_factor: multiplies cos and sin.
    """

    frequencies: Lambdas
    attention_factor: float

    def equals(self, other: "Turning") -> bool:
        """Whether both turn alike, to more digits than float32 has."""
        mine, theirs = ((*one.frequencies, one.attention_factor) for one in (self, other))
        return bool(np.allclose(mine, theirs, rtol=1e-6, atol=0))

    def as_factors(self, spec: RopeSpec, tokens: int) -> RescaleFactors:
        """The same as factors for a loaded model of a geometry, for sequences of a length."""
        lambdas = spec.frequencies_at(tokens) / self.frequencies
        attention = self.attention_factor / spec.attention_factor
        return RescaleFactors(tuple(lambdas.tolist()), tokens, spec.fingerprint, 0, attention, relaxed=True)


def accepted(truth: Truth, tokens: int, client: Client) -> dict[str, Turning]:
    """What a client may apply to sequences of a length; one of two lists may serve a whole window."""
    spec = truth.stated
    if not (spec.native and spec.native.short):
        return {WHOLE: _of(spec, tokens)}
    lists = {LONG: _of(spec, spec.native.switch_tokens + 1), SHORT: _of(spec, spec.native.switch_tokens)}
    if tokens > spec.native.switch_tokens:
        return {LONG: lists[LONG]}
    return {SHORT: lists[SHORT]} if client.chooses_by == "length" else lists


def usual_faults(truth: Truth, tokens: int) -> dict[str, Turning]:
    """What is compared in any case: nothing applied, no attention factor, and the short list above the switch."""
    spec, right = truth.stated, _of(truth.stated, tokens)
    faults = {
        ORIGINAL: _of(truth.original, tokens),
        "no scaling": _of(replace(spec, native=None), tokens),
        NO_ATTENTION: replace(right, attention_factor=1.0),
    }
    return faults | _other_list(spec, tokens)


def _other_list(spec: RopeSpec, tokens: int) -> dict[str, Turning]:
    """Of two lists the one that is not meant for a length."""
    if not (spec.native and spec.native.short):
        return {}
    side = LONG if tokens <= spec.native.switch_tokens else SHORT
    return {f"{side} at {tokens:,} tokens": _of(spec, spec.native.switch_tokens + (side == LONG))}


def rarer_faults(truth: Truth, tokens: int) -> dict[str, Turning]:
    """What is compared where none of the others fits."""
    spec, right = truth.stated, _of(truth.stated, tokens)
    ratio = max(1.0, truth.window_tokens / truth.switch_tokens)
    lost = replace(spec, theta=USUAL_THETA, native=None)
    own = right.frequencies / spec.plain_frequencies
    attention = su_attention_factor(ratio, truth.switch_tokens) if truth.switch_tokens > 1 else 1.0
    linear = Turning(spec.plain_frequencies / pi_lambdas(spec.num_pairs, ratio), 1.0)
    derived = {
        f"{name}, and the attention factor that follows from the window": replace(other, attention_factor=attention)
        for name, other in _other_list(spec, tokens).items()
    }
    return {
        **derived,
        f"no scaling, theta {USUAL_THETA:g}": _of(lost, tokens),
        f"theta {USUAL_THETA:g} in the place of {spec.theta:g}": replace(
            right, frequencies=lost.plain_frequencies * own
        ),
        "its factors in reverse order": replace(right, frequencies=spec.plain_frequencies * own[::-1]),
        "the attention factor that follows from the window": replace(right, attention_factor=attention),
        "its attention factor twice": replace(right, attention_factor=right.attention_factor**2),
        f"all positions divided by {ratio:g}": linear,
        f"its factors, and positions divided by {ratio:g}": replace(right, frequencies=right.frequencies / ratio),
    }


def probe_lengths(truth: Truth, positions: int) -> tuple[int, int, int]:
    """Lengths below, at and above the original window, at most twice as long, with room for one more token."""
    switch, window = truth.switch_tokens, truth.window_tokens
    if window <= switch:  # the checkpoint states no other window than its own
        switch = max(positions, window // 2)
    return max(positions, switch // 2), switch, max(switch + positions, min(window - 1, 2 * switch))


def _of(spec: RopeSpec, tokens: int) -> Turning:
    attention = float(spec.attention_factor)
    assert math.isfinite(attention)
    return Turning(spec.frequencies_at(tokens), attention)
