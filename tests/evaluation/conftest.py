"""What tests of the evaluation share."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from measuring import Passes, counted
from ruler_prompts import TOKENIZERS, SampleBuilder

from longrope.data import TokenText, load_texts
from longrope.models import LanguageModel, load_model


@pytest.fixture(scope="module")
def model(pico_folder: Path) -> LanguageModel:
    """The pico model, loaded."""
    return load_model(pico_folder, device="cpu")


@pytest.fixture(scope="module")
def text(text_folders: tuple[Path, Path], model: LanguageModel) -> TokenText:
    """The measuring part of some texts."""
    return load_texts([text_folders[0]], model.tokenizer, measure=[text_folders[1]]).measure


@pytest.fixture
def passes(model: LanguageModel) -> Iterator[Passes]:
    """Counts the tokens that go through the model; ``passes.forbidden = True`` makes every further pass an error."""
    with counted(model) as passes:
        yield passes


@pytest.fixture
def reading(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[LanguageModel, SampleBuilder]]:
    """A model with a tokenizer whose answers are those of a reader; its end token is 0."""

    def make(kind: str, answer: Callable[[str], str]) -> tuple[LanguageModel, SampleBuilder]:
        tokenizer = TOKENIZERS[kind]
        return replace(model, tokenizer=tokenizer), SampleBuilder(tokenizer, answer, monkeypatch)

    return make
