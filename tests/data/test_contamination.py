"""Nobody measures on text that a search has seen; judged by sets of tuples, without a hash or a prefix sum."""

from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_documents import shingles, unique_text

from longrope.data import (
    check_unsearched,
    fingerprint,
    load_texts,
    sketch,
)
from longrope.errors import TextsError


def test_the_searched_text_itself_is_refused() -> None:
    windows = unique_text(8000).windows(1000, 6)
    with pytest.raises(TextsError, match="About 100%"):
        check_unsearched(windows, sketch(windows))


@pytest.mark.parametrize("offset", [1, 17, 499, 777])
def test_searched_text_is_refused_at_any_offset(offset: int) -> None:
    text = unique_text(20_000)
    searched = text.windows(4000, 5)
    shifted = text.tokens[offset : offset + 5000].reshape(5, 1000)
    with pytest.raises(TextsError, match="no search has seen"):
        check_unsearched(shifted, sketch(searched))


def test_a_small_share_of_searched_text_is_refused() -> None:
    """5 % of the searched text in a tenth of one measuring window."""
    searched = unique_text(20_000).windows(4000, 5)
    measured = unique_text(30_000, seed=1).windows(10_000, 3)
    measured[1, 3000:4000] = searched[2, 123:1123]
    with pytest.raises(TextsError, match="no search has seen"):
        check_unsearched(measured, sketch(searched))


def test_unrelated_text_passes() -> None:
    searched = unique_text(20_000).windows(4000, 5)
    check_unsearched(unique_text(20_000, seed=1).windows(4000, 5), sketch(searched))


def test_unrelated_prose_of_the_same_vocabulary_passes(tokenizer: Any, tmp_path: Path) -> None:
    searched, measured = pico.save_texts(tmp_path)
    texts = load_texts([searched], tokenizer, measure=[measured])
    check_unsearched(texts.measure.windows(256, 8), sketch(texts.search.windows(256, 8)))


def test_one_short_header_in_common_passes() -> None:
    searched, measured = unique_text(40_000).windows(8000, 5), unique_text(40_000, seed=1).windows(8000, 5)
    header = unique_text(60, seed=2).tokens
    searched[0, :60], measured[3, 100:160] = header, header
    assert shingles(*searched) & shingles(*measured)
    check_unsearched(measured, sketch(searched))


@pytest.mark.parametrize("copied", [300, 1000, 2400])
def test_the_share_that_is_reported_is_the_true_one(copied: int) -> None:
    """The share of the searched shingles that stand in the measured text, counted in sets, within sampling error."""
    searched, measured = unique_text(4000), unique_text(4000, seed=1)
    measured.tokens[500 : 500 + copied] = searched.tokens[901 : 901 + copied]
    known = shingles(searched.tokens)
    true_share = len(known & shingles(measured.tokens)) / len(known)
    with pytest.raises(TextsError) as caught:
        check_unsearched(measured.tokens.reshape(2, 2000), sketch(searched.tokens[None]))
    messages = float(caught.value.found.split("%")[0].removeprefix("About ")) / 100
    assert messages == pytest.approx(true_share, abs=4 * (true_share * (1 - true_share) / 256) ** 0.5 + 0.03)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 5))
def test_a_sketch_does_not_depend_on_the_order_or_repetition_of_windows(order: list[int], again: int) -> None:
    windows = unique_text(1200).windows(200, 6)
    assert sketch(windows[order]) == sketch(windows)
    assert sketch(windows[[*order, again]]) == sketch(windows)


def test_a_sketch_is_small_sorted_and_survives_json() -> None:
    hashes = sketch(unique_text(8000).windows(1000, 6))
    assert len(hashes) == 256
    assert list(hashes) == sorted(set(hashes))
    assert all(type(value) is int and 0 <= value < 2**64 for value in hashes)


def test_windows_too_short_for_a_shingle_are_let_through() -> None:
    """The known limit: below 48 tokens there is nothing to compare."""
    windows = unique_text(200).windows(40, 4)
    assert sketch(windows) == ()
    check_unsearched(windows, sketch(windows))


def test_a_fingerprint_names_the_content() -> None:
    windows = unique_text(1000).windows(100, 5)
    other = windows.copy()
    other[4, 99] += 1
    assert fingerprint(windows) == fingerprint(np.asfortranarray(windows.astype(np.int64)))
    assert len({fingerprint(windows), fingerprint(other), fingerprint(windows[::-1])}) == 3
    assert len(fingerprint(windows)) == 16
