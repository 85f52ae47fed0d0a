"""Texts with one document a row: JSON, CSV and Parquet files, and data sets of the Hugging Face hub."""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from longrope.data.sources import DAMAGED, marked, unmarked
from longrope.errors import TextsError

Row = Mapping[str, Any]
HUB = "hf:"
JSON_LINES = re.compile(r"\.(jsonl|ndjson)(\.gz|\.zst)?$", re.IGNORECASE)
JSON = re.compile(r"\.json(\.gz|\.zst)?$", re.IGNORECASE)
CSV = re.compile(r"\.(csv|tsv)(\.gz|\.zst)?$", re.IGNORECASE)
PARQUET = re.compile(r"\.parquet$", re.IGNORECASE)
BY_PYARROW = re.compile(r"\.(parquet|(jsonl|ndjson|json|csv|tsv)\.zst)$", re.IGNORECASE)
CHECKED = 2**20  # characters that are decoded at once
LONGEST_FIELD = 2**31 - 1  # characters of a field of a CSV file
NAMED = re.compile(r"hf:(?P<name>[^:\[\]]+)(:(?P<config>[^:\[\]]+))?:(?P<split>[^:\[\]]+)(?P<slice>\[[^\[\]]*\])?")
FIRST = re.compile(r"\[:(\d+)\]")
BATCH_ROWS = 64  # of a Parquet file that are held at once


class HubName(NamedTuple):
    """A data set of the hub, or a folder of one: ``hf:NAME[:CONFIG]:SPLIT``, the split with a slice ``[:100]``, too."""

    name: str
    config: str | None
    split: str
    part: str

    @classmethod
    def parse(cls, source: str) -> "HubName":
        """Read the name of a source (raises TextsError)."""
        if not (found := NAMED.fullmatch(source)):
            raise TextsError(
                f"The source {source!r} is no data set.",
                "Its name and a split are needed: hf:NAME:SPLIT or hf:NAME:CONFIG:SPLIT.",
                "For example hf:Salesforce/wikitext:wikitext-103-raw-v1:test, or hf:emozilla/pg19:train[:200].",
            )
        return cls(found["name"], found["config"], found["split"], found["slice"] or "")


def has_records(path: Path) -> bool:
    """Whether a file has one document in each of its rows."""
    return any(kind.search(path.name) for kind in (JSON_LINES, JSON, CSV, PARQUET))


def may_be_settings(path: Path) -> bool:
    """Whether a file of records is of a kind that folders hold for other reasons: settings, tables of numbers."""
    return any(kind.search(path.name) for kind in (JSON, CSV))


def check_library(source: str | Path) -> None:
    """Refuse a data set or a file of records whose library is missing (raises TextsError)."""
    name = str(source)
    needed = "datasets" if isinstance(source, str) else "pyarrow" if BY_PYARROW.search(name) else ""
    if needed and not find_spec(needed):
        with _needed(name):
            raise ModuleNotFoundError(name=needed)


def read_records(path: Path, field: str | None, encoding: str = "") -> Iterator[Any]:
    """The rows of a file of records, one after the other: mappings, or whatever else a line or an element is.

    JSON files are held in memory; of all others, a few rows are.

    Args:
        path: a file of which ``has_records`` holds.
        field: the only field that is asked for, or None for all.
        encoding: of CSV files that are not UTF-8.

    Raises:
        TextsError: the file is damaged, or a library that reads it is missing.
    """
    try:
        if PARQUET.search(path.name):
            yield from _read_parquet(path, field)
        elif CSV.search(path.name):
            yield from _read_csv(path, encoding)
        else:
            yield from _read_json(path) if JSON.search(path.name) else _read_json_lines(path)
    except (*DAMAGED, OSError, ValueError, csv.Error) as error:
        if isinstance(error, TextsError):
            raise
        raise TextsError(
            f"{path} cannot be read ({type(error).__name__}: {error}).",
            "An undamaged file of JSON, of JSON lines or CSV in UTF-8, or of Parquet, is needed.",
            "Write it again, or leave it out; --encoding names the encoding of a CSV file.",
        ) from None


def _read_json_lines(path: Path) -> Iterator[Row | None]:
    with _open_unpacked(path) as content:
        found = marked(content.read(4))
    with _open_unpacked(path) as content:
        wide = found in ("utf-16", "utf-32")  # whose lines do not end at a byte
        for line in io.TextIOWrapper(content, found, newline="\n") if wide else content:
            if line.strip():
                yield _parse(line)


