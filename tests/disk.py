"""What is forced to the disk, and when."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def before(patch: pytest.MonkeyPatch, owner: Any, name: str, look: Callable[..., object]) -> None:
    """Call a function with the arguments of each call of another one, before it; what it raises keeps that from it."""
    real = getattr(owner, name)

    def watched(*given: Any, **options: Any) -> Any:
        look(*given, **options)
        return real(*given, **options)

    patch.setattr(owner, name, watched)


def note_syncs(patch: pytest.MonkeyPatch, look: Callable[[int], object]) -> None:
    """Look at each file descriptor whose content is about to be forced to the disk."""
    before(patch, os, "fsync", look)


def note_names(patch: pytest.MonkeyPatch, look: Callable[[Path, Path], object]) -> None:
    """Look at each finished file and the path that it is about to take."""
    before(patch, Path, "replace", look)
