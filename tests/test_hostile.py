"""No input ends a command in any other way than by its result or by one paragraph.

Commands run in children of one warmed process, each in a folder of its own that holds the files they read.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import hostile_inputs
import pytest
from fork_server import ForkServer, Outcome
from hostile_inputs import OPTIONS, READERS, damaged_checkpoints, harm

OURS = ("run", "runs", "report.html", ".lock", "comparison.html")  # what commands may write
LONGEST = 1000
TABLE = [(reader, wrong) for reader in READERS for wrong in reader.wrong]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    home = tmp_path_factory.mktemp("home")
    started = ForkServer(HOME=str(home))
    yield started
    started.close()
    assert not [path for path in home.rglob("*") if path.is_file()], "commands write into no home"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of unharmed files; copy it."""
    folder = tmp_path_factory.mktemp("whole")
    hostile_inputs.make_files(folder)
    return folder


def inventory(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Kind, size and time of all files in a folder, and its folders, without what commands may write."""
    paths = [path for path in folder.rglob("*") if not set(OURS) & set(path.relative_to(folder).parts)]
    return {path: _state(path) for path in paths}


def _state(path: Path) -> tuple[int, ...]:
    status = path.lstat()
    is_folder = path.is_dir() and not path.is_symlink()
    return (status.st_mode,) if is_folder else (status.st_mode, status.st_size, status.st_mtime_ns)


def faults(outcome: Outcome) -> Iterator[str]:
    """What is wrong with the end of a command."""
    paragraphs = [line for line in outcome.err.splitlines() if line.startswith("longrope: ")]
    if outcome.code not in (0, 2):
        yield f"exit {outcome.code}: {outcome.err[-300:]}"
    if "Traceback" in outcome.err:
        yield "a traceback"
    if outcome.code == 2 and not (len(paragraphs) == 1 or outcome.err.startswith("Usage: ")):
        yield f"{len(paragraphs)} paragraphs: {outcome.err[-300:]}"
    if any(len(line) > LONGEST for line in paragraphs):
        yield "a long paragraph"
    if any(not (c.isprintable() or c == "\n") for c in outcome.out + outcome.err):
        yield "control characters"


def run(server: ForkServer, command: list[str], folder: Path) -> list[str]:
    """The faults of a command in a folder, changes of files that it has no business with among them."""
    before = inventory(folder)
    found = list(faults(server.run(command, folder)))
    changed = {str(path.relative_to(folder)) for path, _ in before.items() ^ inventory(folder).items()}
    return found + ([f"it changed {sorted(changed)}"] if changed else [])


def copy(whole: Path, folder: Path, name: str = "") -> Path:
    """A copy of the unharmed files; those that are not harmed are links to the same content."""
    shutil.copytree(whole, folder, copy_function=lambda a, b: Path(b).hardlink_to(a))
    place = folder / name
    if name and place.is_file():
        place.unlink()
        shutil.copy(whole / name, place)
    return folder


@pytest.mark.slow
def test_unharmed_files_are_read(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    """Else a refusal proves nothing."""
    for number, command in enumerate({reader.command for reader in READERS}):
        outcome = server.run(command.split(), copy(whole, tmp_path / str(number)), seconds=60)
        assert outcome.code == 0, (command, outcome.err)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: f"{reader.name}, {reader.command.split()[0]}")
def test_harmed_files(reader: hostile_inputs.Reader, server: ForkServer, whole: Path, tmp_path: Path) -> None:
    found = {}
    for number, wrong in enumerate(reader.wrong):
        folder = copy(whole, tmp_path / str(number), reader.name)
        harm(folder / reader.name, wrong)
        found[wrong] = run(server, reader.command.split(), folder)
    assert not {key: value for key, value in found.items() if value}


@pytest.mark.slow
def test_bad_options(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    found = {}
    for number, line in enumerate(OPTIONS):
        found[line[:80]] = run(server, line.split("|"), copy(whole, tmp_path / str(number)))
    assert not {key: value for key, value in found.items() if value}


@pytest.mark.slow
def test_checkpoints_whose_header_lies(server: ForkServer, whole: Path, tmp_path: Path) -> None:
    name, found = "model/model.safetensors", {}
    for number, (lie, content) in enumerate(damaged_checkpoints(whole / name)):
        folder = copy(whole, tmp_path / str(number), name)
        (folder / name).write_bytes(content)
        found[lie] = run(server, hostile_inputs.MODEL.split(), folder)
    assert not {key: value for key, value in found.items() if value}


def test_the_table_is_large() -> None:
    assert len(TABLE) + len(OPTIONS) >= 150
