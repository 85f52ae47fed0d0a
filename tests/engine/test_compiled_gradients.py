"""Recomputed layers through torch.compile: the same gradients, compiled once, and not where layers work in tiles."""

import copy
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pico
import pytest
import torch
import torch._dynamo
from long_passes import gradients, set_room, set_tile
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from longrope.engine.held_states import Holding

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which(str(inductor.cpp.cxx[1])), reason="no C++ compiler is here"),
]


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_gradients_are_those_of_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With outputs of attention kept or not, and every state held or every second; later passes compile nothing."""
    gpu = torch.cuda.is_available()
    model = pico.make_model(num_hidden_layers=3, dtype=torch.bfloat16 if gpu else torch.float32)
    model.network.to("cuda" if gpu else "cpu")
    plain, fused = gradients(model), replace(model, compiled=True)
    exact = gradients(replace(model, network=copy.deepcopy(model.network).float())) if gpu else plain
    found, graphs = [gradients(fused)], counters["stats"]["unique_graphs"]
    assert graphs > 0
    for room in (2**32, 0):
        set_room(monkeypatch, room)
        found += [gradients(fused), gradients(fused, holding=Holding(2))]
    assert counters["stats"]["unique_graphs"] == graphs
    rounding = (plain.float() - exact).norm()
    for each in found:  # no further from the gradients in float32 than those of plain layers
        assert (each.float() - exact).norm() < max(1e-5 * exact.norm(), 1.25 * rounding)
    set_tile(monkeypatch, 16)
    torch.testing.assert_close(gradients(fused), gradients(model))
    assert counters["stats"]["unique_graphs"] == graphs
