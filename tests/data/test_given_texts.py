"""Texts as Python users give them: one path without a list, and parts rather than all of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest

import longrope
from longrope.errors import TextsError


def test_a_single_path_needs_no_list(text_folders: tuple[Path, Path]) -> None:
    """As text, and as a path; to measure on, too."""
    tokenizer, (folder, other) = pico.make_tokenizer(), text_folders
    listed = longrope.load_texts([folder], tokenizer, measure=[other])
    for alone in (
        longrope.load_texts(str(folder), tokenizer, measure=str(other)),
        longrope.load_texts(folder, tokenizer, measure=other),
    ):
        for part in ("search", "tune", "measure"):
            assert np.array_equal(getattr(alone, part).tokens, getattr(listed, part).tokens)
    with pytest.raises(TextsError, match=r"^nowhere does not exist"):
        longrope.load_texts("nowhere", tokenizer)


@pytest.mark.parametrize(
    ("step", "part"),
    [
        (lambda model, texts: longrope.find_factors(model, texts, 128), "search"),
        (lambda model, texts: longrope.fine_tune(model, None, texts), "tune"),
        (lambda model, texts: longrope.measure(model, None, texts), "measure"),
    ],
)
def test_whole_texts_are_refused_where_a_part_is_needed(
    step: Callable[[Any, Any], object], part: str, text_folders: tuple[Path, Path]
) -> None:
    model = pico.make_model()
    with pytest.raises(TextsError, match="All parts") as caught:
        step(model, longrope.load_texts(text_folders[0], model.tokenizer))
    assert caught.value.remedy == f"Give texts.{part}."
    with pytest.raises(TextsError, match="A str is given"):
        step(model, "books/")


@pytest.mark.parametrize(
    "source",
    ["First line.\nSecond line.", "word " * 100, "/".join(["word"] * 2000), {"text": "A row."}, None, 7],
    ids=["lines", "words", "slashes", "row", "nothing", "number"],
)
def test_a_document_in_the_place_of_a_source_is_named(source: Any) -> None:
    """A path of it would be too long for the system, and a row would be read as the names of its fields."""
    with pytest.raises(TextsError, match="is no source of texts") as caught:
        longrope.load_texts([source], pico.make_tokenizer())
    assert "load_texts([documents], tokenizer)" in caught.value.remedy
    assert len(caught.value.found) < 80
