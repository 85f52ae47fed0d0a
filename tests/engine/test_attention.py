"""Our attention against a brute-force softmax in float64 that knows no kernel, no group and no block.

Run with ``-k cuda`` on a machine with a GPU: its kernels are compared with the same oracle there.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_oracle import SCALE, make_inputs, oracle
from torch import Tensor

from longrope.engine import attention, kernels
from longrope.engine.attention import attend, attend_in_blocks, attend_within, merge
from longrope.engine.kernels import CPU, Heads, Kernel, causal_flops, partial_attention
from longrope.errors import ModelError

HEADS = {"grouped": (4, 2), "one key head": (4, 1), "as many key heads": (3, 3)}
LENGTHS = {
    "whole": (37, 37),
    "tail": (5, 37),
    "half": (18, 36),
    "all but one": (36, 37),
    "one": (1, 37),
    "first": (1, 1),
}
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
every_head = pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
every_length = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")


def assert_right(given: Tensor, expected: Tensor, tolerance: float = 0.0) -> None:
    tolerance = tolerance or TOLERANCE[given.dtype]
    torch.testing.assert_close(given.double().cpu(), expected.cpu(), rtol=tolerance, atol=tolerance)


@pytest.fixture
def unaligned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that takes neither a shifted triangle nor grouped queries, as the memory-efficient one."""

    def run(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        assert query.shape[1] == key.shape[1]
        assert not causal or query.shape[2] == key.shape[2]
        return CPU.run(query, key, value, causal=causal, scale=scale)

    kernel = Kernel("modest", CPU.backend, run, aligns=False, groups=False)
    monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: (kernel, "a test"))


# attend_within


@every_length
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("documents", [((0, 5, 6, 30), (0,)), ((0, 1), (0, 19, 36)), (tuple(range(37)), (0, 32))])
def test_documents_see_themselves_alone(
    documents: tuple[tuple[int, ...], ...], window: int | None, lengths: tuple[int, int]
) -> None:
    """Each row by its own documents, for queries that begin before, in or after one, with a sliding window, too."""
    given = make_inputs((4, 2), lengths)
    starts = [[start for start in row if start < lengths[1]] for row in documents]
    work = partial(attend_in_blocks, scale=SCALE, window=window) if window else partial(attend, scale=SCALE)
    for with_graph in (False, True):
        given[1].requires_grad_(with_graph)
        output = attend_within(starts, work, *given)
        rows = [[x[row : row + 1].detach() for x in given] for row in range(2)]
        expected = [oracle(*row, window=window, starts=tuple(own))[0] for row, own in zip(rows, starts, strict=True)]
        assert_right(output.detach(), torch.cat(expected))


# attend


@every_head
@every_length
def test_attend(heads: tuple[int, int], lengths: tuple[int, int]) -> None:
    """Queries at the last positions see all keys up to their own, by groups of heads."""
    given = make_inputs(heads, lengths)
    output = attend(*given, scale=SCALE)
    assert output.shape == given[0].shape
    assert_right(output, oracle(*given)[0])


@every_head
@every_length
@pytest.mark.usefixtures("unaligned")
def test_attend_with_a_kernel_that_can_do_less(heads: tuple[int, int], lengths: tuple[int, int]) -> None:
    given = make_inputs(heads, lengths)
    assert_right(attend(*given, scale=SCALE), oracle(*given)[0])


