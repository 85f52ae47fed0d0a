"""Splits: the documents of some texts as three parts that share no content, to search, to tune and to measure on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from longrope.data.documents import Preprocess, Reading, Source, check_sources, opening_token, tokenized_documents
from longrope.data.sources import check_encoding
from longrope.data.streams import TokenStream
from longrope.data.texts_report import TextsReport
from longrope.data.windows import Starts, Tokens, TokenText
from longrope.errors import TextsError
from longrope.lengths import counted

SHARES = {"search": 0.4, "tune": 0.4, "measure": 0.2}
Part = tuple[Tokens, Starts, list[str]]  # tokens, where documents begin in them, and their names


@dataclass(frozen=True)
class Texts:
    """Three parts of some texts that share no content: to search factors on, to tune on, and to measure on.

    ``report`` says what was read and what was skipped.
    """

    search: TokenText
    tune: TokenText
    measure: TokenText
    report: TextsReport = field(default_factory=TextsReport)

    def lines(self, length: int) -> list[str]:
        """The lines of the report, the first with how many windows of ``length`` tokens fit into each part."""
        first, *others = self.report.lines()
        parts = (f"{part.name} {part.fitting(length):,}" for part in (self.search, self.tune, self.measure))
        return [f"{first}; windows of {length:,} tokens that fit: {', '.join(parts)}", *others]


def check_part(text: object, name: str) -> None:
    """Refuse what is no part of some texts; the one of this name is needed (raises TextsError)."""
    if not isinstance(text, TokenText):
        found = "All parts of some texts are" if isinstance(text, Texts) else f"A {type(text).__name__} is"
        raise TextsError(
            f"{found} given.",
            "One part of what load_texts returns is needed: what is measured on may not be searched or tuned on.",
            f"Give texts.{name}.",
        )


def load_texts(
    sources: Sequence[Source] | str | Path,
    tokenizer: Any,
    *,
    measure: Sequence[Source] | str | Path = (),
    weights: Sequence[float] = (),
    text_field: str = "text",
    encoding: str = "",
    preprocess: Preprocess | None = None,
    on_read: Callable[[int], None] = lambda _: None,
) -> Texts:
    """Read texts and split them by content.

    Documents that occur twice are read once. The rest is taken in the order of the sources and paths, so neighbours
    stay neighbours, and cut into 40 % search, 40 % tune and 20 % measure, at document borders where there are enough.
    With ``measure`` sources the others are cut into two halves for search and tune, and documents that also occur in
    the measuring ones are left out of them.

    Args:
        sources: one or several, of any of these kinds. Text files (``.gz`` too), each one document: UTF-8, or UTF-16
            or UTF-32 with a byte order mark. Files of records, one document a row: ``.jsonl``, ``.json``,
            ``.csv``, ``.tsv`` (all with ``.gz`` or ``.zst``, too) and ``.parquet``. Folders of all these; files inside
            that are no text are skipped and stand in the report. ``hf:NAME[:CONFIG]:SPLIT``: a data set of the Hugging
            Face hub, or of a folder NAME, of which ``SPLIT[:100]`` takes the first 100 rows. ``.npy`` files of token
            ids made with this tokenizer. The word ``stdlib``: the modules of the running Python's standard library (a
            file or folder of that name is ``./stdlib``). And iterables of documents: strings, or rows as mappings.
        tokenizer: the model's.
        measure: further sources, of another kind, to measure on.
        weights: of each source, its share of the tokens. As many are taken as the scarcest source allows, from the
            beginning of each, and each source is split by itself, so that all parts have these shares. Without weights
            everything is taken.
        text_field: of rows, the field that is the document.
        encoding: of text files that are not UTF-8, such as latin-1; without it they are skipped.
        preprocess: takes a row (of a text file: ``{"text": ..., "path": ...}``) and gives its document, or None to
            leave it out.
        on_read: is called as reading proceeds with the bytes of text read so far.

    Raises:
        TextsError: a path or a data set is missing, or nothing readable is there; a file that is given is no text; a
            file of records is damaged, or none of its rows has the field; this Python has no sources; weights are not
            one positive number a source.
    """
    sources, measure = ([given] if isinstance(given, str | Path) else [*given] for given in (sources, measure))
    check_encoding(encoding)
    check_sources((*sources, *measure))
    shares = _checked_weights(weights, sources)
    reading, report, seen = Reading(text_field, encoding, preprocess, on_read), TextsReport(), set[bytes]()

    def read(given: Sequence[Source]) -> TokenStream:
        stream = TokenStream()
        for name, parts in tokenized_documents(given, tokenizer, seen, report, reading):
            stream.extend(name, parts)
        return stream

    held_out = read(measure)
    streams = [read([source]) for source in sources] if weights else [read(sources)]
    _check_found(sources, streams, measure, held_out, report)
    parts = _split_mix(streams, shares, {"search": 0.5, "tune": 0.5} if measure else SHARES)
    if weights:
        report.left_over = {
            _name(source, number): len(stream) - taken
            for number, (source, stream, taken) in enumerate(
                zip(sources, streams, _taken(streams, shares), strict=True), 1
            )
        }
    if measure:
        parts["measure"] = (held_out.tokens(), held_out.borders()[:-1], held_out.names)
    bos = opening_token(tokenizer)
    texts = {
        name: TokenText(tokens, name, bos, starts if len(starts) else np.zeros(1, np.int64), tuple(names))
        for name, (tokens, starts, names) in parts.items()
    }
    report.documents = {name: len(part.documents) if len(part.tokens) else 0 for name, part in texts.items()}
    report.tokens = {name: len(part.tokens) for name, part in texts.items()}
    return Texts(**texts, report=report)


def _checked_weights(weights: Sequence[float], sources: Sequence[Source]) -> list[float]:
    """The share of each source; one for all of them without weights (raises TextsError)."""
    weights = [float(weight) for weight in weights]
    if weights and (len(weights) != len(sources) or not all(0 < weight < math.inf for weight in weights)):
        raise TextsError(
            f"{counted(len(weights), 'weight')} ({', '.join(f'{w:g}' for w in weights)}) came with "
            f"{counted(len(sources), 'source')}.",
            "A number above 0 is needed for each source.",
            "Give as many weights as there are sources to search and tune on.",
        )
    return [weight / sum(weights) for weight in weights] or [1.0]


def _check_found(
    sources: Sequence[Source],
    streams: Sequence[TokenStream],
    measure: Sequence[Source],
    held_out: TokenStream,
    report: TextsReport,
) -> None:
    """Refuse sources without any text (raises TextsError, which names what was skipped)."""
    names, measured = ([_name(source, i) for i, source in enumerate(some, 1)] for some in (sources, measure))
    empty = [[name] for name, stream in zip(names, streams, strict=False) if not len(stream)]
    if len(streams) == 1 and sources:
        empty = [] if len(streams[0]) else [names]
    empty += [measured] if measure and not len(held_out) else []
    if empty or not (sources or measure):
        raise TextsError(
            f"No text was found in {', '.join(empty[0]) if empty else '(no path given)'}"
            f"{''.join(f'; {line}' for line in report.lines()[1:])}.",
            "At least one text file that is not empty is needed.",
            "Give files or folders with --data (and --measure-data).",
        )


def _name(source: Source, number: int) -> str:
    """What a message calls a source: its path or name; documents that were given have only their place."""
    return f"{source}" if isinstance(source, str | Path) else f"the given texts ({number})"


def _taken(streams: Sequence[TokenStream], shares: Sequence[float]) -> list[int]:
    """How many tokens of each stream are taken, so that they have these shares; all of a single one."""
    if len(streams) == 1:
        return [len(streams[0])]
    whole = min(len(stream) / share for stream, share in zip(streams, shares, strict=True))
    return [min(len(stream), round(whole * share)) for stream, share in zip(streams, shares, strict=True)]


def _split_mix(streams: Sequence[TokenStream], weights: Sequence[float], shares: dict[str, float]) -> dict[str, Part]:
    """The parts of each stream, those of one name joined."""
    split = []
    for stream, taken in zip(streams, _taken(streams, weights), strict=True):
        borders = stream.borders()
        borders = np.append(borders[borders < taken], taken) if taken else borders[:1]
        split.append(_split(stream.tokens()[:taken], borders, stream.names, shares))
    return {name: _join([parts[name] for parts in split]) for name in shares}


def _join(parts: Sequence[Part]) -> Part:
    parts = [part for part in parts if len(part[0])] or [*parts[:1]]
    if len(parts) == 1:
        return parts[0]
    joined, starts, names = TokenStream(), list[Starts](), list[str]()
    for tokens, inside, named in parts:
        starts.append(inside + len(joined))
        names += named
        joined.extend("", [tokens])
    return joined.tokens(), np.concatenate(starts), names


def _split(stream: Tokens, borders: Starts, names: Sequence[str], shares: dict[str, float]) -> dict[str, Part]:
    """Cut the stream of documents at the given shares, moved to the nearest document border if that is near enough.

    Args:
        stream: all tokens.
        borders: where each document begins, and the end of the last one.
        names: of the documents.
        shares: of each part, by its name.
    """
    parts, first = dict[str, Part](), 0
    for name, share in zip(shares, np.cumsum(list(shares.values())), strict=True):
        ideal = round(share * len(stream))
        border = int(borders[np.argmin(np.abs(borders - ideal))])
        near = abs(border - ideal) <= 0.1 * shares[name] * len(stream)
        last = border if near and border > first else ideal
        inside = borders[(borders > first) & (borders < last)]
        starts = np.concatenate([np.full(1, first, np.int64), inside])
        numbers = np.searchsorted(borders[1:-1], starts, side="right").tolist()
        parts[name], first = (stream[first:last], starts - first, [names[n] for n in numbers if names]), last
    return parts
