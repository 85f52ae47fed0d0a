"""Models as a user loads them."""

from pathlib import Path

import pico
import pytest
from rotary_oracles import GEOMETRIES

from longrope.models import (
    LanguageModel,
    load_model,
)


@pytest.fixture(scope="module", params=GEOMETRIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, LanguageModel]:
    """Each family, written to the disk and loaded as a user would."""
    folder = pico.save_pico(tmp_path_factory.mktemp("family") / request.param, request.param)
    return request.param, load_model(folder, device="cpu")


@pytest.fixture(scope="module")
def llama(pico_folder: Path) -> LanguageModel:
    return load_model(pico_folder, device="cpu")
