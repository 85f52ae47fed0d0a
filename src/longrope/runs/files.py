"""The files of a run: read with their reasons, written whole or not at all, by the main process for all.

Nothing is written through a link, and nothing but a regular file is replaced: a stranger's run directory must not
decide where we write. What a file vouches for is on the disk before the file is.
"""

import fcntl
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from longrope.errors import LongRopeError, RunError, describe_error, is_of_system
from longrope.reading import Refuse, read_bytes, read_json

R = TypeVar("R")
DISTRIBUTED = "longrope.distributed"
WRITING = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
REMEDY = "Make space, or mend what is in the way; the same command goes on from here."


def on_main(work: Callable[[], R]) -> R:
    """As ``distributed.on_main``, without importing torch: a process that has not imported ``distributed`` is alone."""
    if DISTRIBUTED not in sys.modules:
        return work()
    from longrope import distributed

    return distributed.on_main(work)


def is_main() -> bool:
    """As ``distributed.is_main``, without importing torch."""
    if DISTRIBUTED not in sys.modules:
        return True
    from longrope import distributed

    return distributed.is_main()


def refuse_reading(path: Path) -> Refuse:
    """What makes the error for a file of a run that cannot be read, from the reason."""
    return lambda reason: RunError(
        f"{path} cannot be read ({reason}).",
        "A file as this version writes it is needed.",
        "Remove the file, or make the run again with another --out.",
    )


def read_bytes_of_run(path: Path) -> bytes:
    """The content of a file of a run (raises RunError)."""
    try:
        return read_bytes(path)
    except (OSError, ValueError) as error:
        raise refuse_reading(path)(describe_error(error)) from error


def read_json_of_run(path: Path, kind: type) -> Any:
    """What a JSON file of a run holds, None where there is none.

    Args:
        path: of the file.
        kind: ``dict`` or ``list``, what it must hold; the items of a list are dicts.

    Raises:
        RunError: naming a damaged file.
    """
    if not path.exists():
        return None
    refuse = refuse_reading(path)
    content = read_json(path, refuse)
    items = content if isinstance(content, list) else []
    if not isinstance(content, kind) or not all(isinstance(item, dict) for item in items):
        raise refuse("a list of tables is needed" if kind is list else "a table is needed")
    return content


@contextmanager
def writing(path: Path, kind: type[LongRopeError] = RunError) -> Iterator[None]:
    """Convert what the system says of a file that cannot be written (raises ``kind`` with its path and the cause)."""
    try:
        yield
    except Exception as error:
        if not is_of_system(error) or isinstance(error, LongRopeError):
            raise
        reason = describe_error(error)
        raise kind(f"{path} cannot be written ({reason}).", "A place with space for it is needed.", REMEDY) from error


def make_folder(path: Path, *, linked: bool = False) -> None:
    """Make a folder of a run where there is none; only with ``linked`` it may be a link to one (raises RunError)."""
    if not linked:
        check_no_link(path)
    with writing(path):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            sync(path.parent)


def check_replaceable(path: Path) -> None:
    """Raise RunError where a link, or what is no regular file, has the name of a file that is to be written."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(kind):
        found = "a link" if stat.S_ISLNK(kind) else "a folder" if stat.S_ISDIR(kind) else "no regular file"
        raise RunError(
            f"{path} is {found}.", "Only a regular file is replaced, and no link is followed.", "Give another path."
        )


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: after a crash it is absent, old or whole.

    Args:
        path: of the file; its folder exists.
        write: called in the main process with the path of an empty file of a random name beside it, which then replaces
            it.

    Raises:
        RunError: the path is a link or no regular file, or the system does not let it be written.
    """
    on_main(partial(_write, path, write))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    with unfinished_file(path) as unfinished:
        write(unfinished)


@contextmanager
def unfinished_file(path: Path, kind: type[LongRopeError] = RunError) -> Iterator[Path]:
    """Give a block the path of an empty file beside another one, which it then replaces; see ``write_file``.

    If the block fails, nothing of it is left, and what was there before stays. What a process that was killed has left
    is removed by the next one that writes the same file.
    """
    with writing(path, kind):
        check_replaceable(path)
        with _beside(path, lambda name: os.open(name, WRITING | os.O_EXCL, 0o666)) as unfinished:
            yield unfinished
            sync(unfinished)
            unfinished.replace(path)
        sync(path.parent)


