"""Sources of text: the files of a path or of Python's standard library, and their content as text."""

import codecs
import gzip
import os
import re
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from longrope.data.texts_report import TextsReport
from longrope.data.windows import Tokens
from longrope.errors import TextsError, describe_error

STDLIB = "stdlib"
NO_TEXT, BINARY = "not UTF-8 text", "binary, not text"
FORMATS = {  # what files of other kinds begin with, and what they are
    b"%PDF-": "a PDF file, not text: pdftotext writes its text",
    b"PK\3\4": "a ZIP archive (.docx, .xlsx and .epub files are such), not text: save its text as .txt",
    b"\x28\xb5\x2f\xfd": "a zstd file: unpack it",
    b"\xfd7zXZ": "an xz file: unpack it",
    b"BZh": "a bzip2 file: unpack it",
}
MARKS = {  # the longer ones first: that of UTF-32 begins as that of UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LONGEST_PATH, LONGEST_NAME = 4000, 255  # characters of a path, and bytes of a name in it, that systems take
GUESSED = 64  # bytes from which an encoding is guessed
WIDE_SAMPLE = 4096  # bytes by which UTF-16 is recognised
CONTROL = re.compile("[\\x00-\\x07\\x0e-\\x1a\\x1c-\\x1f]")  # in no text, and soon in what is none
DAMAGED = (gzip.BadGzipFile, EOFError, zlib.error)


class NoTextError(Exception):
    """A file that is no text; says why."""


def no_text_error(path: Path, reason: object) -> TextsError:
    """The error for a file that was given by name and is no text."""
    remedy = "Give another." if f"{reason}" == "blank" else "Convert it to UTF-8, or give another."
    return TextsError(f"{path} is {reason}.", "A text file that is not blank is needed.", remedy)


def read_document(path: Path) -> str:
    """Read one text file (``.gz`` too); raise TextsError if it is missing, no text, or blank."""
    if not path.is_file():
        raise TextsError(f"{path} is no file.", "A UTF-8 text file is needed.", "Check the path.")
    try:
        return decode(read_content(path))
    except NoTextError as error:
        raise no_text_error(path, error) from None


def no_source_error(text: str) -> TextsError:
    """The error for a document in the place of a source of documents."""
    return TextsError(
        f"{text[:40]!r}{' ...' if len(text) > 40 else ''} is no source of texts.",
        "A source is a path, the name of a data set, or an iterable of documents.",
        "Put documents into a list of their own: load_texts([documents], tokenizer).",
    )


def check_path(source: Path) -> None:
    """Refuse a path where there is nothing, or a text in the place of a path (raises TextsError)."""
    name = str(source)
    if "\n" in name or len(name) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in source.parts):
        raise no_source_error(name)
    if not source.exists():
        raise TextsError(
            f"{source} does not exist{'' if source.is_absolute() else f' in {Path.cwd()}'}.",
            "A file of texts or a folder of them is needed.",
            "Check the path.",
        )


def list_files(source: Path, report: TextsReport) -> list[Path]:
    """The files of a source in the order of their paths; what is left out is added to the report."""
    check_path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise TextsError(
            f"{source} is a pipe or a device.",
            "A regular file or a folder is needed.",
            "Write what it gives to a file.",
        )
    inside = sorted(_inside(source))
    shown = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(source).parts)]
    report.hidden += len(inside) - len(shown)
    report.skipped += [(path, "no regular file, or a link to a folder") for path in shown if not path.is_file()]
    return [path for path in shown if path.is_file()]


def _inside(source: Path) -> Iterator[Path]:
    """All but the folders below a folder; raise TextsError for one that cannot be read, unless it is hidden."""
    left = [source]
    while left:
        folder = left.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            if any(part.startswith(".") for part in folder.relative_to(source).parts):
                continue
            found = f"{folder} cannot be read ({error})."
            raise TextsError(found, "A readable folder is needed.", "Check it.") from error
        left += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield from (Path(entry.path) for entry in entries if not entry.is_dir(follow_symlinks=False))


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
        return gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except DAMAGED:
        raise NoTextError("a damaged .gz file") from None
    except OSError as error:
        raise TextsError(f"{path} cannot be read ({error}).", "A readable file is needed.", "Check it.") from error


