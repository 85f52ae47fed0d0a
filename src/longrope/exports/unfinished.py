"""Files that appear under their own names once they are whole and checked."""

import os
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written ({describe_error(error)}).",
            "A folder that files may be written in is needed, with space for the whole file.",
            "Make space, or give another path.",
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