def _parse(line: bytes | str) -> Row | None:
    """The object of one line in UTF-8; None for anything else."""
    try:
        row = json.loads(line if isinstance(line, str) else line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _read_json(path: Path) -> Iterator[Any]:
    """The elements of an array, or a single object; JSON lines under this name, too."""
    with _open_unpacked(path) as file:
        content = file.read()
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        rows = [_parse(line) for line in content.decode(marked(content[:4])).split("\n") if line.strip()]
        if not rows or rows[0] is None:  # an array that is damaged
            raise OSError(f"no JSON, {error}") from None
        yield from rows
        return
    yield from found if isinstance(found, list) else [found]


def _read_csv(path: Path, encoding: str) -> Iterator[Row]:
    """The rows of a table whose first line has the names of its fields; a field may have several lines."""
    kind = CSV.search(path.name)
    delimiter = "\t" if kind and kind[1].lower() == "tsv" else ","
    with _open_unpacked(path) as content, io.TextIOWrapper(content, _csv_encoding(path, encoding), newline="") as lines:
        before = csv.field_size_limit(LONGEST_FIELD)
        try:
            rows = csv.DictReader(lines, delimiter=delimiter, strict=True)
            for row in rows:
                if None in row:
                    raise csv.Error(f"line {rows.line_num} has more fields than the first")
                yield row
        finally:
            csv.field_size_limit(before)


def _csv_encoding(path: Path, encoding: str) -> str:
    """What a byte order mark says, or UTF-8; the one that was given, if the content is neither."""
    with _open_unpacked(path) as content:
        found = marked(content.read(4))
    with _open_unpacked(path) as content, io.TextIOWrapper(content, found, newline="") as lines:
        try:
            while chunk := lines.read(CHECKED):
                if encoding and "\0" in chunk:  # UTF-16 without a mark
                    return unmarked(encoding)
        except UnicodeDecodeError:
            if not encoding:
                raise OSError("not UTF-8; --encoding names what it is") from None
            return unmarked(encoding)
    return found


def _open_unpacked(path: Path) -> Any:
    """A binary file to be read line by line."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    if path.suffix.lower() == ".zst":
        with _needed(path):
            import pyarrow as pa
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return path.open("rb")


def _read_parquet(path: Path, field: str | None) -> Iterator[Row]:
    with _needed(path):
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = [field] if field in names else None if field is None else []
            if columns == []:  # rows without the field; the caller reports them with the fields that there are
                yield dict.fromkeys(names)
                return
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise OSError(f"{error}") from None


def read_hub(source: str, field: str | None) -> Iterator[Row]:
    """The rows of a data set, streamed from the hub; from the cache of ``datasets`` where that is offline.

    Args:
        source: ``hf:NAME[:CONFIG]:SPLIT``; the name of a folder, too.
        field: the only field that is asked for, or None for all.

    Raises:
        TextsError: there is no such data set, configuration or split, or it cannot be reached.
    """
    named = HubName.parse(source)
    with _needed(source):
        import datasets
    try:
        rows = _open(datasets, named)
        if field in (rows.column_names or ()):
            rows = rows.select_columns([field])
        yield from rows
    except Exception as error:  # of the network, the file system, builders and parsers: the library declares none
        if isinstance(error, TextsError):
            raise
        first = f"{error}".strip().splitlines() or [""]
        raise TextsError(
            f"The data set {source} cannot be read ({type(error).__name__}: {first[0]}).",
            "Its name, its configuration, if it has several, and one of its splits are needed.",
            "Correct it. Without a network, set HF_HUB_OFFLINE=1 and have the data set in the cache of `datasets`.",
        ) from error


def _open(datasets: Any, named: HubName) -> Any:
    folder, first = Path(named.name), FIRST.fullmatch(named.part)
    if any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):  # of save_to_disk
        return _saved(datasets, named)
    reached = folder.is_dir() or not datasets.config.HF_HUB_OFFLINE
    if reached and (first or not named.part):  # other slices need the whole split
        rows = datasets.load_dataset(named.name, named.config, split=named.split, streaming=True)
        return rows.take(int(first[1])) if first else rows
    return datasets.load_dataset(named.name, named.config, split=named.split + named.part)


def _saved(datasets: Any, named: HubName) -> Any:
    """The rows of a split, or of a slice of it, that ``save_to_disk`` has written: one split, or several by name."""
    loaded = datasets.load_from_disk(named.name)
    splits = dict(loaded) if hasattr(loaded, "keys") else {str(loaded.split or named.split): loaded}
    if named.config or named.split not in splits:
        wrong = f"a configuration {named.config!r}" if named.config else f"a split {named.split!r}"
        raise ValueError(f"{wrong} of a saved data set with the splits {', '.join(splits)}")
    rows = splits[named.split]
    if not named.part:
        return rows
    slices = datasets.ReadInstruction.from_spec(f"{named.split}{named.part}").to_absolute({named.split: len(rows)})
    return rows.select([row for part in slices for row in range(part.from_, part.to)])


@contextmanager
def _needed(source: object) -> Iterator[None]:
    """Turn the lack of a library of the extra ``data`` into TextsError."""
    try:
        yield
    except ImportError as error:
        raise TextsError(
            f"{source} needs the package {(error.name or '').partition('.')[0]}, which is not installed.",
            "It belongs to the extra `data`.",
            "pip install 'longrope[data]'",
        ) from None
