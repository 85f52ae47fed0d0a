"""Relative positions of DCA, Self-Extend and Jet-Long: worked examples, and every pair by the methods' own rules."""

import math

import near_oracle
import pytest

from longrope.errors import FactorsError
from longrope.rope.near_exact import Parts, dca_parts, jet_long_parts, self_extend_parts


def relative_positions(parts: Parts | None, begin: int, end: int) -> dict[tuple[int, int], int]:
    """By (query, key) of all pairs that meet; a pair that meets twice is refused."""
    assert parts is not None
    found: dict[tuple[int, int], int] = {}
    for span in parts.spans(begin, end):
        for part, (first, last), causal, window in span.met:
            for query in range(*span.queries):
                seen = last - (span.queries[1] - 1 - query) if causal else last
                for key in range(max(first, seen - (window or last)), seen):
                    assert (query, key) not in found
                    places = (place(at) if place else at for place, at in ((part.query, query), (part.key, key)))
                    found[query, key] = next(places) - next(places)
    return found


def row(parts: Parts | None, query: int) -> list[int]:
    found = relative_positions(parts, query, query + 1)
    return [found[query, key] for key in range(query + 1)]


def test_dual_chunk_attention_as_its_authors_code_has_it() -> None:
    parts = dca_parts(8, 12, chunk=6, local=2)
    assert row(parts, 9) == [6, 5, 4, 3, 5, 4, 3, 2, 1, 0]
    assert row(parts, 11) == [6, 5, 4, 3, 6, 5, 4, 3, 3, 2, 1, 0]


def test_self_extend_as_its_authors_code_has_it() -> None:
    assert row(self_extend_parts(8, 20, window=4, group=2), 9) == [6, 6, 5, 5, 4, 4, 3, 2, 1, 0]


def test_jet_long_as_its_authors_code_has_it() -> None:
    """Twenty tokens of windows of eight are groups of three."""
    expected = [6, 6, 6, 5, 5, 5, 4, 4, 4, 3, 3, 3, 2, 2, 2, 1, 1, 2, 1, 0]
    assert row(jet_long_parts(8, 20, near=2), 19) == expected


CASES = {
    "dca": (dca_parts(16, 70), near_oracle.dca(12, 2)),
    "dca without a local window": (dca_parts(16, 70, chunk=7, local=0), near_oracle.dca(7, 0)),
    "self-extend": (self_extend_parts(16, 70, window=12, group=4), near_oracle.self_extend(12, 4)),
    "self-extend, a window of one": (self_extend_parts(16, 70, window=2, group=2), near_oracle.self_extend(2, 2)),
    "jet-long": (jet_long_parts(16, 70), near_oracle.jet_long(1, 5)),
    "jet-long, nothing near": (jet_long_parts(16, 70, near=0), near_oracle.jet_long(0, 5)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("queries", [(0, 70), (0, 1), (3, 4), (11, 70), (9, 31), (40, 41)])
def test_every_pair_meets_once_at_its_relative_position(case: str, queries: tuple[int, int]) -> None:
    """In a whole window, in tiles and for single queries."""
    parts, relative = CASES[case]
    expected = {(q, k): relative(q, k) for q in range(*queries) for k in range(q + 1)}
    assert relative_positions(parts, *queries) == expected


@pytest.mark.parametrize("window", [256, 4096, 8192, 32768])
@pytest.mark.parametrize("ratio", [2, 8, 16])
def test_defaults_keep_positions_within_the_trained_window(window: int, ratio: int) -> None:
    """No pair of the last queries has a relative position that training has not seen; dual chunks by construction."""
    length = ratio * window
    for parts in (dca_parts(window, length), self_extend_parts(window, length), jet_long_parts(window, length)):
        assert parts is not None
        span = list(parts.spans(length - 1, length))[-1]
        for part, (first, last), *_ in span.met:
            query, key = (part.query or int)(length - 1), part.key or int
            assert 0 <= query - key(last - 1) <= query - key(first) <= window


def test_defaults_are_those_of_the_authors() -> None:
    """Of Llama-2 with 4,096 tokens, and Jet-Long's own 32,768."""
    dca = dca_parts(4096, 32768)
    assert dca.stride == 3072 - 512
    assert dca.far.query is not None
    assert dca.far.query(20000) == 3072
    assert dca.own.temperature == pytest.approx((1 + 0.05 * math.log(8)) ** 2)
    assert dca_parts(4096, 4096).own.temperature == 1
    far = self_extend_parts(4096, 16384), jet_long_parts(32768, 32769)
    assert [parts.window for parts in far if parts] == [1024, 2049]


def test_nothing_changes_within_the_trained_window() -> None:
    assert self_extend_parts(64, 64) is None
    assert jet_long_parts(64, 64) is None


def test_settings_that_no_positions_have_are_refused() -> None:
    with pytest.raises(FactorsError, match="The group must divide the window"):
        self_extend_parts(64, 256, window=10, group=4)
    with pytest.raises(FactorsError, match="smaller than a chunk"):
        dca_parts(64, 256, chunk=8, local=8)
    with pytest.raises(FactorsError, match="at most the trained window"):
        dca_parts(64, 256, chunk=65)
