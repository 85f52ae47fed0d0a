"""Documents: the tokens of each file or row, every content once, and what a tokenizer adds to a text."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from longrope.data.pieces import TextFile, at_once, is_long, look_through, pieces_of
from longrope.data.records import HUB, HubName, Row, check_library, has_records, may_be_settings, read_hub, read_records
from longrope.data.sources import (
    STDLIB,
    NoTextError,
    check_path,
    check_text,
    decode,
    list_files,
    no_source_error,
    no_text_error,
    read_content,
    read_tokens,
    stdlib_modules,
)
from longrope.data.texts_report import TextsReport
from longrope.data.windows import Tokens
from longrope.errors import TextsError, converting_errors

Source = str | Path | Iterable[str | Row]
Preprocess = Callable[[Row], str | None]
BATCH_CHARACTERS = 2**22  # of documents that are tokenized together, on all cores
HALVES = re.compile("[\ud800-\udfff]")
COPY = "the same content as another"


@dataclass(frozen=True)
class Reading:
    """How documents are read.

    Attributes:
        text_field: of a row, the field that is its document.
        encoding: of files that are not UTF-8.
        preprocess: takes a row, which a file is, too (``{"text": ..., "path": ...}``), and gives the document, or None
            to leave it out.
        on_read: is called with the bytes of text that have been read so far.
    """

    text_field: str = "text"
    encoding: str = ""
    preprocess: Preprocess | None = None
    on_read: Callable[[int], None] = lambda _: None


class Document(NamedTuple):
    """One document before it is tokenized: what it is called, and its text, a long file of it, or tokens."""

    name: str
    content: str | TextFile | Tokens


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


def check_sources(sources: Iterable[Source]) -> None:
    """Refuse paths where nothing is, names of data sets that are none, and files whose library is missing.

    Before anything is read.

    Raises:
        TextsError: naming the first of them.
    """
    for source in sources:
        if isinstance(source, str | Path) and not str(source).strip():
            raise TextsError(
                "A path of a text is empty.", "It would mean the current folder.", "Give the folder itself."
            )
        if isinstance(source, str) and source.startswith(HUB):
            HubName.parse(source)
            check_library(source)
        elif isinstance(source, str | Path) and source != STDLIB:
            check_path(Path(source))
            for path in list_files(Path(source), TextsReport()):
                check_library(path)
        elif isinstance(source, Mapping) or not hasattr(source, "__iter__"):
            raise no_source_error(f"{source!r}")


def tokenized_documents(
    sources: Sequence[Source], tokenizer: Any, seen: set[bytes], report: TextsReport, reading: Reading
) -> Iterator[tuple[str, Iterable[Tokens]]]:
    """The name and the tokens of each document whose content is not in ``seen``; that and the report are filled.

    The tokens come in parts, the tokenizer's end-of-text token as the last of them. Many short documents are tokenized
    at once, which a fast tokenizer does on all cores; one of more than 8 million characters in pieces, cut at the end
    of a paragraph, a few at once. The parts of a long file are read and tokenized as they are asked for.
    """
    waiting, number, begun = list[Document](), 0, report.bytes_read
    for document in _documents(sources, tokenizer, seen, report, reading):
        if isinstance(document.content, TextFile):
            yield from _tokenized(waiting, tokenizer, report, reading, begun)
            yield document.name, _streamed(document.content, tokenizer, reading, report.bytes_read)
            report.bytes_read += document.content.size
            waiting, number, begun = [], 0, report.bytes_read
            continue
        waiting.append(document)
        number += len(document.content)
        if number >= BATCH_CHARACTERS:
            yield from _tokenized(waiting, tokenizer, report, reading, begun)
            waiting, number, begun = [], 0, report.bytes_read
    yield from _tokenized(waiting, tokenizer, report, reading, begun)
    reading.on_read(report.bytes_read)


def _documents(
    sources: Sequence[Source], tokenizer: Any, seen: set[bytes], report: TextsReport, reading: Reading
) -> Iterator[Document]:
    for source in sources:
        if not isinstance(source, str | Path):
            yield from _from_rows("the given texts", _as_rows(source, reading), seen, report, reading)
        elif isinstance(source, str) and source.startswith(HUB):
            field = None if reading.preprocess else reading.text_field
            yield from _from_rows(source, read_hub(source, field), seen, report, reading)
        else:
            for path in stdlib_modules() if source == STDLIB else list_files(Path(source), report):
                yield from _from_file(path, tokenizer, seen, report, reading, given=path == Path(source))


def _as_rows(texts: Iterable[Any], reading: Reading) -> Iterator[Row | None]:
    for text in texts:
        row = {reading.text_field: text} if isinstance(text, str) else text
        yield row if isinstance(row, Mapping) else None


def _from_file(
    path: Path, tokenizer: Any, seen: set[bytes], report: TextsReport, reading: Reading, *, given: bool
) -> Iterator[Document]:
    """The documents of a file; one that is no text is skipped, or refused if it was given by name."""
    if has_records(path):
        rows: Iterator[Any] = read_records(path, None if reading.preprocess else reading.text_field, reading.encoding)
        if not given and may_be_settings(path):
            rows, reason = _looked_into(rows, reading)
            if reason:
                report.skipped.append((path, reason))
                return
        report.files.append(path)
        yield from _from_rows(str(path), _as_rows(rows, reading), seen, report, reading)
        return
    try:
        if path.suffix.lower() != ".npy" and not reading.preprocess and is_long(path):
            long = look_through(path, reading.encoding)
            yield from _once(Document(str(path), long), long.digest, 0, seen, report)
            return
        content = read_content(path)
        if path.suffix.lower() == ".npy":
            made: str | Tokens = read_tokens(path, len(tokenizer))
            digest = hashlib.sha256(content).digest()
        else:
            made = _prepared({"text": decode(content, reading.encoding), "path": str(path)}, "text", reading)
            digest = _digest(made)
    except NoTextError as error:
        if given:
            raise no_text_error(path, error) from None
        report.skipped.append((path, str(error)))
        return
    yield from _once(Document(str(path), made), digest, len(content), seen, report)


def _once(document: Document, digest: bytes, size: int, seen: set[bytes], report: TextsReport) -> Iterator[Document]:
    """A file's document with its ``size`` in bytes, unless its content was read before."""
    if digest in seen:
        report.skipped.append((Path(document.name), f"{COPY} file"))
        return
    seen.add(digest)
    report.files.append(Path(document.name))
    report.bytes_read += size
    yield document


