"""Ctrl-C while the command line is imported ends it without a word."""

import sys
from types import ModuleType

import pytest

from longrope.__main__ import main


class Interrupted(ModuleType):
    """A module whose import Ctrl-C ends."""

    def __getattr__(self, name: str) -> object:  # noqa: D105
        raise KeyboardInterrupt


def test_an_interrupted_import_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "longrope.cli", Interrupted("longrope.cli"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")