def decode(content: bytes, encoding: str = "") -> str:
    """The text of a file's content: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Args:
        content: of the file.
        encoding: of content that is none of these, or holds zeros, as UTF-16 without a mark does; no encoding is
            guessed, for what is guessed is often its neighbour.

    Raises:
        NoTextError: it is of another encoding, which is named if it is likely; binary; or blank.
        TextsError: there is no such encoding.
    """
    try:
        text = content.decode(marked(content))
    except UnicodeDecodeError:
        text = _decode_as(content, encoding)
    if "\0" in text:
        text = _decode_as(content, encoding, describe_zeros(content))
    check_text(text)
    return text


def check_text(text: str) -> None:
    """Refuse what is no text to train or measure on (raises NoTextError)."""
    if not text.strip():
        raise NoTextError("blank")
    if "\0" in text:
        raise NoTextError(BINARY)


def check_encoding(encoding: str) -> None:
    """Refuse an encoding that Python does not know (raises TextsError)."""
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError:
        raise TextsError(
            f"The encoding {encoding!r} is not known.", "One that Python has is needed.", "For example latin-1."
        ) from None


def marked(content: bytes) -> str:
    """The encoding that the byte order mark at the beginning of some content names, or UTF-8."""
    return next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")


def _decode_as(content: bytes, encoding: str, without: str = "") -> str:
    """Content in an encoding that was given; without one NoTextError says what it is."""
    check_format(content)
    if encoding:
        with suppress(UnicodeDecodeError):
            text = content.decode(encoding)
            if not CONTROL.search(text):
                return text
        raise NoTextError(f"neither UTF-8 nor {encoding} text")
    raise NoTextError(without or f"{NO_TEXT}{likely_encoding(content)}")


def unmarked(encoding: str) -> str:
    """The encoding of content without a byte order mark; without one, streams do not take UTF-16 by its plain name."""
    name = codecs.lookup(encoding).name
    return f"{name}-{sys.byteorder[0]}e" if name in ("utf-16", "utf-32") else name


def check_format(content: bytes) -> None:
    """Refuse what begins as a file of a known kind that is no text (raises NoTextError)."""
    for signature, reason in FORMATS.items():
        if content.startswith(signature):
            raise NoTextError(reason)


def likely_encoding(content: bytes) -> str:
    """The end of a sentence with the encodings that some content may have; empty where none is likely.

    They are the most likely one, and that of Western Europe if it fits as well; of content with zeros UTF-16 alone.
    """
    if len(content) < GUESSED:
        return ""
    if b"\0" in content:
        likely = _likely_wide(content[:WIDE_SAMPLE])
    else:
        from charset_normalizer import from_bytes

        found = [from_bytes(content).best(), from_bytes(content, cp_isolation=["cp1252"]).best()]
        likely = " or ".join(dict.fromkeys(match.encoding for match in found if match))
    return f", probably {likely}: --encoding names it" if likely else ""


def describe_zeros(content: bytes) -> str:
    """What text with zeros is that can be decoded as UTF-8: UTF-16 without a mark, or none."""
    likely = likely_encoding(content) if b"\0" in content else ""  # zeros that come later say nothing
    return f"{NO_TEXT}{likely}" if likely else BINARY


def _likely_wide(content: bytes) -> str:
    """The form of UTF-16 in which most characters have a byte of zero, nearly always on the same side; or empty."""
    even, odd = (content[side::2].count(0) / len(content[side::2]) for side in (0, 1))
    if max(even, odd) < 0.5 or min(even, odd) > 0.05:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


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