@pytest.mark.parametrize("lengths", [(37, 37), (5, 37), (1, 37)])
def test_attend_with_a_kernel_that_aligns(lengths: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a kernel is called once, with all keys."""
    calls = []

    def run(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        calls.append((query.shape[2], key.shape[2]))
        output, total = oracle(query, key, value, scale=scale, causal=causal)
        return output.float(), total.float()

    kernel = Kernel("able", CPU.backend, run, aligns=True)
    monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: (kernel, "a test"))
    given = make_inputs((4, 2), lengths)
    assert_right(attend(*given, scale=SCALE), oracle(*given)[0])
    assert len(calls) == 1
    assert calls[0][1] == lengths[1]


@pytest.mark.parametrize("aligns", [False, True])
def test_one_query_reads_every_key_once(aligns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The query heads of a group are queries of one head, so a decoded token repeats and merges nothing."""
    calls = []

    def run(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        calls.append((query.shape, key.shape, causal))
        return CPU.run(query, key, value, causal=causal, scale=scale)

    kernel = Kernel("noted", CPU.backend, run, aligns=aligns, groups=False)
    monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: (kernel, "a test"))
    given = make_inputs((6, 2), (1, 37))
    assert_right(attend(*given, scale=SCALE), oracle(*given)[0])
    assert calls == [((2, 2, 3, 8), (2, 2, 37, 8), False)]


@every_length
def test_attend_in_bfloat16(lengths: tuple[int, int]) -> None:
    """Right to the rounding of the output, also where two parts are merged."""
    given = make_inputs((4, 2), lengths, dtype=torch.bfloat16)
    output = attend(*given, scale=SCALE)
    assert output.dtype == torch.bfloat16
    assert_right(output, oracle(*given)[0])


def test_attend_takes_the_strides_of_transformers() -> None:
    """Heads that were split off the hidden size and transposed, a tile cut out of more tokens, keys in a buffer."""
    wide, key, value = make_inputs((4, 2), (40, 60))
    query = wide.transpose(1, 2).contiguous().transpose(1, 2)[:, :, 7:20]
    key, value = key[:, :, :33], value[:, :, :33]
    assert not query.is_contiguous()
    for part in (query, query[:, :, -1:]):
        assert_right(attend(part, key, value, scale=SCALE), oracle(part, key, value)[0])


@every_head
@every_length
def test_attend_with_graph(heads: tuple[int, int], lengths: tuple[int, int]) -> None:
    """The output and the gradients of queries, keys and values."""
    given = [x.requires_grad_() for x in make_inputs(heads, lengths)]
    output, expected = attend(*given, scale=SCALE), oracle(*given)[0]
    assert_right(output.detach(), expected.detach())
    toward = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    found = torch.autograd.grad(output, given, toward)
    for ours, plain in zip(found, torch.autograd.grad(expected, given, toward.double()), strict=True):
        assert_right(ours, plain.double())


@pytest.mark.usefixtures("unaligned")
def test_gradients_reach_keys_that_were_repeated() -> None:
    given = [x.requires_grad_() for x in make_inputs((4, 2), (37, 37))]
    found = torch.autograd.grad(attend(*given, scale=SCALE).sum(), given)
    for ours, plain in zip(found, torch.autograd.grad(oracle(*given)[0].sum(), given), strict=True):
        assert_right(ours, plain.double())


def test_keys_or_values_alone_ask_for_a_graph() -> None:
    """As when one projection is tuned: their gradients go through the shares of merged parts, too."""
    for at in range(3):
        given = list(make_inputs((4, 2), (6, 12)))
        given[at].requires_grad_()
        toward = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(1))
        (ours,) = torch.autograd.grad(attend(*given, scale=SCALE), given[at], toward)
        (plain,) = torch.autograd.grad(oracle(*given)[0], given[at], toward.double())
        assert_right(ours, plain.double())
        with torch.no_grad():
            assert not attend(*given, scale=SCALE).requires_grad


# Parts and their merging


@every_head
@pytest.mark.parametrize(
    ("lengths", "causal"), [((37, 37), True), ((37, 37), False), ((5, 37), False), ((37, 5), False)]
)
def test_partial_attention(heads: tuple[int, int], lengths: tuple[int, int], causal: bool) -> None:
    """With the log-sum-exp in nats, over more keys than queries and over fewer."""
    given = make_inputs(heads, lengths)
    output, total = partial_attention(CPU, *given, causal=causal, scale=SCALE)
    expected, nats = oracle(*given, causal=causal)
    assert total.shape == given[0].shape[:3]
    assert total.dtype == torch.float32
    assert_right(output, expected)
    assert_right(total, nats)


@pytest.mark.parametrize("cut", [1, 10, 36])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_parts_are_the_whole(cut: int, dtype: torch.dtype) -> None:
    """Two disjoint sets of keys, in either order."""
    query, key, value = make_inputs((4, 2), (9, 37), dtype=dtype)
    ends = [(key[:, :, :cut], value[:, :, :cut]), (key[:, :, cut:], value[:, :, cut:])]
    parts = [partial_attention(CPU, query, *end, causal=False, scale=SCALE) for end in ends]
    expected = oracle(query, key, value, causal=False)[0]
    for one, other in (parts, parts[::-1]):
        assert_right(merge(one, other), expected)


