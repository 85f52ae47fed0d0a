"""Splits: the documents of some texts as three parts that share no content, to search, to tune and to measure on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from longrope.data.documents import opening_token, unique_documents
from longrope.data.sources import TextsReport
from longrope.data.windows import Starts, Tokens, TokenText
from longrope.errors import TextsError

SHARES = {"search": 0.4, "tune": 0.4, "measure": 0.2}


@dataclass(frozen=True)
class Texts:
    """Three parts of some texts that share no content: to search factors on, to tune on, and to measure on.

    ``report`` says what was read and what was skipped.
    """

    search: TokenText
    tune: TokenText
    measure: TokenText
    report: TextsReport = field(default_factory=TextsReport)


def load_texts(sources: Sequence[str | Path], tokenizer: Any, *, measure: Sequence[str | Path] = ()) -> Texts:
    """Read files and folders as UTF-8 text and split them by content.

    Documents that occur twice are read once. The rest is taken in the order of the paths, so neighbours stay
    neighbours, and cut into 40 % search, 40 % tune and 20 % measure, at document borders where there are enough. With
    ``measure`` sources the others are cut into two halves for search and tune, and documents that also occur in the
    measuring ones are left out of them.

    Args:
        sources: text files (``.gz`` too), folders of them (files inside that are not UTF-8 text are skipped and stand
            in the report), or ``.npy`` files of token ids made with this tokenizer. The word ``stdlib`` stands for the
            modules of the running Python's standard library; a file or folder of that name is ``./stdlib``.
        tokenizer: the model's.
        measure: further sources, of another kind, to measure on.

    Raises:
        TextsError: a path is missing, or nothing readable is there; a file that is given is no text, or one of records
            (``.jsonl``, ``.parquet``), which is refused inside of a folder, too; this Python has no sources.
    """
    if not all(str(source).strip() for source in (*sources, *measure)):
        raise TextsError("A path of a text is empty.", "It would mean the current folder.", "Give the folder itself.")
    report = TextsReport()
    held_out = list(unique_documents(measure, tokenizer, set(), report)) if measure else []
    held_out_files = tuple(map(str, report.files))
    seen = {digest for digest, _ in held_out}
    documents = [tokens for _, tokens in unique_documents(sources, tokenizer, seen, report)]
    bos = opening_token(tokenizer)
    empty = [given for given, found in ((sources, documents), (measure, held_out)) if given and not found]
    if empty or not (sources or measure):
        raise TextsError(
            f"No text was found in {', '.join(map(str, empty[0])) if empty else '(no path given)'}"
            f"{''.join(f'; {line}' for line in report.lines()[1:])}.",
            "At least one UTF-8 text file that is not empty is needed.",
            "Give files or folders with --data (and --measure-data).",
        )
    shares = {"search": 0.5, "tune": 0.5} if measure else SHARES
    files = [str(path) for path in report.files[len(held_out) :]]
    parts = {
        name: TokenText(tokens, name, bos, starts, tuple(files[number] for number in numbers if files))
        for name, (tokens, starts, numbers) in _split(documents, shares).items()
    }
    if measure:
        tokens, borders = _join([tokens for _, tokens in held_out])
        parts["measure"] = TokenText(tokens, "measure", bos, borders[:-1], held_out_files)
    report.documents = {name: len(part.documents) if len(part.tokens) else 0 for name, part in parts.items()}
    report.tokens = {name: len(part.tokens) for name, part in parts.items()}
    return Texts(**parts, report=report)


def _join(documents: list[Tokens]) -> tuple[Tokens, Starts]:
    """The stream of documents, and where each begins in it; the end of the last one closes the list."""
    borders = np.cumsum([0, *(len(document) for document in documents)], dtype=np.int64)
    return np.concatenate([np.zeros(0, np.int32), *documents]), borders


def _split(documents: list[Tokens], shares: dict[str, float]) -> dict[str, tuple[Tokens, Starts, list[int]]]:
    """Cut the stream of documents at the given shares, moved to the nearest document border if that is near enough.

    Returns:
        The tokens of each part, where documents begin in them, and which ones these are.
    """
    stream, borders = _join(documents)
    parts, first = {}, 0
    for name, share in zip(shares, np.cumsum(list(shares.values())), strict=True):
        ideal = round(share * len(stream))
        border = int(borders[np.argmin(np.abs(borders - ideal))])
        near = abs(border - ideal) <= 0.1 * shares[name] * len(stream)
        last = border if near and border > first else ideal
        inside = borders[(borders > first) & (borders < last)]
        starts = np.concatenate([np.full(1, first, np.int64), inside])
        numbers = np.searchsorted(borders[1:-1], starts, side="right").tolist()
        parts[name], first = (stream[first:last], starts - first, numbers), last
    return parts
