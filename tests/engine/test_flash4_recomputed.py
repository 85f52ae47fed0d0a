"""What recomputation keeps of attention that is one operation of torch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from long_passes import gradients, set_room
from torch.utils._python_dispatch import TorchDispatchMode

from longrope.engine import graphs
from longrope.engine.backward import OPERATION
from longrope.engine.kernels import CPU
from longrope.models import LanguageModel


class Attention(TorchDispatchMode):
    """Counts how often attention is worked out."""

    runs = 0

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it."""
        self.runs += operation is OPERATION
        return operation(*args, **(kwargs or {}))


def test_attention_runs_again_only_where_its_output_does_not_fit(
    make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """With the same gradients, which are those of torch's public attention."""
    model = make("llama")

    expected = gradients(model)
    request.getfixturevalue("with_backward")
    monkeypatch.setattr(graphs, "FLASH_4", CPU)  # so that whole windows go through the operation, too
    for room, runs in ((2**32, 1), (0, 2)):
        set_room(monkeypatch, room)
        with Attention() as counted:  # type: ignore[no-untyped-call]
            found = gradients(model)
        assert counted.runs == runs * model.network.config.num_hidden_layers
        torch.testing.assert_close(found, expected)
