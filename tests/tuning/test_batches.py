"""The windows of a training: every token is told apart, so what a window holds shows where it comes from."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.data import TokenText
from longrope.errors import TextsError
from longrope.tuning.batches import Batches

BOS = 1_000_000
SIZE = 10  # tokens of the text in a window


def make_text(lengths: list[int], *, bos: int | None = None) -> TokenText:
    """Documents of these lengths whose tokens count up."""
    starts = np.cumsum([0, *lengths[:-1]], dtype=np.int64)
    return TokenText(np.arange(sum(lengths), dtype=np.int32), "tune", bos, starts)


def make_batches(text: TokenText, *, prefer: bool = True, batch: int = 2, seed: int = 3) -> Batches:
    return Batches.cut(text, SIZE + (text.bos is not None), batch, seed, prefer_documents=prefer)


def body(text: TokenText, window: np.ndarray) -> list[int]:
    """The tokens of a window without the opening token, which must be there if the text has one."""
    assert text.bos is None or window[0] == text.bos
    return window[text.bos is not None :].tolist()  # type: ignore[no-any-return]


def lay_out(lengths: list[int]) -> tuple[list[list[int]], list[list[int]]]:
    """The windows within documents and those of the rest, by brute force."""
    tokens, within, rest = iter(range(sum(lengths))), [], list[int]()
    for length in lengths:
        document = [next(tokens) for _ in range(length)]
        while len(document) >= SIZE:
            within.append(document[:SIZE])
            document = document[SIZE:]
        rest += document
    return within, [rest[i : i + SIZE] for i in range(0, len(rest) - SIZE + 1, SIZE)]


def document_of(lengths: list[int], token: int) -> int:
    return next(i for i, end in enumerate(np.cumsum(lengths)) if token < end)


lengths_of_documents = st.lists(st.integers(1, 45), min_size=1, max_size=12).filter(lambda made: sum(made) >= SIZE)


@given(lengths=lengths_of_documents, bos=st.sampled_from([None, BOS]), seed=st.integers(0, 99))
def test_windows_within_documents_come_first_in_every_epoch(lengths: list[int], bos: int | None, seed: int) -> None:
    text = make_text(lengths, bos=bos)
    batches = make_batches(text, seed=seed)
    within, rest = lay_out(lengths)
    assert batches.epoch_windows == len(within) + len(rest) == sum(lengths) // SIZE
    for epoch in range(2):
        first = epoch * batches.epoch_windows
        windows = [body(text, batches.window(row)) for row in range(first, first + batches.epoch_windows)]
        assert sorted(windows[: len(within)]) == within
        assert sorted(windows[len(within) :]) == sorted(rest)


@given(lengths=lengths_of_documents, bos=st.sampled_from([None, BOS]), prefer=st.booleans())
def test_windows_tell_where_their_documents_begin(lengths: list[int], bos: int | None, prefer: bool) -> None:
    """A document begins wherever a token is of another one than the token before it."""
    text = make_text(lengths, bos=bos)
    batches = make_batches(text, prefer=prefer)
    for row in range(batches.epoch_windows):
        owners = [document_of(lengths, token) for token in body(text, batches.window(row))]
        changes = [i for i, (a, b) in enumerate(pairwise(owners), start=1) if a != b]
        assert batches.documents(row) == (0, *(i + (bos is not None) for i in changes))


def test_orders_are_random_and_of_seed_and_epoch_alone() -> None:
    text = make_text([200, *[9] * 12])
    batches, again, other = make_batches(text), make_batches(text), make_batches(text, seed=4)
    steps = range(3 * batches.epoch_windows // 2)
    given = {step: batches.at(step) for step in steps}
    for step in reversed(steps):
        np.testing.assert_array_equal(again.at(step), given[step])
    rows = np.concatenate(list(given.values()))[:, 0].reshape(3, batches.epoch_windows)
    assert all(tuple(a) != tuple(b) for a, b in pairwise(rows[:, :20]))
    assert all(tuple(a) != tuple(b) for a, b in pairwise(rows[:, 20:]))
    assert tuple(rows[0, :20]) != tuple(range(0, 200, 10))
    assert not np.array_equal(other.at(0), given[0])


@pytest.mark.parametrize("bos", [None, BOS])
def test_unless_asked_windows_are_those_of_the_stream(bos: int | None) -> None:
    """Documents change nothing there, and a text of one document has the same windows either way."""
    text = make_text([33, 7, 60, 3], bos=bos)
    unknown = replace(text, documents=np.zeros(1, np.int64))
    made = [make_batches(text, prefer=False), make_batches(unknown, prefer=False), make_batches(unknown, prefer=True)]
    order = np.random.default_rng([3, 0]).permutation(10)
    for batches in made:
        starts = [body(text, window)[0] for step in range(5) for window in batches.at(step)]
        assert starts == (SIZE * order).tolist()


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(TextsError, match="has 9 tokens"):
        make_batches(make_text([4, 5]))
