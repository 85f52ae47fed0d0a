"""What may happen to a process at one of its writes: a signal, or a power cut that drops what was not forced to disk.

The moments of a process are numbered: each time it is about to open a file for writing, to rename or remove something
or make a folder below its working directory, or to force something to disk, is one.
"""

import os
import random
import resource
import signal
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

Key = tuple[int, int]  # of a file or folder: its device and its inode
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
DROPPED, REORDERED = "dropped", "reordered"  # power cuts


class Disaster(NamedTuple):
    """What comes, and when.

    Attributes:
        kind: ``SIGKILL``, ``SIGTERM``, ``SIGINT``; ``dropped`` (a power cut: every file has its content of its last
            sync, every folder the names of its own) or ``reordered`` (a power cut: of what came after the syncs, the
            changes of names are on the disk up to a random one, and contents in part); none if empty.
        moment: the number of the moment, counted from 1; 0 for none.
        seed: of what is random.
    """

    kind: str = ""
    moment: int = 0
    seed: int = 0


def counted(folder: Path) -> Path:
    """The file that holds how many moments a process in a folder had; it is written at its end."""
    return folder.with_name(f"{folder.name}.moments")


def after_cut(folder: Path) -> Path:
    """Where a power cut leaves what is on the disk of a folder."""
    return folder.with_name(f"{folder.name}.cut")


@contextmanager
def meet(disaster: Disaster | None, folder: Path) -> Iterator[None]:
    """In this block a disaster comes; the process is for nothing else, for what is hooked stays so."""
    if disaster is None:
        yield
        return
    moments = _Moments(disaster, folder.resolve())
    force = os.fsync

    def forced(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        moments.pass_one()
        force(number)
        moments.disk_of(number)

    os.fsync = forced  # type: ignore[assignment]
    sys.addaudithook(moments.look)
    try:
        yield
    finally:
        moments.busy = True
        counted(folder).write_text(f"{moments.number}")


class _Moments:
    """Counts the moments of this process, and lets the disaster come at one."""

    def __init__(self, disaster: Disaster, folder: Path) -> None:
        self.disaster, self.folder, self.number, self.busy = disaster, folder, 0, False
        self.disk = Disk(folder) if disaster.kind in (DROPPED, REORDERED) else None

    def look(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Pass a moment at an audit event that is one."""
        if self.busy or not (event == "open" or event in CHANGES):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING):
            return
        if isinstance(arguments[0], str | os.PathLike) and self._is_inside(os.fspath(arguments[0])):
            self.pass_one()

    def _is_inside(self, path: Any) -> bool:
        return isinstance(path, str) and os.path.abspath(path).startswith(f"{self.folder}{os.sep}")  # noqa: PTH100

    def pass_one(self) -> None:
        """Count a moment, and let the disaster come before what the process is about to do."""
        if self.busy:
            return
        self.busy = True
        try:
            self.number += 1
            if self.disk:
                self.disk.remember_names()
            if self.number == self.disaster.moment:
                self._come()
        finally:
            self.busy = False

    def _come(self) -> None:
        if self.disk:
            rng = random.Random(self.disaster.seed) if self.disaster.kind == REORDERED else None  # noqa: S311
            self.disk.write_to(after_cut(self.folder), rng)
        number = signal.SIGKILL if self.disk else signal.Signals[self.disaster.kind]
        os.kill(os.getpid(), number)

    def disk_of(self, descriptor: int) -> None:
        """Take note of what was forced to disk."""
        if self.disk and not self.busy:
            self.busy = True
            try:
                self.disk.force(descriptor)
            finally:
                self.busy = False


class Disk:
    """What of a folder is on the disk for certain: contents as of the last sync of each file, names of each folder.

    All that is there at the beginning is. Files are held open, so that no other one gets the inode of a removed one.
    """

    def __init__(self, folder: Path) -> None:
        """Take note of all that is there."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self.contents: dict[Key, bytes] = {}
        self.names: dict[Key, dict[str, Key]] = {}
        self.since: dict[Key, int] = {}  # of a folder the number of snapshots at its last sync
        self.snapshots: list[dict[Key, dict[str, Key]]] = []
        self.held: dict[Key, int] = {}
        self.folder = folder
        self.root = self._hold(folder)
        for path in (folder, *folder.rglob("*")):
            if not path.is_symlink():
                self.force(self.held[self._hold(path)])

    def force(self, descriptor: int) -> None:
        """What a descriptor names is on the disk as it is now."""
        status = os.fstat(descriptor)
        key = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode):
            self.names[key], self.since[key] = self._names(Path(f"/proc/self/fd/{descriptor}")), len(self.snapshots)
        elif stat.S_ISREG(status.st_mode):
            self.contents[key] = self._read(self._hold(Path(f"/proc/self/fd/{descriptor}")))

    def remember_names(self) -> None:
        """Take note of the names that all folders hold now."""
        found = {self.root: self._names(self.folder)}
        for path in self.folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                found[self._hold(path)] = self._names(path)
        self.snapshots.append(found)

    def write_to(self, target: Path, rng: random.Random | None) -> None:
        """Write what is on the disk after a power cut: of what came after the syncs nothing, or something by chance."""
        moment = rng.randint(0, len(self.snapshots)) if rng else 0
        self._write(self.root, target, moment, rng)

    def _write(self, key: Key, target: Path, moment: int, rng: random.Random | None) -> None:
        target.mkdir()
        for name, inner in self._names_at(key, moment).items():
            if stat.S_ISDIR(os.fstat(self.held[inner]).st_mode):
                self._write(inner, target / name, moment, rng)
            else:
                (target / name).write_bytes(self._content_at(inner, rng))

    def _names_at(self, key: Key, moment: int) -> Mapping[str, Key]:
        """The names of a folder at a moment, or at its last sync if that was later."""
        if moment <= self.since.get(key, 0):
            return self.names.get(key, {})
        known = [names[key] for names in self.snapshots[:moment] if key in names]
        return known[-1] if known else {}

    def _content_at(self, key: Key, rng: random.Random | None) -> bytes:
        sure, now = self.contents.get(key, b""), self._read(key)
        if rng is None:
            return sure
        kind = rng.random()
        if kind < 1 / 3:
            return sure
        if kind < 2 / 3 or not now.startswith(sure):
            return now
        return now[: rng.randint(len(sure), len(now))]

    def _names(self, folder: Path) -> dict[str, Key]:
        return {path.name: self._hold(path) for path in folder.iterdir() if not path.is_symlink()}

    def _hold(self, path: Path) -> Key:
        status = path.stat()
        key = (status.st_dev, status.st_ino)
        if key not in self.held:
            self.held[key] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return key

    def _read(self, key: Key) -> bytes:
        return os.pread(self.held[key], 2**30, 0)