def test_a_small_share_is_not_rounded_away() -> None:
    """In bfloat16, where 0.999 would become 1: one key among many has a share as small."""
    shape = (1, 1, 1, 8)
    nats = torch.tensor([[[0.001]]]).logit()
    parts = [(torch.full(shape, x, dtype=torch.bfloat16), total) for x, total in ((1000.0, nats), (1.0, 0 * nats))]
    for merged in (merge(*parts), merge(*parts[::-1])):
        assert_right(merged, torch.full(shape, 0.001 * 1000 + 0.999).double(), tolerance=4e-3)


@pytest.mark.parametrize("shift", [80.0, -80.0, 3000.0, -3000.0])
def test_merge_of_scores_far_apart(shift: float) -> None:
    """The part whose scores are higher by so many nats is the whole, to the last bit, and nothing overflows."""
    query, key, value = make_inputs((2, 2), (9, 20))
    parts = [
        partial_attention(CPU, query, key[:, :, cut], value[:, :, cut], causal=False, scale=SCALE)
        for cut in (slice(0, 8), slice(8, 20))
    ]
    moved = (parts[0][0], parts[0][1] + shift)
    expected = parts[0][0] if shift > 0 else parts[1][0]
    for merged in (merge(moved, parts[1]), merge(parts[1], moved)):
        assert torch.equal(merged, expected)


@pytest.mark.parametrize("shift", [80.0, -80.0])
def test_merge_keeps_ratios_at_extreme_scores(shift: float) -> None:
    """Both parts far from zero: only the difference of their log-sum-exps counts."""
    query, key, value = make_inputs((2, 2), (9, 20))
    far = torch.cat((query, torch.full_like(query[..., :1], shift / SCALE)), dim=-1)
    ones = torch.ones_like(key[..., :1])
    key, value = torch.cat((key, ones), dim=-1), torch.cat((value, 0 * ones), dim=-1)
    parts = [
        partial_attention(CPU, far, key[:, :, cut], value[:, :, cut], causal=False, scale=SCALE)
        for cut in (slice(0, 8), slice(8, 20))
    ]
    assert all((total - shift).abs().max() < 10 for _, total in parts)
    expected = oracle(far, key, value, causal=False)[0]
    assert_right(merge(*parts), expected, tolerance=2e-4)  # float32 has 1e-5 nats at 80


# Windows and caps, block by block


@pytest.fixture(params=[1, 2 * 4 * 3, 2 * 4 * 37 * 5, 2**26], ids=["one", "few", "five whole", "all"])
def scores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many scores a block may hold."""
    monkeypatch.setattr(attention, "SCORES_PER_BLOCK", request.param)


@every_length
@pytest.mark.parametrize("window", [None, 1, 2, 7, 36, 37, 100])
@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.usefixtures("scores")
def test_attend_in_blocks(lengths: tuple[int, int], window: int | None, softcap: float | None) -> None:
    """Windows shorter and longer than a block and than the keys, whatever a block holds."""
    given = make_inputs((4, 2), lengths)
    output = attend_in_blocks(*given, scale=SCALE, window=window, softcap=softcap)
    assert output.shape == given[0].shape
    assert_right(output, oracle(*given, window=window, softcap=softcap)[0])


def test_caps_and_windows_matter() -> None:
    """So that their absence would be noticed."""
    given = make_inputs((4, 2), (37, 37))
    plain = oracle(*given)[0]
    assert (oracle(*given, window=7)[0] - plain).abs().max() > 0.1
    assert (oracle(*given, window=7)[0] - oracle(*given, window=8)[0]).abs().max() > 0.1
    assert (oracle(*given, softcap=0.5)[0] - plain).abs().max() > 0.1


@pytest.mark.parametrize("softcap", [None, 0.5])
def test_blocks_in_bfloat16(softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES_PER_BLOCK", 300)
    given = make_inputs((4, 2), (37, 37), dtype=torch.bfloat16)
    output = attend_in_blocks(*given, scale=SCALE, window=9, softcap=softcap)
    assert output.dtype == torch.bfloat16
    assert_right(output, oracle(*given, window=9, softcap=softcap)[0])


@every_head
@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("lengths", [(37, 37), (5, 37)])
@pytest.mark.usefixtures("scores")
def test_gradients_of_blocks(heads: tuple[int, int], lengths: tuple[int, int], softcap: float | None) -> None:
    given = [x.requires_grad_() for x in make_inputs(heads, lengths)]
    output = attend_in_blocks(*given, scale=SCALE, window=9, softcap=softcap)
    expected = oracle(*given, window=9, softcap=softcap)[0]
    found = torch.autograd.grad(output.sum(), given)
    for ours, plain in zip(found, torch.autograd.grad(expected.sum(), given), strict=True):
        assert_right(ours, plain.double())


@pytest.mark.parametrize("window", [None, 6])
def test_blocks_hold_no_more_scores_than_asked(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of queries reads the keys of its window alone, and at most twice the scores that may be held."""
    sizes, keys = [], []
    plain = attention.attend_masked

    def note(query: Tensor, key: Tensor, *others: Tensor) -> Tensor:
        sizes.append(query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2])
        keys.append(key.shape[2])
        return plain(query, key, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "attend_masked", note)
    monkeypatch.setattr(attention, "SCORES_PER_BLOCK", 2 * 4 * 100)
    attend_in_blocks(*make_inputs((4, 2), (90, 90)), scale=SCALE, window=window)
    assert len(sizes) > 5
    assert max(sizes) < 2 * 2 * 4 * 100
    if window:
        assert max(keys) < 2 * window


