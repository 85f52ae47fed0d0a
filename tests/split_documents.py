"""Documents, splits and windows for tests, counted by sets of tuples and lists, never by the package itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pico

from longrope.data import Texts, TokenText

SHINGLE = 48


def shingles(*streams: np.ndarray) -> set[tuple[int, ...]]:
    """Every run of 48 tokens, as it is."""
    return {tuple(s[i : i + SHINGLE].tolist()) for s in streams for i in range(len(s) - SHINGLE + 1)}


def parts_of(texts: Texts) -> list[np.ndarray]:
    """The token streams of the three splits, in the order of the text."""
    return [texts.search.tokens, texts.tune.tokens, texts.measure.tokens]


def encoded(tokenizer: Any, *contents: str) -> list[int]:
    """The tokens of documents one after the other, each closed by the end-of-text token."""
    rows = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for text in contents]
    return [token for row in rows for token in row]


def write_documents(folder: Path, count: int, words: int = 240) -> list[str]:
    """Files ``00.txt`` … of different content; returns their contents in order."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [pico.make_text(words, seed=100 + i) for i in range(count)]
    for i, content in enumerate(contents):
        (folder / f"{i:02}.txt").write_text(content)
    return contents


def documents_of(text: TokenText) -> list[list[int]]:
    """The tokens of each document of a text."""
    ends = [*text.documents[1:].tolist(), len(text.tokens)]
    return [text.tokens[a:b].tolist() for a, b in zip(text.documents.tolist(), ends, strict=True)]


def unique_text(tokens: int, seed: int = 0) -> TokenText:
    """Random tokens of a large vocabulary: every stretch of it is unlike every other."""
    drawn = np.random.default_rng(seed).integers(0, 30_000, tokens)
    return TokenText(drawn.astype(np.int32), "search")