def _looked_into(rows: Iterator[Any], reading: Reading) -> tuple[Iterator[Any], str]:
    """The rows of a file, and why they are no documents, by the first of them; empty if they may be."""
    try:
        first = list(islice(rows, 1))
    except TextsError as error:
        return rows, "no records that can be read: " + error.found.partition(" cannot be read ")[2].strip("().")
    read = bool(reading.preprocess) or all(row.keys() & {reading.text_field} for row in first if isinstance(row, dict))
    lacking = not read or not all(isinstance(row, str | dict) for row in first)
    return chain(first, rows), f"no field {reading.text_field!r} in its first row" if lacking else ""


def _from_rows(
    name: str, rows: Iterable[Row | None], seen: set[bytes], report: TextsReport, reading: Reading
) -> Iterator[Document]:
    """The documents of rows; those without one are counted by the reason.

    Raises:
        TextsError: there are rows, and none of them has the field.
    """
    found, fields = 0, dict[str, None]()
    lacking = f"without text in the field {reading.text_field!r}"
    for number, row in enumerate(rows, 1):
        try:
            if row is None:
                raise NoTextError("neither text nor a row of fields")
            if not reading.preprocess and not isinstance(row.get(reading.text_field), str):
                fields |= dict.fromkeys(row)
                raise NoTextError(lacking)
            found += 1
            text = _prepared(row, reading.text_field, reading)
            digest = _digest(text)
            if digest in seen:
                raise NoTextError(f"{COPY} document")
        except NoTextError as error:
            report.rows_skipped[name, str(error)] += 1
            continue
        seen.add(digest)
        report.bytes_read += len(text.encode(errors="replace"))
        yield Document(f"{name}, row {number:,}", text)
    if fields and not found:
        raise TextsError(
            f"No row of {name} has text in the field {reading.text_field!r}; there are {', '.join(fields)}.",
            "One document a row is read, from one field.",
            "Name the field with --text-field.",
        )


