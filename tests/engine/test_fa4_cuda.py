"""FlashAttention 4, and gradients of parts by torch's own kernels, against float64; on a GPU with ``-k cuda``."""

from typing import Any

import pytest
import torch
from attention_oracle import make_inputs, oracle
from torch import Tensor

from longrope.engine import kernels, trials
from longrope.engine.attention import attend, attend_causal, attend_within
from longrope.engine.backward import KernelPair, attend_with_backward
from longrope.engine.kernels import CUDNN, FLASH, FLASH_4, Heads, Kernel
from longrope.engine.merging import merge_parts

GPU = torch.device("cuda", 0)
SCALE = 0.1
HERE = FLASH_4 in kernels.list_kernels(GPU) if torch.cuda.is_available() else False
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
needs_it = pytest.mark.skipif(not HERE, reason="no FlashAttention 4 is here")
every_head = pytest.mark.parametrize(
    ("heads", "dim"), [((9, 3), 64), ((8, 2), 128), ((4, 1), 256), ((4, 4), 96)], ids=str
)
every_length = pytest.mark.parametrize("lengths", [(700, 700), (300, 700), (2, 700)], ids=str)
MASKS: dict[str, dict[str, Any]] = {
    "window": {"window": 130},
    "softcap": {"softcap": 2.0},
    "both": {"window": 130, "softcap": 2.0},
    "sinks": {"sinks": True},
    "all": {"window": 130, "softcap": 2.0, "sinks": True},
}


def inputs(heads: tuple[int, int], lengths: tuple[int, int], dim: int) -> list[Tensor]:
    given = make_inputs(heads, lengths, dim=dim, dtype=torch.bfloat16, device="cuda")
    return [x.requires_grad_() for x in given]


