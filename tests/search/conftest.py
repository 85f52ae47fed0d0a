"""What tests of the search share."""

from dataclasses import replace
from pathlib import Path

import pytest

from longrope.data import TokenText, load_texts
from longrope.models import LanguageModel, load_model
from longrope.rope import RescaleFactors, baseline_factors


@pytest.fixture(scope="module")
def model(pico_folder: Path) -> LanguageModel:
    """The pico model, loaded."""
    return load_model(pico_folder, device="cpu")


@pytest.fixture(scope="module")
def text(text_folders: tuple[Path, Path], model: LanguageModel) -> TokenText:
    """The search part of some texts."""
    return load_texts([text_folders[0]], model.tokenizer).search


@pytest.fixture(scope="module")
def tuned_with(model: LanguageModel) -> RescaleFactors:
    """What weights may have been tuned with; that these were not does not matter to the search."""
    ntk = baseline_factors(model.spec, "ntk", 128).factor_sets[0]
    return replace(ntk, attention_factor=1.08, start_tokens=4)
