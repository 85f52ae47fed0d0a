"""A GGUF file to patch."""

from pathlib import Path

import pytest
from gguf_patches import make_file


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_file(tmp_path / "source.gguf")