def _called(function: Callable[[Row], Any], row: Row) -> Any:
    """What the function of ``--preprocess`` gives (raises TextsError with what it raised)."""
    with converting_errors(
        TextsError,
        "The function of --preprocess failed",
        "It takes a row, a dict of its fields, and gives the text of one document, or None to leave it out.",
        'For example: def clean(row): return row["text"].strip()',
    ):
        return function(row)


def _prepared(row: Row, field: str, reading: Reading) -> str:
    """The document of a row (raises NoTextError where it is left out, and TextsError where a function gives none)."""
    text = _called(reading.preprocess, row) if reading.preprocess else row[field]
    if text is None:
        raise NoTextError("left out by --preprocess")
    if not isinstance(text, str):
        raise TextsError(
            f"The function of --preprocess gave {type(text).__name__}.",
            "It gives the text of one document, or None to leave it out.",
            'For example: def clean(row): return row["text"].strip()',
        )
    if not text.isascii() and HALVES.search(text):  # of a surrogate pair, as JSON may hold: they are no characters
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    check_text(text)
    return text


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _tokenized(
    documents: Sequence[Document], tokenizer: Any, report: TextsReport, reading: Reading, begun: int
) -> Iterator[tuple[str, list[Tokens]]]:
    """The name and tokens of documents that are held, in their order; one without any token is skipped.

    ``begun`` is how many bytes had been read before them.
    """
    pieces = {i: pieces_of(one.content) for i, one in enumerate(documents) if isinstance(one.content, str)}
    texts = [piece for parts in pieces.values() for piece in parts]
    characters, bytes_read = max(1, sum(map(len, texts))), report.bytes_read - begun

    def on_encoded(done: int) -> None:
        reading.on_read(begun + bytes_read * done // characters)

    longest = max((len(one.content) for one in documents if isinstance(one.content, str)), default=0)
    encoded = _encoded(texts, tokenizer, on_encoded, longest)
    end = _end_of_text(tokenizer)
    for i, document in enumerate(documents):
        content = document.content
        tokens = [*(next(encoded) for _ in pieces[i]), *end] if isinstance(content, str) else [np.asarray(content)]
        if any(map(len, tokens)):
            yield document.name, tokens
        else:
            report.skipped.append((Path(document.name), "without any token"))


def _streamed(file: TextFile, tokenizer: Any, reading: Reading, begun: int) -> Iterator[Tokens]:
    """The tokens of a long file, in parts; ``begun`` is how many bytes had been read before it."""

    def on_encoded(done: int) -> None:
        reading.on_read(begun + file.size * done // file.characters)

    yield from _encoded(file.pieces(), tokenizer, on_encoded, file.characters)
    yield from _end_of_text(tokenizer)


def _end_of_text(tokenizer: Any) -> list[Tokens]:
    return [] if tokenizer.eos_token_id is None else [np.asarray([tokenizer.eos_token_id], np.int32)]


def _encoded(texts: Iterable[str], tokenizer: Any, on_encoded: Callable[[int], None], longest: int) -> Iterator[Tokens]:
    """The tokens of each text; as many are tokenized at once as bounds the memory that this takes.

    ``longest`` is how many characters the longest document has.
    """
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    done = 0
    for group in _groups(texts, at_once(longest, os.cpu_count() or 1)):
        yield from [np.asarray(ids, np.int32) for ids in tokenizer(group, **options)["input_ids"]]
        done += sum(map(len, group))
        on_encoded(done)


def _groups(texts: Iterable[str], at_most: int) -> Iterator[list[str]]:
    """Texts in groups of at most so many characters."""
    group, number = list[str](), 0
    for text in texts:
        if group and number + len(text) > at_most:
            yield group
            group, number = [], 0
        group.append(text)
        number += len(text)
    if group:
        yield group
