"""The kernels of a GPU against the brute-force softmax; run with ``-k cuda`` on a machine with one."""

import pytest
import torch
from attention_oracle import TOLERANCE, assert_right, attend_by, attend_holding, make_inputs, needs_gpu, oracle

from longrope.engine import kernels
from longrope.engine.kernels import Heads, Kernel, partial_attention

KERNELS = {kernel.name: kernel for kernel in kernels.list_kernels(torch.device("cuda"))}


SHAPES = {"grouped": ((8, 2), 64), "one key head": ((4, 1), 128), "as many key heads": ((2, 2), 64)}


def kernels_for(dtype: torch.dtype) -> list[Kernel]:
    """Those that take this number format: 32 bits are for one alone; ours and PyPI's FlashAttention 3 know bfloat16."""
    if dtype == torch.float32:
        return [kernels.EFFICIENT]
    choosy = (kernels.HOPPER, kernels.FLASH_3)
    return [kernel for kernel in KERNELS.values() if kernel not in choosy or dtype == torch.bfloat16]


@needs_gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("lengths", "causal"), [((150, 150), True), ((40, 150), False), ((150, 40), False)])
def test_cuda_kernels(
    dtype: torch.dtype, shape: tuple[tuple[int, int], int], lengths: tuple[int, int], causal: bool
) -> None:
    """Output and log-sum-exp of each kernel."""
    given = make_inputs(shape[0], lengths, dim=shape[1], dtype=dtype, device="cuda")
    expected, nats = oracle(*given, causal=causal, scale=0.1)
    for kernel in kernels_for(dtype):
        output, total = partial_attention(kernel, *given, causal=causal, scale=0.1)
        assert_right(output, expected)
        assert total.shape == given[0].shape[:3], kernel.name
        assert_right(total.double(), nats, tolerance=1e-2 if dtype != torch.float32 else 1e-4)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("lengths", [(150, 150), (40, 150), (149, 150), (1, 150)])
def test_cuda_attend(
    dtype: torch.dtype, name: str, shape: tuple[tuple[int, int], int], lengths: tuple[int, int]
) -> None:
    """Queries at the end of the keys, with whichever kernel is the fastest, with and without a graph."""
    if KERNELS[name] not in kernels_for(dtype):
        pytest.skip(f"{name} takes no {dtype}")
    given = make_inputs(shape[0], lengths, dim=shape[1], dtype=dtype, device="cuda")
    with torch.no_grad():
        assert_right(attend_by(KERNELS[name], *given, scale=0.1), oracle(*given, scale=0.1)[0])
    for x in given:
        x.requires_grad_()
    output, expected = attend_by(KERNELS[name], *given, scale=0.1), oracle(*given, scale=0.1)[0]
    assert_right(output.detach(), expected.detach())
    found = torch.autograd.grad(output.float().sum(), given)
    for ours, plain in zip(found, torch.autograd.grad(expected.sum(), given), strict=True):
        error = (ours.double() - plain.double()).norm() / plain.double().norm()
        assert error < TOLERANCE[dtype], name


@needs_gpu
@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("lengths", [(150, 150), (40, 150), (1, 150)])
def test_cuda_blocks(lengths: tuple[int, int], softcap: float | None) -> None:
    given = make_inputs((8, 2), lengths, dim=64, dtype=torch.bfloat16, device="cuda")
    output = attend_holding(20_000, *given, scale=0.1, window=33, softcap=softcap)
    assert_right(output, oracle(*given, scale=0.1, window=33, softcap=softcap)[0])


@needs_gpu
def test_cuda_choice_is_one_that_works() -> None:
    """Measured for real; float32 has a kernel, too, and heads of a size that none takes are refused."""
    device = torch.device("cuda", torch.cuda.current_device())
    for dtype, able in ((torch.bfloat16, len(KERNELS)), (torch.float32, 1)):
        kernel, reason = kernels.choose_kernel(device, dtype, Heads(8, 2, 64))
        assert kernel in kernels_for(dtype)
        assert reason.startswith(f"{kernel.name} attention (")
        timed = reason.split("(")[1].split(" TFLOP/s")[0]
        assert len(timed.split(", ")) == able
    kernel, reason = kernels.choose_kernel(device, torch.bfloat16, Heads(8, 2, 64), decoding=True)
    assert reason.startswith(f"{kernel.name} attention (")
    assert "65,536 keys" in reason
