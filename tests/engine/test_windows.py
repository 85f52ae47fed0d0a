"""Layers with sliding windows or chunks attend to what their queries see and to nothing else, without a square mask."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from attending import as_model, eager_losses, make_network
from long_passes import needs_gpu, set_tile
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longrope.engine import attention, kernels
from longrope.engine.attention import attend_causal
from longrope.engine.kernels import Heads
from longrope.engine.passes import token_losses

WINDOW = 8
TILE = 64
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"sliding_window": WINDOW},
    "gpt_oss": {"sliding_window": WINDOW},
    "llama4_text": {"attention_chunk_size": WINDOW},
}


class MaskedCalls(TorchFunctionMode):
    """Queries, keys and masks of torch's attention, which kernels that stream do not go through."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.shapes: list[tuple[int, int]] = []

    def __torch_function__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at a call."""
        if function is functional.scaled_dot_product_attention:
            blocks = args[0].shape[0]  # of one text
            self.shapes += [(args[0].shape[2], args[1].shape[2])] * blocks
        return function(*args, **(kwargs or {}))


class Largest(TorchDispatchMode):
    """The most numbers that one operation gave."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, operation: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at what an operation gives."""
        output = operation(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() // x.itemsize for x in tree_leaves(output) if isinstance(x, Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return output


@contextmanager
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int, bool]]]:
    """Queries, keys and causality of each call of a kernel that streams."""
    calls: list[tuple[int, int, bool]] = []
    run = kernels.CPU.run

    def spy(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        calls.append((query.shape[2], key.shape[2], causal))
        return run(query, key, value, causal=causal, scale=scale)

    seen = kernels.Kernel("spy", kernels.CPU.backend, spy, aligns=False)
    with monkeypatch.context() as patch:
        patch.setattr(attention, "choose_kernel", lambda *_, **__: (seen, ""))
        yield calls


def tokens_of(count: int) -> Tensor:
    return torch.randint(1, 320, (1, count), generator=torch.Generator().manual_seed(count))


def test_blocks_hold_the_keys_that_their_queries_see() -> None:
    """Windows of 8 in 200 keys, of which the last 64 have queries: no key before the first window is read."""
    query, key = torch.randn(1, 2, 64, 8), torch.randn(1, 2, 200, 8)
    with MaskedCalls() as calls:
        attend_causal(query, key, key, scale=1.0, window=WINDOW)
    assert sum(queries for queries, _ in calls.shapes) == 64
    assert all(keys == queries + WINDOW - 1 for queries, keys in calls.shapes)


@pytest.mark.parametrize("tokens", [256, 512])
def test_gemma_3_attends_to_pairs_in_its_windows_alone(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 2 w - 1 keys a query and layer, and no mask of more than w queries; full layers take kernels."""
    set_tile(monkeypatch, TILE, rows=1)
    model = as_model(make_network("gemma3_text"))
    with kernel_calls(monkeypatch) as streamed, MaskedCalls() as masked:
        losses = token_losses(model, tokens_of(tokens))
    pairs = sum(queries * keys for queries, keys in masked.shapes)
    assert 2 * tokens * WINDOW < pairs <= 2 * tokens * (2 * WINDOW - 1)  # of two sliding layers
    assert max(queries for queries, _ in masked.shapes) == WINDOW
    full = sum(queries * (keys + 1) // 2 if causal else queries * keys for queries, keys, causal in streamed)
    assert full == 2 * tokens * (tokens + 1) // 2  # of two full layers
    torch.testing.assert_close(losses.double(), eager_losses(model.network, tokens_of(tokens)), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_of_a_pass_is_linear(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In twice the tokens the largest tensor is twice as large, and has far fewer numbers than there are pairs."""
    set_tile(monkeypatch, TILE, rows=1)
    model, sizes = as_model(make_network(family, **FAMILIES[family])), []
    for tokens in (1024, 2048):
        with Largest() as largest:
            token_losses(model, tokens_of(tokens))
        sizes.append(largest.numbers)
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.01)
    assert sizes[1] < 2048**2 / 4


def test_chunks_take_kernels_without_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama-4's chunks are causal squares of their own, and a tile that begins within a chunk sees its beginning."""
    query, key = torch.randn(1, 2, 21, 8), torch.randn(1, 2, 50, 8)
    with kernel_calls(monkeypatch) as calls, MaskedCalls() as masked:
        attend_causal(query, key, key, scale=1.0, chunk=16)
    assert not masked.shapes
    assert calls == [(3, 13, False), (3, 3, True), (16, 16, True), (2, 2, True)]


@needs_gpu
def test_heads_of_256_are_measured_with_cudnn() -> None:
    """Gemma-3's: four query heads on one."""
    _, reason = kernels.choose_kernel(torch.device("cuda"), torch.bfloat16, Heads(4, 1, 256))
    assert "cuDNN" in reason.split("; no ")[0]
