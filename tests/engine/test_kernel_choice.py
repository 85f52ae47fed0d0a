"""Which attention kernel is taken, and why."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_oracle import SCALE, assert_right, make_inputs, oracle
from spying import before

from longrope.engine import attention, kernels
from longrope.engine.attention import attend
from longrope.engine.kernels import CPU, Heads, Kernel, causal_flops, fastest_kernel, partial_attention
from longrope.errors import ModelError

FLASH_3 = """
import torch

def flash_attn_func(q, k, v, *, softmax_scale, causal, num_splits, return_attn_probs):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    group, prefix = q.shape[1] // k.shape[1], k.shape[2] - q.shape[2]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = (q @ k.transpose(2, 3)) * softmax_scale
    if causal:
        scores.masked_fill_(~torch.ones(scores.shape[2:], dtype=torch.bool).tril(prefix), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2), scores.logsumexp(-1)
"""


GPU = torch.device("cuda", 0)  # it need not be there
TORCHS = (kernels.CUDNN, kernels.FLASH, kernels.EFFICIENT)


def test_a_cpu_has_one_kernel() -> None:
    kernel, reason = kernels.choose_kernel(torch.device("cpu"), torch.float32, Heads(4, 2, 8))
    assert kernel is CPU
    assert "CPU" in reason


def test_the_fastest_kernel_is_taken() -> None:
    speeds = {"cuDNN": 400.0, "flash": 500.4, "memory-efficient": 100.0}
    kernel, reason = fastest_kernel(TORCHS, lambda kernel: speeds[kernel.name], "32,768 tokens", "heads")
    assert kernel is kernels.FLASH
    assert reason == "flash attention (cuDNN 400, flash 500, memory-efficient 100 TFLOP/s on 32,768 tokens here)"


def test_each_shape_is_measured_once_and_one_token_apart() -> None:
    """What reads a whole window fastest may be forty times slower at reading keys for one query."""
    asked = []

    def speed(kernel: Kernel, *, decoding: bool, **given: Any) -> float:
        asked.append((kernel, given, decoding))
        return (1.0 if decoding else 400.0) if kernel is kernels.CUDNN else 20.0

    heads = Heads(8, 2, 1)
    choose = partial(kernels.measure_kernels, TORCHS, GPU, speed=speed)
    for _ in range(2):
        for decoding, best, trial in ((False, kernels.CUDNN, "32,768 tokens"), (True, kernels.FLASH, "65,536 keys")):
            kernel, reason = choose(torch.bfloat16, heads, decoding=decoding)
            assert kernel is best
            assert trial in reason
    given = {"device": GPU, "dtype": torch.bfloat16, "heads": heads}
    assert asked == [(kernel, given, decoding) for decoding in (False, True) for kernel in TORCHS]
    choose(torch.float16, heads, decoding=False)
    assert len(asked) == 9


@pytest.mark.parametrize("queries", [1, 2])
def test_only_one_token_without_a_graph_is_decoded(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    before(monkeypatch, attention, "choose_kernel", lambda *_, decoding: asked.append(decoding))
    given = make_inputs((4, 2), (queries, 20))
    attend(*given, scale=SCALE)
    given[0].requires_grad_()
    attend(*given, scale=SCALE)
    assert asked == [queries == 1, False]


def test_a_kernel_that_fails_is_passed_over() -> None:
    def measure(kernel: Kernel) -> float:
        if kernel is not kernels.EFFICIENT:
            raise NotImplementedError  # which says nothing
        return 90.0

    kernel, reason = fastest_kernel(TORCHS, measure, "32,768 tokens", "heads")
    assert kernel is kernels.EFFICIENT
    assert "(memory-efficient 90 TFLOP/s" in reason
    assert "no cuDNN" in reason


@pytest.fixture
def flash_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """FlashAttention 3 as a module that a test writes."""
    monkeypatch.setattr(kernels, "FLASH_3_MODULES", ("flash_3_before_it", "flash_3_of_tests"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_3_of_tests", raising=False)
    return tmp_path / "flash_3_of_tests.py"


def test_flash_attention_3_is_offered_where_it_is_installed(flash_3: Path) -> None:
    assert kernels.FLASH_3 not in kernels.list_kernels(GPU)
    flash_3.write_text(FLASH_3)
    assert kernels.FLASH_3 in kernels.list_kernels(GPU)
    given = make_inputs((8, 2), (40, 150))
    output, total = partial_attention(kernels.FLASH_3, *given, causal=True, scale=SCALE)
    expected, nats = oracle(*given)
    assert_right(output, expected)
    assert_right(total, nats)


def test_flash_attention_3_that_does_not_load_is_reported(flash_3: Path) -> None:
    flash_3.write_text("raise ImportError('built for another torch')")
    given = make_inputs((8, 2), (4, 4))

    def measure(kernel: Kernel) -> float:
        if kernel is kernels.FLASH_3:
            partial_attention(kernel, *given, causal=True, scale=SCALE)
        return 1.0

    kernel, reason = fastest_kernel((*TORCHS, kernels.FLASH_3), measure, "32,768 tokens", "heads")
    assert kernel is kernels.CUDNN
    assert reason.endswith("; no FlashAttention 3: built for another torch)")


@pytest.mark.parametrize("groups", [(2, 2), (4, 2)])
def test_a_kernel_with_wrong_numbers_is_noticed(groups: tuple[int, int]) -> None:
    heads, given = Heads(*groups, 16), (torch.device("cpu"), torch.float32)
    kernels.check_kernel(CPU, *given, heads)
    for spoil in (lambda x: x * float("nan"), lambda x: x + 0.1, lambda x: x.roll(1, dims=2)):

        def run(*tensors: torch.Tensor, spoil: Any = spoil, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
            output, total = CPU.run(*tensors, **options)
            return spoil(output), total

        with pytest.raises(RuntimeError, match="wrong numbers in torch"):
            kernels.check_kernel(replace(CPU, run=run), *given, heads)


def test_no_kernel_at_all_is_reported_with_what_each_said() -> None:
    def measure(kernel: Kernel) -> float:
        raise RuntimeError(f"{kernel.name} wants other heads\nand a long explanation")

    with pytest.raises(ModelError) as messages:
        fastest_kernel(TORCHS, measure, "32,768 tokens", f"{Heads(8, 2, 300)} in torch.float32 on a GPU of tests")
    assert messages.value.found.startswith("No attention kernel takes Heads(")
    assert "dim=300" in messages.value.found
    assert "torch.float32 on a GPU of tests" in messages.value.found
    for name in ("cuDNN", "flash", "memory-efficient"):
        assert f"{name}: {name} wants other heads" in messages.value.needed
    assert "explanation" not in messages.value.needed
    assert "--dtype bfloat16" in messages.value.remedy


def test_flops_are_those_of_the_triangle() -> None:
    """Counted pair by pair: a product of queries and keys and one of shares and values, two operations an entry."""
    tokens = 13
    pairs = sum(1 for query in range(tokens) for key in range(tokens) if key <= query)
    assert causal_flops(Heads(6, 2, 16), tokens) == 6 * pairs * 16 * 2 * 2


@pytest.mark.parametrize("dim", [64, 128, 256])
def test_every_installed_kernel_is_measured_forwards_and_the_fastest_taken(dim: int) -> None:
    """FlashAttention 4 among them at all heads; ours refuses those of 256, which says nothing of the others."""
    speeds = {kernels.CUDNN: 600.0, kernels.FLASH: 300.0, kernels.FLASH_4: 705.0, kernels.HOPPER: 693.0}

    def speed(kernel: Kernel, *, heads: Heads, **_: Any) -> float:
        if kernel is kernels.HOPPER and heads.dim == 256:
            raise RuntimeError("heads of 64 or 128 alone")
        return speeds[kernel] + 100 * (kernel is kernels.HOPPER and heads.dim == 64)

    best, reason = kernels.measure_kernels(
        tuple(speeds), GPU, torch.bfloat16, Heads(4, 1, dim), decoding=False, speed=speed
    )
    assert best is (kernels.HOPPER if dim == 64 else kernels.FLASH_4)
    assert "FlashAttention 4 705" in reason
