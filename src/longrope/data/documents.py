"""Documents: the tokens of each file, every content once, and what a tokenizer adds to a text."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from longrope.data.sources import (
    STDLIB,
    NoTextError,
    TextsReport,
    decode,
    list_files,
    no_text_error,
    read_content,
    read_tokens,
    stdlib_modules,
)
from longrope.data.windows import Tokens


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a piece of text, with nothing added."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def opening_token(tokenizer: Any) -> int | None:
    """The token that the tokenizer puts before every text by itself."""
    ids = tokenizer("a")["input_ids"]
    return ids[0] if tokenizer.bos_token_id is not None and ids and ids[0] == tokenizer.bos_token_id else None


def opening_tokens(tokenizer: Any) -> list[int]:
    """The same as a list, which is empty where there is none."""
    token = opening_token(tokenizer)
    return [] if token is None else [token]


def unique_documents(
    sources: Sequence[str | Path], tokenizer: Any, seen: set[str], report: TextsReport
) -> Iterator[tuple[str, Tokens]]:
    """The digest and tokens of each document that is not in ``seen``; the report is filled, and ``seen``, too."""
    for source in sources:
        for path in stdlib_modules() if source == STDLIB else list_files(Path(source), report):
            try:
                content = read_content(path)
                digest = hashlib.sha256(content).hexdigest()
                if digest in seen:
                    report.skipped.append((path, "the same content as another file"))
                    continue
                tokens = read_tokens(path, len(tokenizer)) if path.suffix == ".npy" else tokenize(content, tokenizer)
            except NoTextError as error:
                if path == Path(source):
                    raise no_text_error(path, error) from None
                report.skipped.append((path, str(error)))
                continue
            seen.add(digest)
            report.files.append(path)
            yield digest, tokens


def tokenize(content: bytes, tokenizer: Any) -> Tokens:
    """Token ids of one document with the tokenizer's end-of-text token after it (raises NoTextError)."""
    ids = encode(tokenizer, decode(content))
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not (ids or end):
        raise NoTextError("without any token")
    return np.asarray([*ids, *end], dtype=np.int32)