def with_gradients(output: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """The output and the gradients toward the same numbers, in float64 on the CPU."""
    toward = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    toward = toward.bfloat16().to(output.dtype)
    return [x.detach().double().cpu() for x in (output, *torch.autograd.grad(output, leaves, toward))]


def exact(given: list[Tensor], sinks: Tensor | None = None, **masks: Any) -> list[Tensor]:
    """Of the brute-force softmax in float64."""
    leaves = [x.detach().double().cpu().requires_grad_() for x in given]
    output, nats = oracle(*leaves, scale=SCALE, **masks)
    if sinks is not None:
        leaves.append(sinks.detach().double().cpu().requires_grad_())
        output = output * torch.sigmoid(nats - leaves[-1][:, None])[..., None]
    return with_gradients(output, leaves)


def errors(found: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Relative ones of output and gradients."""
    return [((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]


def assert_as_exact_as_flash(kernel: Kernel, given: list[Tensor]) -> None:
    """At most 1.25 times the error of torch's flash kernel, of the output and of each gradient."""
    expected = exact(given)
    ours = errors(
        with_gradients(attend_with_backward(KernelPair(kernel, kernel), *given, scale=SCALE), given), expected
    )
    flash = FLASH.run(*given, causal=True, scale=SCALE)[0]
    torchs = errors(with_gradients(flash, given), expected)
    assert all(a < 1.25 * b for a, b in zip(ours, torchs, strict=True)), (ours, torchs)


@needs_it
@every_head
@every_length
def test_it_is_as_exact_as_flash_on_cuda(heads: tuple[int, int], dim: int, lengths: tuple[int, int]) -> None:
    """Whole windows, and queries at their end."""
    assert_as_exact_as_flash(FLASH_4, inputs(heads, lengths, dim))


@needs_it
@pytest.mark.parametrize("sharpness", [4.0, 16.0])
def test_it_is_as_exact_where_few_keys_take_all_on_cuda(sharpness: float) -> None:
    query, key, value = inputs((9, 3), (700, 700), 64)
    assert_as_exact_as_flash(FLASH_4, [(sharpness * query).detach().requires_grad_(), key, value])


@needs_gpu
@pytest.mark.parametrize("kernel", [CUDNN, FLASH], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize(("heads", "dim"), [((9, 3), 64), ((8, 2), 128), ((4, 4), 64)], ids=str)
@every_length
def test_parts_by_torchs_kernels_on_cuda(
    kernel: Kernel, heads: tuple[int, int], dim: int, lengths: tuple[int, int]
) -> None:
    """cuDNN's prefix and triangle are merged, and have gradients by the merged log-sum-exp."""
    given = inputs(heads, lengths, dim)
    found = with_gradients(attend_with_backward(KernelPair(kernel, kernel), *given, scale=SCALE), given)
    assert max(errors(found, exact(given))) < 0.01


@needs_gpu
@pytest.mark.parametrize("backward", [CUDNN, FLASH, FLASH_4], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize(("heads", "dim"), [((9, 3), 64), ((8, 2), 128), ((4, 1), 256)], ids=str)
def test_gradients_after_the_output_of_another_kernel_on_cuda(
    backward: Kernel, heads: tuple[int, int], dim: int
) -> None:
    """Whole windows and queries at their end, by every kernel of this machine that takes the shape."""
    listed = kernels.list_kernels(GPU)
    if backward not in listed:
        pytest.skip(f"no {backward.name} is here")
    for lengths in ((700, 700), (300, 700)):
        given = inputs(heads, lengths, dim)
        expected = exact(given)
        for forward in (kernel for kernel in listed if kernel is not kernels.EFFICIENT):
            if forward is kernels.HOPPER and dim == 256:
                continue
            found = with_gradients(attend_with_backward(KernelPair(forward, backward), *given, scale=SCALE), given)
            assert max(errors(found, expected)) < 0.01, forward.name


@needs_it
@pytest.mark.parametrize("lengths", [(700, 700), (300, 700)], ids=str)
@pytest.mark.parametrize(
    ("heads", "dim", "masks"),
    [*(((9, 3), 64, x) for x in MASKS.values()), ((8, 2), 128, MASKS["all"]), ((4, 1), 256, MASKS["all"])],
    ids=str,
)
def test_windows_soft_caps_and_sinks_on_cuda(
    heads: tuple[int, int], dim: int, lengths: tuple[int, int], masks: dict[str, Any]
) -> None:
    """Output and gradients, also of the sinks; each mask is compiled for some seconds, so not for all heads."""
    plain = {name: x for name, x in masks.items() if name != "sinks"}
    given = inputs(heads, lengths, dim)
    sinks = torch.linspace(-3, 4, heads[0], device="cuda").requires_grad_() if "sinks" in masks else None
    output = attend_with_backward(KernelPair(FLASH_4, FLASH_4), *given, scale=SCALE, sinks=sinks, **plain)
    leaves = given if sinks is None else [*given, sinks]
    found = errors(with_gradients(output, leaves), exact(given, sinks, **plain))
    assert max(found) < 0.015, found
    with torch.no_grad():
        again = attend_causal(*given, scale=SCALE, sinks=sinks, **plain)
    torch.testing.assert_close(again.float(), output.detach().float(), rtol=2e-2, atol=1e-2)


@needs_it
def test_documents_on_cuda() -> None:
    given = [x[:1].detach().requires_grad_() for x in inputs((8, 2), (300, 700), 64)]
    starts = (0, 250, 401, 650)
    output = attend_within([starts], lambda *x: attend(*x, scale=SCALE), *given)
    assert max(errors(with_gradients(output, given), exact(given, starts=starts))) < 0.01


@needs_it
def test_output_and_log_sum_exp_on_cuda() -> None:
    """Causal and not, with more queries than keys, too."""
    for lengths, causal in (((700, 700), True), ((40, 700), True), ((40, 700), False), ((700, 40), False)):
        given = [x.detach() for x in inputs((8, 2), lengths, 64)]
        output, total = FLASH_4.run(*given, causal=causal, scale=SCALE)
        expected, nats = oracle(*[x.cpu() for x in given], causal=causal, scale=SCALE)
        torch.testing.assert_close(output.double().cpu(), expected, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(total.double().cpu(), nats, rtol=0, atol=1e-3)


@needs_it
def test_other_numbers_are_refused_on_cuda() -> None:
    with pytest.raises(RuntimeError):
        FLASH_4.run(*make_inputs((2, 1), (9, 9), dim=64, device="cuda"), causal=True, scale=SCALE)


@needs_it
@pytest.mark.parametrize("dim", [64, 128, 256])
def test_it_is_measured_beside_the_others_on_cuda(dim: int) -> None:
    """Forwards alone, with gradients for whole windows and for queries at their end, and in windows."""
    _, forwards = kernels.choose_kernel(GPU, torch.bfloat16, Heads(4, 1, dim))
    assert all(f"{kernel.name} " in forwards for kernel in (CUDNN, FLASH, FLASH_4))
    assert f"no {FLASH_4.name}" not in forwards
    for whole in (True, False):
        best, reason = trials.choose_for_gradients(GPU, torch.bfloat16, Heads(4, 1, dim), whole=whole)
        assert best is not None
        assert all(f"{kernel.name} " in reason for kernel in (CUDNN, FLASH, FLASH_4))
        assert not any(f"; no {kernel.name}" in reason for kernel in (CUDNN, FLASH, FLASH_4))
    for gradients in (False, True):
        choice: dict[str, Any] = {"softcap": None, "sinks": False, "gradients": gradients, "by_torch": True}
        trials.choose_masked(GPU, torch.bfloat16, Heads(4, 1, dim), window=512, **choice)


@needs_it
def test_keys_of_more_numbers_than_32_bits_count_on_cuda() -> None:
    """Eight million keys of 256 numbers: the whole is what its two halves merge to."""
    tokens = 2**23 + 4096
    query = torch.randn((1, 4, 64, 256), device="cuda", dtype=torch.bfloat16)
    key, value = (torch.randn((1, 1, tokens, 256), device="cuda", dtype=torch.bfloat16) for _ in range(2))
    key[:, :, -64:] += query[:, :1]  # so that the last keys count
    halves = [
        FLASH_4.run(query, key[:, :, cut], value[:, :, cut], causal=causal, scale=SCALE)
        for cut, causal in ((slice(None, 2**22), False), (slice(2**22, None), True))
    ]
    output, total = FLASH_4.run(query, key, value, causal=True, scale=SCALE)
    expected, nats = merge_parts(halves)
    torch.testing.assert_close(output.float(), expected.float(), rtol=2e-2, atol=2e-3)
    torch.testing.assert_close(total, nats, rtol=0, atol=1e-2)
