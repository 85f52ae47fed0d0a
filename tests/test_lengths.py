"""Numbers of tokens as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.errors import RecipeError
from longrope.lengths import counted, format_tokens, parse_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("65536", 65536),
        ("65_536", 65536),
        ("64k", 65536),
        (" 64K ", 65536),
        ("2m", 2097152),
        ("2048k", 2097152),
        ("1", 1),
    ],
)
def test_tokens_are_read(text: str, tokens: int) -> None:
    assert parse_tokens(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "0", "0k", "-1", "1.5k", "64 k", "64kb", "64g", "1e3", "_1", "1__0", "64_k"])
def test_what_is_no_number_of_tokens_is_refused(text: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_tokens(text)
    assert repr(text) in caught.value.found


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(1, "1"), (1000, "1000"), (1024, "1k"), (1025, "1025"), (1536, "1536"), (65536, "64k"), (2097152, "2048k")],
)
def test_tokens_are_written_short(tokens: int, text: str) -> None:
    assert format_tokens(tokens) == text


@given(st.one_of(st.integers(1, 2**40), st.integers(1, 2**20).map(lambda n: 1024 * n)))
def test_written_tokens_are_read_back(tokens: int) -> None:
    assert parse_tokens(format_tokens(tokens)) == tokens


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 sources"), (1, "1 source"), (2, "2 sources"), (2048, "2,048 sources")]
)
def test_one_thing_is_no_plural(count: int, text: str) -> None:
    assert counted(count, "source") == text
