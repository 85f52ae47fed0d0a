"""A model's rotary tables: their geometry, the scaling that the model carries, and the factors that checkpoints state.

Shape legend: P = rotary_dim / 2 pairs, fastest first.
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from longrope.errors import ModelError
from longrope.rope.scaling import Lambdas, dynamic_ntk_lambdas


@dataclass(frozen=True)
class NativeScaling:
    """The scaling that a model already carries in its own config, read as what it is.

    It is a set of factors for each planned length of a sequence (``RopeSpec.lambdas_at``): in most models one for all.

    Attributes:
        rope_type: its kind, as configs name it.
        lambdas: [P] relative to plain RoPE, for sequences of the trained window: longrope's long factors.
        attention_factor: multiplies cos and sin at every length.
        short: [P] longrope's short factors; None if there are none, or they are the long ones.
        switch_tokens: the longest sequence in tokens that takes the short factors.
        growth: dynamic NTK's factor, by which sequences beyond the trained window are scaled; 0 for other kinds.
    """

    rope_type: str
    lambdas: tuple[float, ...]
    attention_factor: float
    short: tuple[float, ...] | None = None
    switch_tokens: int = 0
    growth: float = 0.0

    def __post_init__(self) -> None:
        """Make every number a float, so that equal scalings have equal fingerprints."""
        object.__setattr__(self, "lambdas", tuple(float(x) for x in self.lambdas))
        object.__setattr__(self, "attention_factor", float(self.attention_factor))
        if self.short is not None:
            short = tuple(float(x) for x in self.short)
            one = short == self.lambdas
            object.__setattr__(self, "short", None if one else short)
            object.__setattr__(self, "switch_tokens", 0 if one else self.switch_tokens)

    @property
    def by_length(self) -> bool:
        """Whether sequences of different lengths have different factors."""
        return self.short is not None or self.growth > 0

    @property
    def named(self) -> dict[str, object]:
        """What names it in a fingerprint. Short factors do not: format 1 of factors files is older than they are."""
        named = {"rope_type": self.rope_type, "lambdas": self.lambdas, "attention_factor": self.attention_factor}
        return {**named, "growth": self.growth} if self.growth else named


@dataclass(frozen=True)
class RopeSpec:
    """The geometry of one model's rotary embedding, read from its config and checked against its own module.

    Attributes:
        head_dim: width of one attention head.
        rotary_dim: how many of its entries are rotated (smaller than ``head_dim`` for partial rotary).
        theta: the base of the frequencies.
        trained_window: the context window in tokens that the model was made for.
        pairing: where cos and sin of pair i stand: at i and i + d/2 (``half``), or at 2i and 2i + 1 (``interleaved``).
        native: the native scaling, or None for plain RoPE.
    """

    head_dim: int
    rotary_dim: int
    theta: float
    trained_window: int
    pairing: Literal["half", "interleaved"] = "half"
    native: NativeScaling | None = None

    def __post_init__(self) -> None:
        """Refuse a geometry that no rotary embedding can have (raises ModelError)."""
        object.__setattr__(self, "theta", float(self.theta))
        checks = {
            "rotary_dim": self.rotary_dim > 0 and self.rotary_dim % 2 == 0 and self.rotary_dim <= self.head_dim,
            "theta": math.isfinite(self.theta) and self.theta > 1,
            "trained_window": self.trained_window > 0,
            "native": self.native is None or len(self.native.lambdas) == self.rotary_dim // 2,
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
        """[P] radians per token that the model itself uses for sequences of its trained window."""
        return self.plain_frequencies if self.native is None else self.plain_frequencies / self.native.lambdas

    @property
    def by_length(self) -> bool:
        """Whether the model itself turns sequences of different lengths differently."""
        return self.native is not None and self.native.by_length

    def lambdas_at(self, tokens: int) -> Lambdas:
        """[P] the model's own factors, relative to plain RoPE, for sequences of a planned total length."""
        native = self.native
        if native is None:
            return np.ones(self.num_pairs)
        if native.short is not None and tokens <= native.switch_tokens:
            return np.asarray(native.short)
        if native.growth:
            return dynamic_ntk_lambdas(self.num_pairs, self.trained_window, tokens, native.growth)
        return np.asarray(native.lambdas)

    def frequencies_at(self, tokens: int) -> Lambdas:
        """[P] radians per token that the model itself uses for sequences of a planned total length."""
        return self.plain_frequencies / self.lambdas_at(tokens)

    @property
    def attention_factor(self) -> float:
        """The factor on cos and sin that the model itself uses."""
        return 1.0 if self.native is None else self.native.attention_factor

    @property
    def wavelengths(self) -> Lambdas:
        """[P] tokens per whole turn of the model's own RoPE."""
        return 2 * np.pi / self.frequencies

    @property
    def critical_pair(self) -> int:
        """The first pair whose period exceeds the trained window, P if none (LongRoPE2, section 3.1)."""
        return self.pair_turning(1)

    def pair_turning(self, turns: float) -> int:
        """The first pair that turns less than so many times within the trained window, P if none."""
        fewer = np.flatnonzero(self.trained_window / self.wavelengths < turns)
        return int(fewer[0]) if len(fewer) else self.num_pairs

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that name this geometry; factors made for one geometry refuse another."""
        named = {key: value for key, value in asdict(self).items() if key != "native"}
        named["carried"] = self.native.named if self.native else None  # the key of format 1
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Layout:
    """How a rotary module hands over its angles, as its own output shows it.

    Attributes:
        columns: the pair whose angle each column holds; -1 where the angle is always 0.
        parts: what it returns: ``cos_sin``, ``sin_cos``, or one ``complex`` tensor.
        follows: whether that has the dtype of the hidden states; otherwise it is always float32 (or complex64).
    """

    columns: tuple[int, ...]
    parts: Literal["cos_sin", "sin_cos", "complex"] = "cos_sin"
    follows: bool = True


@dataclass(frozen=True)
class RotaryTable:
    """One table of angles in a network, and the layers that turn by it. Most models have one for all of their layers.

    Attributes:
        path: dotted name of the rotary module in the network, such as ``model.rotary_emb``; with ``*`` in the place of
            numbers where several modules hold the same table (``model.layers.*.self_attn.rotary_emb``), and with commas
            between names where modules of several places do.
        layers: numbers of the layers that use it.
        geometry: what it computes.
        layer_type: which of a module's tables it is, where one module holds one for each type of layer.
        layout: how the module hands it over.
        slides: whether every layer that uses it sees a sliding window alone.
    """

    path: str
    layers: tuple[int, ...]
    geometry: RopeSpec
    layer_type: str | None = None
    layout: Layout | None = None
    slides: bool = False

    @property
    def name(self) -> str:
        """By which a table is chosen: its layer type, or its module."""
        return self.layer_type or self.path


@dataclass(frozen=True)
class FactorLists:
    """The short and the long factors of a checkpoint, as its metadata states them: relative to plain RoPE.

    Attributes:
        short: [P] divisors of the plain frequencies for sequences of at most ``switch_tokens``.
        long: [P] those for longer ones.
        attention_factor: multiplies cos and sin with either list.
        switch_tokens: the longest sequence in tokens that takes the short factors.
        target_window: the longest sequence in tokens that the checkpoint is meant for.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    attention_factor: float
    switch_tokens: int
    target_window: int


def extension_ratio(spec: RopeSpec, target_tokens: int) -> float:
    """s = L' / L, at least 1: below the trained window nothing is rescaled."""
    return max(1.0, target_tokens / spec.trained_window)
