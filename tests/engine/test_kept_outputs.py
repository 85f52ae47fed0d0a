"""What recomputed layers keep of their attention."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_oracle import make_inputs
from long_passes import gradients, set_room, set_tile
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from longrope.engine.backward import KeptOutputs, KernelPair, attend_with_backward
from longrope.engine.kernels import CPU, aten
from longrope.models import LanguageModel

FORWARD = aten._scaled_dot_product_flash_attention_for_cpu.default
BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward.default


class Counted(TorchDispatchMode):
    """Counts the calls of each operation."""

    def __init__(self) -> None:
        """None yet."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it."""
        self.calls[operation] += 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("tile", [16, 65536])
def test_attention_runs_again_only_where_its_output_does_not_fit(
    tile: int, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same gradients, bit for bit, also a second time."""
    model = make("llama")
    layers = model.network.config.num_hidden_layers
    set_tile(monkeypatch, tile)
    found = []
    for room, runs in ((2**32, 1), (0, 2)):
        set_room(monkeypatch, room)
        for _ in range(2):
            with Counted() as counted:
                found.append(gradients(model))
            assert counted.calls[FORWARD] == runs * layers
            assert counted.calls[BACKWARD] == layers
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("documents", [None, [(0, 7, 30), (0, 19), (0,)]], ids=["whole", "documents"])
def test_gradients_through_kept_outputs_are_those_without(
    documents: Any, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that call attention several times get back what each of the calls gave."""
    model = make("qwen3")
    found = []
    for room in (2**32, 0):
        set_room(monkeypatch, room)
        found.append(gradients(model, documents=documents))
    assert found[0].abs().max() > 0
    assert torch.equal(*found)


@pytest.mark.parametrize(("keep", "expected_calls"), [(True, (1, 1, 1, 1, 2)), (False, (1, 2, 2, 2, 3))])
def test_outputs_are_kept_until_they_are_taken(keep: bool, expected_calls: tuple[int, ...]) -> None:
    """In their order; another run, of a graph that is run backwards twice, works them out again."""
    given, pair = [x.requires_grad_() for x in make_inputs((4, 2), (37, 37))], KernelPair(CPU, CPU)
    other = [(2 * x).detach().requires_grad_() for x in given]
    first, again, last = ({"first": run == 0, "last": run == 2} for run in range(3))
    kept, outputs = KeptOutputs(keep=keep), []
    with Counted() as counted:
        for run, calls in zip((first, again, again, last, last), expected_calls, strict=True):
            kept.begin(**run)
            outputs.append([attend_with_backward(pair, *x, scale=0.3, kept=kept) for x in (given, other)])
            assert counted.calls[FORWARD] == 2 * calls
            assert all(output.grad_fn is not None for output in outputs[-1])
    for found in outputs[1:]:
        assert all(map(torch.equal, outputs[0], found))
    assert not torch.equal(*outputs[0])
    expected = torch.autograd.grad(outputs[0][0].square().sum(), given)
    for ours, plain in zip(torch.autograd.grad(outputs[3][0].square().sum(), given), expected, strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("heads", [(4, 2), (6, 6), (8, 1)])
def test_bits_are_those_of_torchs_public_attention(heads: tuple[int, int]) -> None:
    """Output and gradients of whole windows on a CPU."""
    given = [x.requires_grad_() for x in make_inputs(heads, (130, 130))]
    toward = torch.randn_like(given[0])
    shared = {"is_causal": True, "scale": 0.3, "enable_gqa": heads[0] != heads[1]}
    public = functional.scaled_dot_product_attention(*given, **shared)  # type: ignore[arg-type]
    ours = attend_with_backward(KernelPair(CPU, CPU), *given, scale=0.3)
    assert torch.equal(ours, public)
    for a, b in zip(*(torch.autograd.grad(x, given, toward) for x in (ours, public)), strict=True):
        assert torch.equal(a, b)