# The choice of a kernel

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


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A GPU that is not there, whose kernels are measured anew."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU of tests")
    monkeypatch.setattr(kernels, "check_kernel", lambda *_: None)
    monkeypatch.setattr(kernels, "FLASH_3_MODULES", ())
    monkeypatch.setattr(kernels, "_is_hopper", lambda _: False)
    kernels._measure_kernels.cache_clear()
    yield torch.device("cuda", 0)
    kernels._measure_kernels.cache_clear()


def test_a_cpu_has_one_kernel() -> None:
    kernel, reason = kernels.choose_kernel(torch.device("cpu"), torch.float32, Heads(4, 2, 8))
    assert kernel is CPU
    assert "CPU" in reason


def test_the_fastest_kernel_is_taken_and_measured_once(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds, asked = {"cuDNN": 400.0, "flash": 500.4, "memory-efficient": 100.0}, []

    def measure(kernel: Kernel, *given: Any, decoding: bool) -> float:
        asked.append((kernel.name, *given, decoding))
        return speeds[kernel.name]

    monkeypatch.setattr(kernels, "_speed", measure)
    heads = Heads(8, 2, 64)
    kernel, reason = kernels.choose_kernel(gpu, torch.bfloat16, heads)
    assert kernel is kernels.FLASH
    assert reason == "flash attention (cuDNN 400, flash 500, memory-efficient 100 TFLOP/s on 32,768 tokens here)"
    assert asked == [(name, gpu, torch.bfloat16, heads, False) for name in speeds]
    assert kernels.choose_kernel(gpu, torch.bfloat16, heads)[0] is kernel
    assert len(asked) == 3
    kernels.choose_kernel(gpu, torch.float16, heads)
    assert len(asked) == 6


def test_one_token_takes_the_kernel_that_is_fastest_for_it(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads a whole window fastest may be forty times slower at reading keys for one query."""

    def measure(kernel: Kernel, _device: object, _dtype: object, _heads: object, *, decoding: bool) -> float:
        return (1.0 if decoding else 400.0) if kernel is kernels.CUDNN else 20.0

    monkeypatch.setattr(kernels, "_speed", measure)
    for decoding, best, trial in ((False, kernels.CUDNN, "32,768 tokens"), (True, kernels.FLASH, "65,536 keys")):
        kernel, reason = kernels.choose_kernel(gpu, torch.bfloat16, Heads(8, 2, 64), decoding=decoding)
        assert kernel is best
        assert trial in reason


@pytest.mark.parametrize("queries", [1, 2])
def test_only_one_token_without_a_graph_is_decoded(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def choose(*_: object, decoding: bool) -> tuple[Kernel, str]:
        asked.append(decoding)
        return CPU, "a test"

    monkeypatch.setattr(attention, "choose_kernel", choose)
    given = make_inputs((4, 2), (queries, 20))
    attend(*given, scale=SCALE)
    given[0].requires_grad_()
    attend(*given, scale=SCALE)
    assert asked == [queries == 1, False]


def test_a_kernel_that_fails_is_passed_over(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(kernel: Kernel, *_: object, **__: object) -> float:
        if kernel is not kernels.EFFICIENT:
            raise NotImplementedError  # which says nothing
        return 90.0

    monkeypatch.setattr(kernels, "_speed", measure)
    kernel, reason = kernels.choose_kernel(gpu, torch.float32, Heads(8, 2, 64))
    assert kernel is kernels.EFFICIENT
    assert "(memory-efficient 90 TFLOP/s" in reason
    assert "no cuDNN" in reason


@pytest.fixture
def flash_3(gpu: torch.device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """FlashAttention 3 as a module that a test writes."""
    monkeypatch.setattr(kernels, "FLASH_3_MODULES", ("flash_3_before_it", "flash_3_of_tests"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "flash_3_of_tests", raising=False)
    return tmp_path / "flash_3_of_tests.py"


def test_flash_attention_3_is_offered_where_it_is_installed(
    flash_3: Path, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kernels.FLASH_3 not in kernels.list_kernels(gpu)
    flash_3.write_text(FLASH_3)
    assert kernels.FLASH_3 in kernels.list_kernels(gpu)
    monkeypatch.setattr(kernels, "_speed", lambda kernel, *_, **__: 500.0 if kernel is kernels.FLASH_3 else 400.0)
    kernel, reason = kernels.choose_kernel(gpu, torch.bfloat16, Heads(8, 2, 64))
    assert kernel is kernels.FLASH_3
    assert reason.startswith("FlashAttention 3 attention (cuDNN 400")
    given = make_inputs((8, 2), (40, 150))
    output, total = partial_attention(kernel, *given, causal=True, scale=SCALE)
    expected, nats = oracle(*given)
    assert_right(output, expected)
    assert_right(total, nats)


def test_flash_attention_3_that_does_not_load_is_reported(
    flash_3: Path, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash_3.write_text("raise ImportError('built for another torch')")
    given = make_inputs((8, 2), (4, 4))

    def try_one(kernel: Kernel, *_: object, **__: object) -> float:
        if kernel is kernels.FLASH_3:
            partial_attention(kernel, *given, causal=True, scale=SCALE)
        return 1.0

    monkeypatch.setattr(kernels, "_speed", try_one)
    kernel, reason = kernels.choose_kernel(gpu, torch.bfloat16, Heads(8, 2, 64))
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


def test_no_kernel_at_all_is_reported_with_what_each_said(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(kernel: Kernel, *_: object, **__: object) -> float:
        raise RuntimeError(f"{kernel.name} wants other heads\nand a long explanation")

    monkeypatch.setattr(kernels, "_speed", measure)
    with pytest.raises(ModelError) as messages:
        kernels.choose_kernel(gpu, torch.float32, Heads(8, 2, 300))
    assert "a GPU of tests" in messages.value.found
    assert "dim=300" in messages.value.found
    assert "torch.float32" in messages.value.found
    for name in ("cuDNN", "flash", "memory-efficient"):
        assert f"{name}: {name} wants other heads" in messages.value.needed
    assert "explanation" not in messages.value.needed
    assert "--dtype bfloat16" in messages.value.remedy


def test_flops_are_those_of_the_triangle() -> None:
    """Counted pair by pair: a product of queries and keys and one of shares and values, two operations an entry."""
    tokens = 13
    pairs = sum(1 for query in range(tokens) for key in range(tokens) if key <= query)
    assert causal_flops(Heads(6, 2, 16), tokens) == 6 * pairs * 16 * 2 * 2


# On a GPU

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
    dtype: torch.dtype,
    name: str,
    shape: tuple[tuple[int, int], int],
    lengths: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Queries at the end of the keys, with whichever kernel is the fastest, with and without a graph."""
    if KERNELS[name] not in kernels_for(dtype):
        pytest.skip(f"{name} takes no {dtype}")
    monkeypatch.setattr(attention, "choose_kernel", lambda *_, **__: (KERNELS[name], "a test"))
    given = make_inputs(shape[0], lengths, dim=shape[1], dtype=dtype, device="cuda")
    with torch.no_grad():
        assert_right(attend(*given, scale=0.1), oracle(*given, scale=0.1)[0])
    for x in given:
        x.requires_grad_()
    output, expected = attend(*given, scale=0.1), oracle(*given, scale=0.1)[0]
    assert_right(output.detach(), expected.detach())
    found = torch.autograd.grad(output.float().sum(), given)
    for ours, plain in zip(found, torch.autograd.grad(expected.sum(), given), strict=True):
        error = (ours.double() - plain.double()).norm() / plain.double().norm()
        assert error < TOLERANCE[dtype], name


@needs_gpu
@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("lengths", [(150, 150), (40, 150), (1, 150)])
def test_cuda_blocks(lengths: tuple[int, int], softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "SCORES_PER_BLOCK", 20_000)
    given = make_inputs((8, 2), lengths, dim=64, dtype=torch.bfloat16, device="cuda")
    output = attend_in_blocks(*given, scale=0.1, window=33, softcap=softcap)
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
