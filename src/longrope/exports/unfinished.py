"""Files and folders that appear under their own names once they are whole and checked."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from longrope.errors import ExportError
from longrope.runs import files


@contextmanager
def unfinished_file(path: Path) -> Iterator[Path]:
    """Give a ``with`` block the path of a file beside another one, which it then replaces.

    If the block fails, the unfinished file is removed, and what was there before stays. A process that is killed leaves
    the unfinished file behind; the next export to the same path removes it.

    Args:
        path: of the whole file; its folder is made if it is missing.

    Raises:
        ExportError: the operating system does not let it be written.
    """
    with files.writing(path, ExportError):
        path.parent.mkdir(parents=True, exist_ok=True)
    with files.unfinished_file(path, ExportError) as unfinished:
        yield unfinished


@contextmanager
def unfinished_folder(folder: Path, before_moving: Callable[[Path, Path], None]) -> Iterator[Path]:
    """Give a ``with`` block the path of a folder beside another one, into which what it holds is then moved.

    If the block fails, the unfinished folder is removed, and what was there before stays.

    Args:
        folder: of the whole files; made if it is missing.
        before_moving: is called with it and the unfinished folder when all in this one is on the disk.

    Raises:
        ExportError: the operating system does not let it be written.
    """
    with files.unfinished_folder(folder, ExportError) as unfinished:
        yield unfinished
        folder.mkdir(parents=True, exist_ok=True)
        files.sync_tree(unfinished)
        before_moving(folder, unfinished)
        for path in sorted(unfinished.iterdir()):
            place = folder / path.name
            if path.is_dir():
                files.check_no_link(place)
                shutil.rmtree(place, ignore_errors=True)
            else:
                files.check_replaceable(place)
            path.replace(place)
        files.sync(folder)
