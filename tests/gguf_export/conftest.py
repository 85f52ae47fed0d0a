"""The model that is exported."""

import pico
import pytest
from gguf_exports import WINDOW

from longrope.models import LanguageModel


@pytest.fixture
def model() -> LanguageModel:
    return pico.make_model("llama", max_position_embeddings=WINDOW)
