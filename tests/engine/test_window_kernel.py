"""Sliding windows by torch's flash kernel against a brute-force softmax; on a GPU with ``-k cuda``."""

import pytest
import torch
from attention_oracle import SCALE, make_inputs, oracle

from longrope.engine import attention
from longrope.engine.attention import attend_causal
from longrope.engine.kernels import Heads, takes_windows

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")


def test_there_is_none_without_a_gpu() -> None:
    assert not takes_windows(torch.device("cpu"), torch.float32, Heads(4, 2, 8))


@needs_gpu
@pytest.mark.parametrize("dim", [64, 128, 256])
@pytest.mark.parametrize("lengths", [(300, 300), (40, 300), (1, 300)])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_windows_on_cuda(dim: int, lengths: tuple[int, int], *, with_sinks: bool) -> None:
    given = [x / 4 for x in make_inputs((4, 2), lengths, dim=dim, dtype=torch.bfloat16, device="cuda")]
    assert takes_windows(given[0].device, torch.bfloat16, Heads(4, 2, dim))
    sinks = torch.tensor([-1.0, 0.0, 1.0, 4.0], device="cuda") if with_sinks else None
    with torch.inference_mode():
        found = attend_causal(*given, scale=SCALE, window=70, sinks=sinks)
    expected, lse = oracle(*given, window=70)
    if sinks is not None:
        expected = expected * torch.sigmoid(lse - sinks.double()[:, None])[..., None]
    torch.testing.assert_close(found.double(), expected, rtol=2e-2, atol=5e-3)


@needs_gpu
def test_gradients_in_windows_on_cuda() -> None:
    """They are those of the blocks."""
    given = [x / 4 for x in make_inputs((4, 2), (300, 300), dim=64, dtype=torch.bfloat16, device="cuda")]
    grads = []
    for work in (attention.attend_in_window, attention.attend_in_blocks):
        leaves = [x.clone().requires_grad_() for x in given]
        work(*leaves, scale=SCALE, window=70).float().square().sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for found, expected in zip(*grads, strict=True):
        assert found.abs().max() > 0
        torch.testing.assert_close(found.float(), expected.float(), rtol=3e-2, atol=3e-2)


@needs_gpu
def test_what_the_kernel_does_not_know_goes_by_blocks_on_cuda() -> None:
    """float32, and soft caps."""
    given = make_inputs((4, 2), (300, 300), dim=64, device="cuda")
    expected, _ = oracle(*given, window=70)
    assert not takes_windows(given[0].device, torch.float32, Heads(4, 2, 64))
    torch.testing.assert_close(attend_causal(*given, scale=SCALE, window=70).double(), expected, rtol=1e-3, atol=1e-3)
    half = [x.bfloat16() for x in given]
    capped, _ = oracle(*half, window=70, softcap=2.0)
    found = attend_causal(*half, scale=SCALE, window=70, softcap=2.0)
    torch.testing.assert_close(found.double(), capped, rtol=3e-2, atol=3e-2)
