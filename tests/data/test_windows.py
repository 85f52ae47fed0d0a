"""Windows of a split: whole stretches that never overlap, opened as the tokenizer opens a text."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_documents import encoded, parts_of, unique_text, write_documents

from longrope.data import (
    TokenText,
    load_texts,
)
from longrope.errors import TextsError


def test_a_text_is_one_document_unless_reported_otherwise() -> None:
    assert unique_text(100).documents.tolist() == [0]
    assert TokenText(np.zeros(0, np.int32), "search").documents.tolist() == [0]


@pytest.mark.parametrize("starts", [[], [1], [0, 5, 5], [0, 7, 3], [0, 100], [-1, 4]])
def test_documents_that_do_not_follow_one_another_are_refused(starts: list[int]) -> None:
    with pytest.raises(TextsError, match=r"search text \(100 tokens\) has \d documents in disorder"):
        replace(unique_text(100), documents=np.asarray(starts, np.int64))


@settings(deadline=None)
@given(size=st.integers(1, 400), length=st.integers(2, 60), count=st.integers(1, 12), bos=st.booleans())
def test_windows_are_whole_stretches_that_never_overlap(size: int, length: int, count: int, bos: bool) -> None:
    """Tokens are their own positions, so every window shows where it was cut."""
    text = TokenText(np.arange(size, dtype=np.int32), "search", bos=1_000_000 if bos else None)
    body = length - bos
    if size < body:
        with pytest.raises(TextsError):
            text.windows(length, count)
        return
    windows = text.windows(length, count)
    assert windows.shape == (min(count, size // body), length)
    assert windows.dtype == np.int32
    if bos:
        assert (windows[:, 0] == 1_000_000).all()
    cut = windows[:, int(bos) :]
    assert (np.diff(cut, axis=1) == 1).all()
    starts = cut[:, 0].tolist()
    assert all(later - earlier >= body for earlier, later in pairwise(starts))
    assert starts[0] == 0
    if len(starts) > 1:
        assert cut[-1, -1] == size - 1


@settings(deadline=None)
@given(pieces=st.integers(1, 5), length=st.integers(2, 40), rows=st.integers(1, 4), extra=st.integers(0, 30))
def test_divided_windows_cover_the_same_tokens(pieces: int, length: int, rows: int, extra: int) -> None:
    extra %= length
    whole = pieces * length + extra
    text = TokenText(np.arange(rows * whole, dtype=np.int32), "measure")
    windows = text.windows(whole, rows)
    short = text.divided(windows, length)
    assert short.shape == (rows * pieces, length)
    assert short.ravel().tolist() == windows[:, : pieces * length].ravel().tolist()


@settings(deadline=None)
@given(pieces=st.integers(1, 5), length=st.integers(2, 40), rows=st.integers(1, 4))
def test_divided_windows_open_with_bos_and_cover_the_same_tokens(pieces: int, length: int, rows: int) -> None:
    whole = pieces * (length - 1) + 1
    text = TokenText(np.arange(rows * (whole - 1), dtype=np.int32), "measure", bos=1_000_000)
    windows = text.windows(whole, rows)
    short = text.divided(windows, length)
    assert short.shape == (rows * pieces, length)
    assert (short[:, 0] == 1_000_000).all()
    assert short[:, 1:].ravel().tolist() == windows[:, 1:].ravel().tolist()


def test_every_window_of_a_tokenizer_with_bos_opens_with_it(opening_tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path, 6)
    texts = load_texts([tmp_path], opening_tokenizer)
    bos = opening_tokenizer.convert_tokens_to_ids("<|begin|>")
    assert np.concatenate(parts_of(texts)).tolist() == encoded(opening_tokenizer, *contents)
    for part in (texts.search, texts.tune, texts.measure):
        windows = part.windows(32, 4)
        assert (windows[:, 0] == bos).all()
        assert bos not in windows[:, 1:]
        assert opening_tokenizer(opening_tokenizer.decode(windows[0, 1:]))["input_ids"][0] == bos


def test_too_short_texts_are_reported_with_their_numbers() -> None:
    text = TokenText(np.zeros(12_345, np.int32), "measure")
    with pytest.raises(TextsError) as caught:
        text.windows(65_536, 3)
    assert "measure text has 12,345 tokens" in caught.value.found
    assert "1 window of 65,536 tokens" in caught.value.needed
    with pytest.raises(TextsError) as caught:
        text.windows(5_000, 3, minimum=3)
    assert "3 windows of 5,000 tokens" in caught.value.needed


@pytest.mark.parametrize("bos", [None, 7])
def test_a_numbered_text_says_which_document_each_token_of_a_window_belongs_to(bos: int | None) -> None:
    """Every token is its own place in the text, so a window says where it was cut; documents are looked up by hand."""
    starts = [0, 5, 6, 90, 200]
    text = TokenText(np.arange(100, 400, dtype=np.int32), "measure", bos, np.array(starts))
    windows, numbers = text.windows(41, 6), text.numbered().windows(41, 6)
    for cut, numbered in ((windows, numbers), *[(text.divided(windows, 21), text.numbered().divided(numbers, 21))]):
        assert cut.shape == numbered.shape
        for window, row in zip(cut.tolist(), numbered.tolist(), strict=True):
            opened = int(bos is not None)
            assert row[opened:] == [sum(start <= token - 100 for start in starts) - 1 for token in window[opened:]]
            assert row[:opened] == [0] * opened
