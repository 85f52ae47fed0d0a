"""Sources of text: the files of a path or of Python's standard library, their content, and what is read and skipped."""

import gzip
import re
import sys
import sysconfig
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from longrope.data.windows import Tokens
from longrope.errors import TextsError, describe_error

STDLIB = "stdlib"
RECORDS = re.compile(r"\.(jsonl(\.gz|\.zst)?|parquet)$", re.IGNORECASE)  # files of many documents, which we cannot read
SHOWN = 3  # names of files in a message


@dataclass
class TextsReport:
    """What ``load_texts`` has read, and what it has left out.

    Attributes:
        files: those that were read, each one document.
        skipped: files inside of folders that were not, with the reason.
        hidden: how many files were left out because their name, or a folder's on the way to them, begins with a dot.
        documents: in each split; one that a split cuts counts in both.
        tokens: in each split.
    """

    files: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    hidden: int = 0
    documents: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """One line of what was read, and one for each reason to skip files, with the first few of their names."""
        parts = (
            f"{name} {count:,} document{'s' * (count != 1)}, {self.tokens[name]:,} tokens"
            for name, count in self.documents.items()
        )
        lines = [f"read {len(self.files):,} file{'s' * (len(self.files) != 1)}: {'; '.join(parts)}"]
        for reason in dict.fromkeys(reason for _, reason in self.skipped):
            names = [str(path) for path, why in self.skipped if why == reason]
            more = ", ..." if len(names) > SHOWN else ""
            lines.append(f"skipped {len(names):,} ({reason}): {', '.join(names[:SHOWN])}{more}")
        return [*lines, f"skipped {self.hidden:,} (hidden files)"] if self.hidden else lines


class NoTextError(Exception):
    """A file that is no text; says why."""


def no_text_error(path: Path, reason: object) -> TextsError:
    """The error for a file that was given by name and is no text."""
    return TextsError(
        f"{path} is {reason}.", "A UTF-8 text file that is not blank is needed.", "Convert it, or give another."
    )


def read_document(path: Path) -> str:
    """Read one UTF-8 text file (``.gz`` too); raise TextsError if it is missing, no text, or blank."""
    if not path.is_file():
        raise TextsError(f"{path} is no file.", "A UTF-8 text file is needed.", "Check the path.")
    try:
        return decode(read_content(path))
    except NoTextError as error:
        raise no_text_error(path, error) from None


def list_files(source: Path, report: TextsReport) -> list[Path]:
    """The files of a source in the order of their paths; what is left out is added to the report."""
    if not source.exists():
        raise TextsError(f"{source} does not exist.", "A text file or a folder of them is needed.", "Check the path.")
    if not source.is_dir():
        _refuse_records([source])
        return [source]
    inside = sorted(path for path in source.rglob("*") if path.is_symlink() or not path.is_dir())
    shown = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(source).parts)]
    files = [path for path in shown if path.is_file()]
    _refuse_records(files)
    report.hidden += len(inside) - len(shown)
    report.skipped += [(path, "no regular file, or a link to a folder") for path in shown if not path.is_file()]
    return files


def _refuse_records(files: Sequence[Path]) -> None:
    """Raise TextsError for files that hold a document in each record: their text is not the files' text."""
    if found := [str(path) for path in files if RECORDS.search(path.name)]:
        names = f"{', '.join(found[:SHOWN])}{', ...' if len(found) > SHOWN else ''}"
        raise TextsError(
            f"{len(found)} file{'s' * (len(found) > 1)} of records cannot be read: {names}.",
            "Plain UTF-8 text is needed, one document a file; JSON lines and Parquet are not read.",
            "Write each document to a .txt file, or all token ids to an .npy file, and move these files away.",
        )


def stdlib_modules(folder: Path | None = None) -> list[Path]:
    """The single-file modules of the standard library by name: one Python version gives one list on all platforms.

    They are those of this Python, or those in the folder of another.
    """
    folder = folder or Path(sysconfig.get_path("stdlib"))
    modules = sorted(path for path in folder.glob("*.py") if path.stem in sys.stdlib_module_names)
    if not modules:
        raise TextsError(
            f"{folder} holds no sources of Python's standard library.",
            f"The text {STDLIB!r} is read from there.",
            "Use a Python that is installed with its .py files, or give text files or folders.",
        )
    return modules


def read_content(path: Path) -> bytes:
    """The content of a file, unpacked if it is a .gz file (raises NoTextError, or TextsError for a broken disk)."""
    if not path.is_file():
        raise NoTextError("no regular file")
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise NoTextError("a damaged .gz file") from None
    except OSError as error:
        raise TextsError(f"{path} cannot be read ({error}).", "A readable file is needed.", "Check it.") from error


def decode(content: bytes) -> str:
    """The text of a file's content (raises NoTextError)."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise NoTextError("not UTF-8 text") from None
    if not text.strip():
        raise NoTextError("blank")
    if "\0" in text:
        raise NoTextError("binary, not text")
    return text


def read_tokens(path: Path, vocabulary: int) -> Tokens:
    """Token ids [any] of an .npy file; raise TextsError unless they are one row of ids below ``vocabulary``."""
    try:
        tokens = np.load(path, allow_pickle=False)
        if not isinstance(tokens, np.ndarray):
            raise ValueError("several arrays in one file")  # noqa: TRY004  # as all that is wrong with it
    except Exception as error:  # whatever a header can make numpy raise
        reason = describe_error(error)
        raise TextsError(f"{path} cannot be read ({reason}).", "A numpy array is needed.", "Write it again.") from error
    whole = tokens.ndim == 1 and np.issubdtype(tokens.dtype, np.integer) and len(tokens) > 0
    if not whole or tokens.min() < 0 or tokens.max() >= vocabulary:
        raise TextsError(
            f"{path} holds an array {tokens.dtype}{list(tokens.shape)}.",
            f"One row of token ids below {vocabulary} is needed.",
            "Make it with this model's tokenizer.",
        )
    return np.asarray(tokens, dtype=np.int32)
