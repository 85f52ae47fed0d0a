"""Models that generate, made once or forced to given tokens."""

from collections.abc import Callable
from typing import Any

import pico
import pytest

from longrope import generation
from longrope.models import LanguageModel


@pytest.fixture(scope="module")
def make() -> Callable[[str], LanguageModel]:
    """Pico models that are made once and never changed."""
    made: dict[str, LanguageModel] = {}
    return lambda family: made.setdefault(family, pico.make_model(family))


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[int]], list[Any]]:
    """Make the model say these tokens, whatever it would say; its logits are kept in the list that is returned."""

    def force(tokens: list[int]) -> list[Any]:
        left, seen = iter(tokens), list[Any]()

        def choose(logits: Any, *_: object) -> int:
            seen.append(logits)
            return next(left)

        monkeypatch.setattr(generation, "choose_token", choose)
        return seen

    return force
