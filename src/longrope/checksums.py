"""Checksums of the files of an export: kept in the record beside it, and compared when the files are read.

Config and model card are not among them: people edit those, and what the config states of RoPE the record has itself.
"""

import hashlib
import stat
from pathlib import Path
from typing import Any

from longrope.errors import LongRopeError
from longrope.reading import Refuse, read_json, show_value

RECORD = "longrope.json"
LISTED = ("*.safetensors", "*.safetensors.index.json", "tokenizer.json", "tokenizer.model", "tuned_on.json")
QUICK_BYTES = 2**30  # up to so many in all, files are hashed whenever they are opened: about a second


def record_path(checkpoint: Path) -> Path:
    """Where the record of a checkpoint stands: in its folder, or beside the file under its name."""
    return checkpoint / RECORD if checkpoint.is_dir() else checkpoint.with_suffix(f".{RECORD}")


def describe_files(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """``bytes`` and ``sha256`` of the weights, the tokenizer and the like in a folder, or of a file alone; by name."""
    listed = [path for pattern in LISTED for path in checkpoint.glob(pattern)] if checkpoint.is_dir() else [checkpoint]
    return {path.name: {"bytes": path.stat().st_size, "sha256": _hash(path)} for path in sorted(listed)}


def check_files(checkpoint: Path, kind: type[LongRopeError], *, whole: bool) -> int:
    """Compare the files of a checkpoint with its record; records without checksums are of earlier versions.

    Args:
        checkpoint: a folder or a file.
        kind: of the error.
        whole: hash every file; otherwise only where they are small, and compare the sizes of others.

    Returns:
        How many files were hashed.

    Raises:
        LongRopeError: of that kind; a file is missing or another one than was exported, or the record is damaged.
    """
    path = record_path(checkpoint)
    if not path.is_file():
        return 0

    def refuse(reason: str) -> LongRopeError:
        return kind(
            f"{path} cannot be read ({reason}).",
            "A record as an export writes it is needed.",
            "Export again, or remove the file.",
        )

    listed = _read_listed(path, refuse)
    if not checkpoint.is_dir():  # the record may have come with a copy under another name
        listed = {name: known for name, known in listed.items() if name == checkpoint.name}
    wrong = [f"{name} {found}" for name, known in listed.items() if (found := _compare(_beside(path, name), known))]
    hashing = whole or sum(size for size, _ in listed.values()) <= QUICK_BYTES
    if not wrong and hashing:
        wrong = [f"{name} has other content" for name, (_, sha) in listed.items() if _hash(_beside(path, name)) != sha]
    if wrong:
        raise kind(
            f"{checkpoint} is not as it was exported: {', '.join(wrong)}.",
            f"The files must have the sizes and SHA-256 sums that {path.name} states.",
            f"Copy or export it again; if it was changed on purpose, remove {path}.",
        )
    return len(listed) * hashing


def _beside(record: Path, name: str) -> Path:
    return record.parent / name


def _read_listed(path: Path, refuse: Refuse) -> dict[str, tuple[int, str]]:
    """Size and sum of each file that a record lists."""
    content = read_json(path, refuse)
    listed = content.get("files", {}) if isinstance(content, dict) else None
    if not isinstance(listed, dict):
        raise refuse("it has no table of files")
    found = {}
    for name, known in listed.items():
        size, sha = (known.get("bytes"), known.get("sha256")) if isinstance(known, dict) else (None, None)
        if not name or Path(name).name != name or not isinstance(size, int) or not isinstance(sha, str):
            raise refuse(f"files has {show_value(name)}: {show_value(known)}")
        found[name] = (size, sha)
    return found


def _compare(path: Path, known: tuple[int, str]) -> str:
    """What is wrong with a file but its content; empty if nothing is."""
    try:
        status = path.stat()
    except OSError:
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is no regular file"
    return "" if status.st_size == known[0] else f"has {status.st_size:,} bytes, not {known[0]:,}"


def _hash(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
