"""The fast part of the table of tests/test_hostile.py, in this process."""

from pathlib import Path

import pytest
from commands import Command, assert_one_paragraph
from hostile_inputs import READERS, harm, make_files

FAST = ("model/config.json", "factors.json", "recipe.toml", "old/scores.jsonl", "old/rope.json")


@pytest.mark.parametrize(
    "reader", [reader for reader in READERS if reader.name in FAST], ids=lambda reader: reader.name
)
def test_harmed_files_end_in_one_paragraph(reader: object, command: Command) -> None:
    make_files(here := Path.cwd())
    assert isinstance(reader, type(READERS[0]))
    for wrong in ("binary", "nested", "pipe"):
        (here / reader.name).unlink(missing_ok=True)
        harm(here / reader.name, wrong)
        assert len(assert_one_paragraph(command(*reader.command.split()))) <= 1000
