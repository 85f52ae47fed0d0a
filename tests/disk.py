"""What is forced to the disk, and when."""

import os
from collections.abc import Callable

import pytest


def note_syncs(patch: pytest.MonkeyPatch, look: Callable[[int], None]) -> None:
    """Call a function with each file descriptor whose content has just been forced to the disk."""
    force = os.fsync

    def forced(descriptor: int) -> None:
        force(descriptor)
        look(descriptor)

    patch.setattr(os, "fsync", forced)
