"""Geometries of rotary tables: those of published models, a partial one, and that of pico models."""

from itertools import product

import pytest

from longrope.rope import RopeSpec

THETAS = (1e4, 1e5, 5e5, 1e6)
SHAPES = ((32, 32), (64, 64), (128, 128), (80, 32))  # head_dim, rotary_dim: the last is partial
WINDOWS = (64, 2048, 8192, 131072)  # 64 is what tiny test models have
RATIOS = (2, 4, 8, 32)
SPEC = RopeSpec(head_dim=128, rotary_dim=64, theta=1e5, trained_window=8192)

every_geometry = pytest.mark.parametrize(
    ("theta", "shape", "window"), list(product(THETAS, SHAPES, WINDOWS)), ids=lambda value: str(value).replace(" ", "")
)