@contextmanager
def unfinished_folder(folder: Path, kind: type[LongRopeError] = RunError) -> Iterator[Path]:
    """Give a block the path of a folder beside another one, and force to disk what it has put there.

    The block moves the content into place. What is left of the folder is removed at its end.
    """

    def make(name: Path) -> int:
        name.mkdir(parents=True)
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    with writing(folder, kind):
        if folder.exists() and not folder.is_dir():
            raise kind(f"{folder} cannot be written: it is a file.", "A folder is to be written.", "Give another path.")
        with _beside(folder, make) as unfinished:
            yield unfinished
        sync(folder.parent)


@contextmanager
def _beside(path: Path, make: Callable[[Path], int]) -> Iterator[Path]:
    """The path of something new beside another one; it is locked, so that nobody takes it for a leftover."""
    mark, end = f".{path.name[:100]}.", f".partial{path.suffix}"
    discard_left(path)
    unfinished = path.with_name(f"{mark}{secrets.token_hex(8)}{end}")
    place = make(unfinished)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield unfinished
    finally:
        os.close(place)
        _discard(unfinished)


def discard_left(path: Path) -> None:
    """Remove what processes that were killed while they wrote a file or folder have left beside it."""
    mark, end = f".{path.name[:100]}.", f".partial{path.suffix}"
    if path.parent.is_dir():
        for found in path.parent.iterdir():
            if _is_beside(found.name, mark, end) and _is_left(found):
                _discard(found)


def _is_beside(name: str, mark: str, end: str) -> bool:
    """Whether a name is that of something unfinished, or of something unfinished beside that, with one more dot."""
    return name.startswith(".") and name.lstrip(".").startswith(mark.lstrip(".")) and name.endswith(end)


def _is_left(path: Path) -> bool:
    """Whether no process holds the lock of an unfinished file or folder."""
    try:
        place = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(place)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def append_text(path: Path, text: str) -> None:
    """Add text to a file of a run and force it to disk; what was added of it is taken back where that fails.

    Raises:
        RunError: the path is a link or no regular file, or the system does not let it be written.
    """
    with writing(path):
        check_replaceable(path)
        begun = not path.exists()
        with os.fdopen(os.open(path, WRITING | os.O_APPEND, 0o666), "ab", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            rest = memoryview(text.encode())
            try:
                while rest:
                    rest = rest[file.write(rest) or 0 :]
            except OSError:
                with suppress(OSError):
                    os.ftruncate(file.fileno(), size)
                raise
            os.fsync(file.fileno())
        if begun:
            sync(path.parent)


def remove_file(path: Path) -> None:
    """Remove a file of a run if it is there, and force that to disk: what it vouches for may change then."""
    with writing(path), suppress(FileNotFoundError):
        discard_left(path)
        path.unlink()
        sync(path.parent)


def truncate_file(path: Path, size: int) -> None:
    """Cut a file of a run off after so many bytes (raises RunError; a link is not followed)."""
    with writing(path):
        check_replaceable(path)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "wb") as file:
            file.truncate(size)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    place = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def sync_tree(folder: Path) -> None:
    """Force every file and folder below a folder to disk."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink():
            sync(path)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder under another name and move it into place at the end, replacing an older one.

    The process that writes the folder does this alone. If the block fails, nothing of it is left. The older one is
    moved away before it is removed, so that after a crash no part of a folder has its name.

    Raises:
        RunError: the path is a link or a file, or the system does not let it be written.
    """
    check_no_link(folder)
    with unfinished_folder(folder) as unfinished:
        yield unfinished
        sync_tree(unfinished)
        older = unfinished.with_name(unfinished.name.replace(".partial", ".older.partial"))
        with suppress(FileNotFoundError):
            folder.replace(older)
        unfinished.replace(folder)
        sync(folder.parent)
        shutil.rmtree(older, ignore_errors=True)


def check_no_link(path: Path) -> None:
    """Raise RunError where a link stands in the place of a file or folder of a run."""
    if path.is_symlink():
        raise RunError(
            f"{path} is a link.", "What a run writes is in its own directory: no link is followed.", "Remove the link."
        )
