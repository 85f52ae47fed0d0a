"""Which stages of a run belong to its last finished schedule: a schedule that was changed leaves others behind."""

from pathlib import Path
from typing import Any

from longrope.runs.files import read_bytes_of_run
from longrope.runs.run_dir import STAGE_FINISHED, RunDir
from longrope.runs.shapes import STAGE, read_shaped


def stages_of(run: RunDir) -> list[Path]:
    """The folders of the last finished schedule in order, and of what went on from it; all where none is finished.

    Raises:
        RunError: the record of a stage is damaged.
    """
    folders = [path for path in run.stages.glob("*-*") if path.is_dir() and path.name.partition("-")[0].isdigit()]
    folders.sort(key=lambda path: int(path.name.partition("-")[0]))
    last = read_bytes_of_run(run.scheduled).decode(errors="replace").partition(" ")[0] if run.scheduled.exists() else ""
    hashes = {folder: folder.name.rpartition("-")[2] for folder in folders}
    before = {folder: stage_record(folder).get("inputs", {}).get("before") for folder in folders}
    if last not in hashes.values():
        return folders
    up, on = {last}, {last}
    for folder in reversed(folders):
        up |= {before[folder]} if hashes[folder] in up else set()
    for folder in folders:
        on |= {hashes[folder]} if before[folder] in on else set()
    return [folder for folder in folders if hashes[folder] in up | on]


def stage_record(folder: Path) -> dict[str, Any]:
    """What a stage has recorded; nothing before it is finished."""
    return read_shaped(folder / STAGE_FINISHED, STAGE) or {}
