"""Passes in tiles of families whose layers are given more than positions."""

from pathlib import Path

import families
import pytest
import sweep


@pytest.mark.parametrize("family", ["beam", "gemma3n_text"])
def test_what_layers_are_given_is_cut_with_their_tokens(family: str, tmp_path: Path) -> None:
    """Beam gives its layers a scale for each query [B, 1, N, 1], Gemma-3n an embedding for each token and layer."""
    sweep.check_tiles(sweep.load(family, families.build_network(family), tmp_path))
