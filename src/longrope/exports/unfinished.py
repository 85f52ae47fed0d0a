"""Files and folders that appear under their own names once they are whole and checked."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from longrope.errors import ExportError, describe_error


@contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """Give a ``with`` block the path of a file beside another one, which it then replaces.

    If the block fails, the unfinished file is removed, and what was there before stays. A process that is killed leaves
    the unfinished file behind; the next export to the same path replaces it.

    Args:
        path: of the whole file; its folder is made if it is missing.

    Raises:
        ExportError: the operating system does not let it be written.
    """
    unfinished = path.with_name(f"{path.stem}.partial{path.suffix}")
    with _writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """Give a ``with`` block the path of a folder beside another one, into which what it holds is then moved.

    If the block fails, the unfinished folder is removed, and what was there before stays; so do other files.

    Args:
        folder: of the whole files; made if it is missing.

    Raises:
        ExportError: the operating system does not let it be written.
    """
    unfinished = folder.with_name(f"{folder.name}.partial")
    with _writing(folder):
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            yield unfinished
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(unfinished.iterdir()):
                if path.is_dir():
                    shutil.rmtree(folder / path.name, ignore_errors=True)
                path.replace(folder / path.name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written ({describe_error(error)}).",
            "A folder that files may be written in is needed, with space for the whole file.",
            "Make space, or give another path.",
        ) from error
