"""The formulas that rescale rotary position embedding (RoPE).

Plain RoPE turns pair ``i`` of the token at position ``n`` by the angle ``n * theta ** (-2 i / d)``, where ``d`` is the
rotary dimension. Every method here is a vector of rescale factors ``lambda`` (one per pair): pair ``i`` then turns by
``n * theta ** (-2 i / d) / lambda[i]``. This module is the only home of these formulas; it knows numpy, not torch.

Shape legend: P = rotary_dim / 2 pairs, fastest first.
"""

import math

import numpy as np
from numpy.typing import NDArray

from longrope.errors import ModelError

Lambdas = NDArray[np.float64]


def pi_lambdas(num_pairs: int, ratio: float) -> Lambdas:
    """Position interpolation (arXiv 2306.15595, section 3): every pair is slowed by s."""
    return np.full(num_pairs, float(ratio))


def ntk_lambdas(num_pairs: int, ratio: float) -> Lambdas:
    """NTK-aware scaling: s ** (2 i / (d - 2)), which is 1 for the fastest pair and s for the slowest."""
    return np.asarray(float(ratio) ** (np.arange(num_pairs) / max(1, num_pairs - 1)), dtype=np.float64)


def rebased_lambdas(num_pairs: int, ratio: float, exponent: float) -> Lambdas:
    """The base theta * s ** exponent instead of theta: s ** (2 i exponent / d), which may exceed s."""
    return np.asarray(float(ratio) ** (np.arange(num_pairs) * exponent / num_pairs), dtype=np.float64)


def ntk_critical_lambdas(num_pairs: int, critical_pair: int, ratio: float) -> Lambdas:
    """NTK by critical dimension: s ** (i / c), which is s at the critical pair c and more after it.

    It is the base theta * s ** (d / 2c) (arXiv 2310.05209). The first pair counts as the critical one where no pair
    makes a whole turn.
    """
    return np.asarray(float(ratio) ** (np.arange(num_pairs) / max(1, critical_pair)), dtype=np.float64)


def dynamic_ntk_lambdas(num_pairs: int, trained_window: int, tokens: int, factor: float = 1.0) -> Lambdas:
    """Dynamic NTK: NTK-aware scaling with the ratio taken from the current length.

    Args:
        num_pairs: P.
        trained_window: L in tokens.
        tokens: the current length; at or below L nothing is rescaled.
        factor: the multiplier of the usual formula ``factor * tokens / L - (factor - 1)``.
    """
    ratio = factor * max(tokens, trained_window) / trained_window - (factor - 1)
    return ntk_lambdas(num_pairs, ratio)


def critical_lambdas(num_pairs: int, critical_pair: float, ratio: float, free_pairs: float = 0.0) -> Lambdas:
    """The critical-pair rule: s ** (i / c) below the critical pair c, s from it on (LongRoPE2, arXiv 2502.20082, 3.2).

    Pairs from c on never turned through a whole period in training, so their angles must stay within the trained ones.
    With ``free_pairs`` f the fastest f pairs stay as they are and the curve rises between f and c.
    """
    risen = (np.arange(num_pairs) - free_pairs) / max(1.0, critical_pair - free_pairs)
    return np.asarray(float(ratio) ** np.clip(risen, 0, 1), dtype=np.float64)


def _place_turning(frequency: float, theta: float, slowed: Lambdas) -> float:
    """Where among pairs that are slowed by these factors one would have a frequency, in radians per token."""
    step, last = math.log(theta) / len(slowed), len(slowed) - 1
    falls = np.maximum.accumulate(np.arange(len(slowed)) * step + np.log(slowed))  # of the logarithm of frequencies
    wanted = -math.log(frequency)
    if not falls[0] <= wanted <= falls[last]:
        end = 0 if wanted < falls[0] else last
        return end + float(wanted - falls[end]) / step
    return float(np.interp(wanted, falls, np.arange(len(slowed))))


def yarn_lambdas(
    spec_theta: float,
    num_pairs: int,
    trained_window: float,
    ratio: float,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
    slowed: Lambdas | None = None,
) -> Lambdas:
    """YaRN's "NTK-by-parts" ramp (arXiv 2309.00071, section 3.2).

    Pairs that turn more than ``beta_fast`` times within the trained window stay, pairs that turn less than
    ``beta_slow`` times are divided by s, and the frequencies between are blended linearly by pair index.
    ``truncate`` rounds the ramp's ends outwards to whole pairs, as runtimes do. ``slowed`` [P] are the factors that the
    model turns by in its window already, by its own scaling or since it was tuned with them: the turns are counted of
    each pair as it turns there.
    """
    rotary_dim = 2 * num_pairs

    def pair_turning(turns: float) -> float:
        if slowed is None or (slowed == 1).all():
            return rotary_dim * math.log(trained_window / (turns * 2 * math.pi)) / (2 * math.log(spec_theta))
        return _place_turning(turns * 2 * math.pi / trained_window, spec_theta, slowed)

    low, high = pair_turning(beta_fast), pair_turning(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    interpolated = np.clip((np.arange(num_pairs) - low) / max(high - low, 1e-3), 0, 1)
    return np.asarray(1 / (1 - interpolated + interpolated / ratio), dtype=np.float64)


def llama3_lambdas(
    frequencies: Lambdas, ratio: float, original_window: int, *, low_turns: float = 1.0, high_turns: float = 4.0
) -> Lambdas:
    """Llama-3 style scaling, by the number of turns that a pair makes in the original window.

    Pairs with more than ``high_turns`` turns stay, those with fewer than ``low_turns`` are divided by s, and the
    frequencies between are blended linearly in the number of turns.
    """
    turns = original_window * frequencies / (2 * np.pi)
    kept = np.clip((turns - low_turns) / (high_turns - low_turns), 0, 1)
    return np.asarray(1 / (kept + (1 - kept) / ratio), dtype=np.float64)


def yarn_attention_factor(ratio: float) -> float:
    """YaRN's factor on cos and sin, 0.1 ln s + 1 (arXiv 2309.00071, equation 22)."""
    return 1.0 if ratio <= 1 else 0.1 * math.log(ratio) + 1


def su_attention_factor(ratio: float, trained_window: int) -> float:
    """LongRoPE's ("su") factor on cos and sin, sqrt(1 + ln s / ln L), as its published checkpoints use it.

    Raises:
        ModelError: the window has one token, whose logarithm is 0.
    """
    if ratio > 1 and trained_window < 2:
        raise ModelError(
            f"A context window of {trained_window} tokens is stated, and one {ratio:g} times as long.",
            "LongRoPE's attention factor divides by the logarithm of the window.",
            "Check the model's config.json.",
        )
    return 1.0 if ratio <= 1 else math.sqrt(1 + math.log(ratio) / math.log(trained_window))
