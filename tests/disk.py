"""What is forced to the disk, and when."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from spying import before


def note_syncs(patch: pytest.MonkeyPatch, look: Callable[[int], object]) -> None:
    """Look at each file descriptor whose content is about to be forced to the disk."""
    before(patch, os, "fsync", look)


def note_names(patch: pytest.MonkeyPatch, look: Callable[[Path, Path], object]) -> None:
    """Look at each finished file and the path that it is about to take."""
    before(patch, Path, "replace", look)
