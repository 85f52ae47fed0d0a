"""What a rotary module computes and how it hands it over, read from its own output.

Shape legend: N = positions, P = rotated pairs, C = columns of cos and sin.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from longrope.rope import Layout

PROBE_POSITIONS = 64
SAME_FREQUENCY = 1e-4  # relative; neighbouring pairs differ by hundreds of times that


def ask_module(
    module: Any, layer_type: str | None, positions: list[int], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, bool]:
    """Cos and sin [N, C] of a rotary module at some positions, and whether it gave them as one complex tensor.

    Modules that take three rows of positions are given three equal ones.
    """
    own = {} if layer_type is None else {"layer_type": layer_type}
    ids, hidden = torch.tensor(positions)[None], torch.zeros(1, len(positions), 8, dtype=dtype)
    with torch.no_grad():
        try:
            given = module(hidden, ids, **own)
            first = given if isinstance(given, Tensor) else given[0]
            fits = first.shape[:-1] == ids.shape
        except (RuntimeError, IndexError):
            fits = False
        if not fits:
            given = module(hidden, ids.expand(3, 1, -1), **own)
    if isinstance(given, Tensor):
        return given.real[0], given.imag[0], True
    cos, sin = given
    return cos[0], sin[0], False


def read_layout(module: Any, layer_type: str | None, frequencies: NDArray[np.float64], tokens: int) -> Layout | None:
    """The layout of a module's output for a sequence of some tokens, which is to turn by these frequencies [P].

    At position 1 the angle of a column is its frequency, to float32's relative precision.

    Returns:
        None if a column holds another angle.
    """
    cos, sin, is_complex = ask_module(module, layer_type, [0, 1, tokens - 1])
    sines_first = not is_complex and bool((cos[0] == 0).all())  # at position 0
    if sines_first:
        cos, sin = sin, cos
    half, _, _ = ask_module(module, layer_type, [0, 1], torch.bfloat16)
    found = torch.atan2(sin[1].double(), cos[1].double()).numpy()
    columns = _match(found, frequencies)
    if columns is None:
        return None
    follows = half.dtype == torch.bfloat16
    return Layout(columns, "complex" if is_complex else "sin_cos" if sines_first else "cos_sin", follows)


def pairing_of(layout: Layout) -> Literal["half", "interleaved"]:
    """Whether the two entries of a pair are half a width apart or neighbours, as far as cos and sin show it."""
    neighbours = len(layout.columns) > 1 and layout.columns[0] == layout.columns[1]
    return "interleaved" if neighbours or layout.parts == "complex" else "half"


def computes(
    module: Any, layer_type: str | None, layout: Layout, frequencies: NDArray[np.float64], scale: float, tokens: int
) -> bool:
    """Whether a module turns by these frequencies [P] and multiplies by this scale where a sequence has some tokens."""
    positions = [*range(min(PROBE_POSITIONS, tokens - 1)), tokens - 1]
    cos, sin, _ = ask_module(module, layer_type, positions)
    if layout.parts == "sin_cos":
        cos, sin = sin, cos
    known = np.append(frequencies, 0.0)[list(layout.columns)]
    angles = np.asarray(positions[:-1])[:, None] * known
    given = torch.stack((cos, sin))[:, :-1].double().numpy()
    expected = np.stack((np.cos(angles), np.sin(angles))) * scale
    at_one = np.arctan2(given[1, 1], given[0, 1])
    return bool(
        np.allclose(given, expected, atol=1e-4)
        and np.allclose(at_one, known, rtol=SAME_FREQUENCY, atol=1e-12)
        and np.allclose(np.hypot(given[0, 0], given[1, 0]), scale, rtol=1e-6)
    )


def _match(found: NDArray[np.float64], frequencies: NDArray[np.float64]) -> tuple[int, ...] | None:
    """The pair of each column by its frequency, -1 for none; None if a column fits no pair, or a pair no column."""
    columns = []
    for frequency in found:
        if frequency == 0:
            columns.append(-1)
            continue
        nearest = int(np.abs(np.log(frequencies) - np.log(abs(frequency))).argmin())
        if not np.isclose(frequency, frequencies[nearest], rtol=SAME_FREQUENCY, atol=0):
            return None
        columns.append(nearest)
    return tuple(columns) if set(columns) >= set(range(len(frequencies))) else None
