"""What tests of the engine share."""

from collections.abc import Callable

import pico
import pytest
import torch
from long_passes import FAMILIES

from longrope.engine import graphs
from longrope.engine.backward import KernelPair
from longrope.engine.kernels import CPU
from longrope.models import LanguageModel


@pytest.fixture(scope="module")
def make() -> Callable[..., LanguageModel]:
    """Pico models that are made once and never changed."""
    made: dict[tuple[str, torch.dtype], LanguageModel] = {}

    def get(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
        if (family, dtype) not in made:
            made[family, dtype] = pico.make_model(family, dtype=dtype, **FAMILIES[family])
        return made[family, dtype]

    return get


@pytest.fixture
def with_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where queries stand before the end of the keys, gradients are those of the CPU's kernel and its merged parts."""
    monkeypatch.setattr(graphs, "choose_for_gradients", lambda *_, **__: (KernelPair(CPU, CPU), ""))
