"""Look at the calls of a function."""

from collections.abc import Callable
from typing import Any

import pytest


def before(patch: pytest.MonkeyPatch, owner: Any, name: str, look: Callable[..., object]) -> None:
    """Call a function with the arguments of each call of another one, before it; what it raises keeps that from it."""
    real = getattr(owner, name)

    def watched(*given: Any, **options: Any) -> Any:
        look(*given, **options)
        return real(*given, **options)

    patch.setattr(owner, name, watched)
