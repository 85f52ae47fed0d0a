"""The losses and their gradients by one reading of the logits against torch in float64; on a GPU with ``-k cuda``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("triton", reason="Triton is not installed")

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")


def make_logits(vocabulary: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """Two windows of seven tokens: usual logits, large ones, ones that begin with a block of -inf, a falling row."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 4 * torch.randn((2, 7, vocabulary), generator=generator)
    logits[0, 1] *= 100
    logits[0, 2, : vocabulary // 2] = -torch.inf
    logits[0, 3] = torch.linspace(50, -50, vocabulary)
    targets = torch.randint(vocabulary // 2, vocabulary, (2, 7), generator=generator)
    return logits.to(device, dtype), targets.to(device)


def check(vocabulary: int, dtype: torch.dtype, device: str) -> None:
    """Every loss and gradient is that of the same numbers in float64, but for the rounding to the logits' format."""
    from longrope.engine.cross_entropy import fused_losses

    logits, targets = make_logits(vocabulary, dtype, device)
    found = fused_losses(logits, targets)
    expected = functional.cross_entropy(logits.double().flatten(0, 1), targets.flatten(), reduction="none")
    assert found.shape == targets.shape
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double().flatten(), expected, rtol=1e-5, atol=1e-5)
    turned = logits.transpose(1, 2).contiguous().transpose(1, 2)  # a row is not one piece of memory
    torch.testing.assert_close(fused_losses(turned, targets), found, rtol=0, atol=0)
    given = torch.linspace(-2, 2, targets.numel(), device=device).view(targets.shape)
    one_hot = functional.one_hot(targets, vocabulary).to(device)
    exact = (logits.double().softmax(-1) - one_hot) * given[..., None]
    for x in (logits, turned):
        own = x.detach().requires_grad_()
        (by_logits,) = torch.autograd.grad(fused_losses(own, targets), own, given)
        assert by_logits.dtype == dtype
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(by_logits.double(), exact, rtol=max(rounding, 2e-5), atol=1e-6)


@pytest.mark.slow
def test_losses_are_cross_entropy_without_a_gpu() -> None:
    """By Triton's interpreter, which has to be chosen before Triton is imported."""
    here = Path(__file__)
    work = f"import sys; sys.path.insert(0, {str(here.parent)!r}); import test_cross_entropy as t, torch\n" + "".join(
        f"t.check({size}, torch.{dtype}, 'cpu')\n" for size in (97, 20011) for dtype in ("float32", "bfloat16")
    )
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", work], env=environment, check=True, timeout=300)


@needs_gpu
@pytest.mark.parametrize("vocabulary", [97, 8192, 262144])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_losses_are_cross_entropy_on_cuda(vocabulary: int, dtype: torch.dtype) -> None:
    check(vocabulary, dtype, "cuda")
