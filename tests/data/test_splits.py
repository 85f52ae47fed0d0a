"""Splits share no content, hold every token once and know where their documents begin."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from split_documents import documents_of, encoded, parts_of, shingles, write_documents

from longrope.data import (
    load_texts,
    opening_token,
)


def test_splits_share_no_content_and_hold_every_token_once(tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path, 12)
    parts = parts_of(load_texts([tmp_path], tokenizer))
    assert np.concatenate(parts).tolist() == encoded(tokenizer, *contents)
    whole = shingles(*parts)
    assert len(whole) > 2000
    assert sum(len(shingles(part)) for part in parts) == len(whole)


def test_splits_have_their_shares_and_end_at_document_borders(tokenizer: Any, tmp_path: Path) -> None:
    write_documents(tmp_path, 20)
    parts = parts_of(load_texts([tmp_path], tokenizer))
    total = sum(map(len, parts))
    assert [round(len(part) / total, 1) for part in parts] == [0.4, 0.4, 0.2]
    assert [int(part[-1]) for part in parts] == [tokenizer.eos_token_id] * 3


def test_one_long_file_is_cut_at_the_shares_themselves(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(pico.make_text(3000))
    texts = load_texts([tmp_path / "one.txt"], tokenizer)
    total = sum(map(len, parts_of(texts)))
    assert [len(part) for part in parts_of(texts)] == pytest.approx([0.4 * total, 0.4 * total, 0.2 * total], abs=1)
    assert np.concatenate(parts_of(texts)).tolist() == encoded(tokenizer, pico.make_text(3000))


def test_splits_know_where_their_documents_begin(tokenizer: Any, tmp_path: Path) -> None:
    """Each file is a document; one that a split cuts is a document in both of its parts."""
    sizes = (240, 2000, 300, 600, 90, 1500)
    contents = [pico.make_text(words, seed=i) for i, words in enumerate(sizes)]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.txt").write_text(content)
    texts = load_texts([tmp_path], tokenizer)
    given = [document for text in (texts.search, texts.tune, texts.measure) for document in documents_of(text)]
    files = [encoded(tokenizer, content) for content in contents]
    assert len(given) > len(files), "no document was cut"
    for file in files:
        pieces: list[int] = []
        while len(pieces) < len(file):
            pieces += given.pop(0)
        assert pieces == file
    assert not given


def test_documents_to_measure_on_are_known(tokenizer: Any, tmp_path: Path) -> None:
    write_documents(tmp_path / "books", 3)
    (tmp_path / "other").mkdir()
    contents = [pico.make_text(90 + 60 * i, seed=i) for i in range(4)]
    for i, content in enumerate(contents):
        (tmp_path / "other" / f"{i}.txt").write_text(content)
    texts = load_texts([tmp_path / "books"], tokenizer, measure=[tmp_path / "other"])
    assert documents_of(texts.measure) == [encoded(tokenizer, content) for content in contents]


def test_a_far_border_does_not_empty_a_split(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(pico.make_text(60, seed=1))
    (tmp_path / "b.txt").write_text(pico.make_text(3000, seed=2))
    total = len(encoded(tokenizer, pico.make_text(60, seed=1), pico.make_text(3000, seed=2)))
    lengths = [len(part) for part in parts_of(load_texts([tmp_path], tokenizer))]
    assert lengths == pytest.approx([0.4 * total, 0.4 * total, 0.2 * total], abs=0.05 * total)


def test_reading_is_deterministic(tokenizer: Any, tmp_path: Path) -> None:
    write_documents(tmp_path / "books", 6)
    first, second = load_texts([tmp_path / "books"], tokenizer), load_texts([str(tmp_path / "books")], tokenizer)
    for a, b in zip(parts_of(first), parts_of(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_documents_that_occur_twice_are_read_once(tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path / "books", 5)
    (tmp_path / "books" / "99-copy.txt").write_text(contents[0])
    parts = parts_of(load_texts([tmp_path / "books", tmp_path / "books" / "03.txt", tmp_path / "books"], tokenizer))
    assert np.concatenate(parts).tolist() == encoded(tokenizer, *contents)


def test_a_compressed_copy_is_the_same_document(tokenizer: Any, tmp_path: Path) -> None:
    contents = write_documents(tmp_path, 5)
    (tmp_path / "99.txt.gz").write_bytes(gzip.compress(contents[0].encode()))
    parts = parts_of(load_texts([tmp_path], tokenizer))
    assert not shingles(parts[0]) & shingles(parts[2])
    assert np.concatenate(parts).tolist() == encoded(tokenizer, *contents)


def test_measure_sources_stay_apart(tokenizer: Any, tmp_path: Path) -> None:
    searched = write_documents(tmp_path / "search", 6)
    held_out = [pico.make_text(240, seed=900 + i) for i in range(2)]
    (tmp_path / "measure").mkdir()
    for i, content in enumerate([*held_out, searched[2]]):
        (tmp_path / "measure" / f"{i}.txt").write_text(content)
    texts = load_texts([tmp_path / "search"], tokenizer, measure=[tmp_path / "measure"])
    assert texts.measure.tokens.tolist() == encoded(tokenizer, *held_out, searched[2])
    rest = [content for content in searched if content != searched[2]]
    assert [*texts.search.tokens.tolist(), *texts.tune.tokens.tolist()] == encoded(tokenizer, *rest)
    assert not shingles(texts.search.tokens, texts.tune.tokens) & shingles(texts.measure.tokens)
    assert len(texts.search.tokens) == pytest.approx(len(texts.tune.tokens), rel=0.3)


def test_opening_token_is_the_one_that_is_really_put_there(tokenizer: Any, opening_tokenizer: Any) -> None:
    declared = pico.make_tokenizer()
    declared.add_special_tokens({"bos_token": "<|begin|>"})
    assert opening_token(tokenizer) is None
    assert opening_token(declared) is None
    assert opening_token(opening_tokenizer) == opening_tokenizer.bos_token_id
