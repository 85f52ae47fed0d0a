"""Rotary position embedding (RoPE): the geometry of a model, and the closed-form ways to rescale it.

Plain RoPE turns pair ``i`` of the token at position ``n`` by the angle ``n * theta ** (-2 i / d)``, where ``d`` is the
rotary dimension. Every method here is a vector of rescale factors ``lambda`` (one per pair): pair ``i`` then turns by
``n * theta ** (-2 i / d) / lambda[i]``. This module is the only home of these formulas; it knows numpy, not torch.

Shape legend: P = rotary_dim / 2 pairs, fastest first.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from longrope.errors import ModelError

Lambdas = NDArray[np.float64]


@dataclass(frozen=True)
class Carried:
    """The scaling that a model already carries in its own config, read as what it is.

    ``lambdas`` ([P], relative to plain RoPE) and ``attention_factor`` are those of the model's longest native tier.
    """

    rope_type: str
    lambdas: tuple[float, ...]
    attention_factor: float

    def __post_init__(self) -> None:
        """Make every number a float, so that equal scalings have equal fingerprints."""
        object.__setattr__(self, "lambdas", tuple(float(x) for x in self.lambdas))
        object.__setattr__(self, "attention_factor", float(self.attention_factor))


@dataclass(frozen=True)
class RopeSpec:
    """The geometry of one model's rotary embedding, read from its config and checked against its own module.

    Attributes:
        head_dim: width of one attention head.
        rotary_dim: how many of its entries are rotated (smaller than ``head_dim`` for partial rotary).
        theta: the base of the frequencies.
        trained_window: the context window in tokens that the model was made for.
        pairing: where cos and sin of pair i stand: at i and i + d/2 (``half``), or at 2i and 2i + 1 (``interleaved``).
        carried: the native scaling, or None for plain RoPE.
    """

    head_dim: int
    rotary_dim: int
    theta: float
    trained_window: int
    pairing: Literal["half", "interleaved"] = "half"
    carried: Carried | None = None

    def __post_init__(self) -> None:
        """Refuse a geometry that no rotary embedding can have (raises ModelError)."""
        object.__setattr__(self, "theta", float(self.theta))
        checks = {
            "rotary_dim": self.rotary_dim > 0 and self.rotary_dim % 2 == 0 and self.rotary_dim <= self.head_dim,
            "theta": math.isfinite(self.theta) and self.theta > 1,
            "trained_window": self.trained_window > 0,
            "carried": self.carried is None or len(self.carried.lambdas) == self.rotary_dim // 2,
        }
        for field, fine in checks.items():
            if not fine:
                raise ModelError(
                    f"The rotary geometry has {field} = {getattr(self, field)!r} (head_dim {self.head_dim}).",
                    "rotary_dim must be even and at most head_dim, theta above 1, the window positive.",
                    "Check the model's config.json.",
                )

    @property
    def num_pairs(self) -> int:
        """P, the number of rotated pairs and the length of every vector of rescale factors."""
        return self.rotary_dim // 2

    @property
    def plain_frequencies(self) -> Lambdas:
        """[P] radians per token of plain RoPE, theta ** (-2 i / d), float64."""
        return np.asarray(self.theta ** -(np.arange(0, self.rotary_dim, 2) / self.rotary_dim), dtype=np.float64)

    @property
    def frequencies(self) -> Lambdas:
        """[P] radians per token that the model itself uses: plain, or with the scaling that it carries."""
        return self.plain_frequencies if self.carried is None else self.plain_frequencies / self.carried.lambdas

    @property
    def attention_factor(self) -> float:
        """The factor on cos and sin that the model itself uses."""
        return 1.0 if self.carried is None else self.carried.attention_factor

    @property
    def wavelengths(self) -> Lambdas:
        """[P] tokens per whole turn of the model's own RoPE."""
        return 2 * np.pi / self.frequencies

    @property
    def critical_pair(self) -> int:
        """The first pair whose period exceeds the trained window, P if none (LongRoPE2, section 3.1)."""
        longer = np.flatnonzero(self.wavelengths > self.trained_window)
        return int(longer[0]) if len(longer) else self.num_pairs

    @property
    def plain_window(self) -> float:
        """The tokens in which plain RoPE turns the critical pair as often as this model does in its own window."""
        slowed = self.carried.lambdas[min(self.critical_pair, self.num_pairs - 1)] if self.carried else 1.0
        return self.trained_window / slowed

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that name this geometry; factors made for one geometry refuse another."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def extension_ratio(spec: RopeSpec, target_tokens: int) -> float:
    """s = L' / L, at least 1: below the trained window nothing is rescaled."""
    return max(1.0, target_tokens / spec.trained_window)


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


def yarn_lambdas(
    spec_theta: float,
    num_pairs: int,
    trained_window: float,
    ratio: float,
    *,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Lambdas:
    """YaRN's "NTK-by-parts" ramp (arXiv 2309.00071, section 3.2).

    Pairs that turn more than ``beta_fast`` times within the trained window stay, pairs that turn less than
    ``beta_slow`` times are divided by s, and the frequencies between are blended linearly by pair index.
    ``truncate`` rounds the ramp's ends outwards to whole pairs, as runtimes do. Turns are those of plain RoPE: of a
    model that carries a scaling, ``RopeSpec.plain_window`` is to be given.
    """
    rotary_dim = 2 * num_pairs

    def pair_turning(turns: float) -> float:
        return rotary_dim * math.log(trained_window / (turns * 2 * math.pi)) / (2 * math.log(spec_theta))

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
    """LongRoPE's ("su") factor on cos and sin, sqrt(1 + ln s / ln L), as its published checkpoints use it."""
    return 1.0 if ratio <= 1 else math.sqrt(1 + math.log(ratio) / math.log(trained_window))
