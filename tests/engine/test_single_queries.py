"""One query at the end of its keys sees all of them: kernels that do not align a triangle are asked for none."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from attention_oracle import SCALE, make_inputs, oracle

from longrope.engine import backward
from longrope.engine.backward import KernelPair, attend_with_backward
from longrope.engine.kernels import CPU


@pytest.mark.parametrize(("queries", "calls"), [(1, [(1, 37, False)]), (5, [(5, 32, False), (5, 5, True)])])
def test_a_single_query_is_one_call_without_a_triangle(
    queries: int, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forwards and backwards, with the output and gradients of the brute-force softmax."""
    asked: dict[str, list[Any]] = {"forward": [], "backward": []}

    def run(query: Any, key: Any, value: Any, **settings: Any) -> Any:
        asked["forward"].append((query.shape[2], key.shape[2], settings["causal"]))
        return CPU.run(query, key, value, **settings)

    def back(gradient: Any, query: Any, key: Any, *given: Any, **settings: Any) -> Any:
        asked["backward"].append((query.shape[2], key.shape[2], settings["causal"]))
        return own(gradient, query, key, *given, **settings)

    own = backward.BACKWARDS[CPU.name]
    monkeypatch.setitem(backward.BACKWARDS, CPU.name, back)
    kernel = replace(CPU, run=run)
    given = [x.requires_grad_() for x in make_inputs((4, 2), (queries, 37))]
    output = attend_with_backward(KernelPair(kernel, kernel), *given, scale=SCALE)
    expected = oracle(*given)[0]
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)
    toward = torch.randn(output.shape)
    found = torch.autograd.grad(output, given, toward)
    for ours, plain in zip(found, torch.autograd.grad(expected, given, toward.double()), strict=True):
        torch.testing.assert_close(ours.double(), plain.double(), rtol=1e-3, atol=1e-4)
    assert asked == {"forward": calls, "backward": calls}
