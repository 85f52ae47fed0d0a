"""The rotary tables of a model, and the factors that a checkpoint states."""

from dataclasses import dataclass

from longrope.rope import RopeSpec


@dataclass(frozen=True)
class RotaryTable:
    """One table of angles in a network, and the layers that turn by it. Most models have one for all of their layers.

    Attributes:
        path: dotted name of the rotary module in the network, such as ``model.rotary_emb``.
        layers: numbers of the layers that use it.
        geometry: what it computes.
    """

    path: str
    layers: tuple[int, ...]
    geometry: RopeSpec


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
