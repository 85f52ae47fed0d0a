"""Texts with one document a row: JSON lines, Parquet files, and data sets of the Hugging Face hub."""

import gzip
import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from longrope.data.sources import DAMAGED
from longrope.errors import TextsError

Row = Mapping[str, Any]
HUB = "hf:"
JSON_LINES = re.compile(r"\.jsonl(\.gz|\.zst)?$", re.IGNORECASE)
PARQUET = re.compile(r"\.parquet$", re.IGNORECASE)
BY_PYARROW = re.compile(r"\.(parquet|jsonl\.zst)$", re.IGNORECASE)
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
    return bool(JSON_LINES.search(path.name) or PARQUET.search(path.name))


def check_library(source: str | Path) -> None:
    """Refuse a data set or a file of records whose library is missing (raises TextsError)."""
    name = str(source)
    needed = "datasets" if isinstance(source, str) else "pyarrow" if BY_PYARROW.search(name) else ""
    if needed and not find_spec(needed):
        with _needed(name):
            raise ModuleNotFoundError(name=needed)


def read_records(path: Path, field: str | None) -> Iterator[Row | None]:
    """The rows of a file of records, one after the other; None stands for a line that is no JSON object.

    Args:
        path: a file of which ``has_records`` holds.
        field: the only field that is asked for, or None for all.

    Raises:
        TextsError: the file is damaged, or a library that reads it is missing.
    """
    try:
        yield from _read_parquet(path, field) if PARQUET.search(path.name) else _read_json_lines(path)
    except (*DAMAGED, OSError, UnicodeDecodeError) as error:
        raise TextsError(
            f"{path} cannot be read ({type(error).__name__}: {error}).",
            "An undamaged file of JSON lines in UTF-8, or of Parquet, is needed.",
            "Write it again, or leave it out.",
        ) from None


def _read_json_lines(path: Path) -> Iterator[Row | None]:
    with _open_unpacked(path) as lines:
        for line in lines:
            if line.strip():
                yield _parse(line)


def _parse(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


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
        loaded = datasets.load_from_disk(str(folder))
        rows = loaded[named.split] if hasattr(loaded, "keys") else loaded
        return rows.take(int(first[1])) if first else rows
    reached = folder.is_dir() or not datasets.config.HF_HUB_OFFLINE
    if reached and (first or not named.part):  # other slices need the whole split
        rows = datasets.load_dataset(named.name, named.config, split=named.split, streaming=True)
        return rows.take(int(first[1])) if first else rows
    return datasets.load_dataset(named.name, named.config, split=named.split + named.part)


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
