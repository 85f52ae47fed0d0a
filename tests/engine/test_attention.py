"""Our attention against a brute-force softmax in float64 that knows no kernel, no group and no block."""

from functools import partial

import pytest
import torch
from attention_oracle import SCALE, assert_right, attend_by, every_head, every_length, make_inputs, oracle
from torch import Tensor

from longrope.engine.attention import attend, attend_in_blocks, attend_within
from longrope.engine.kernels import CPU, Kernel, partial_attention
from longrope.engine.merging import merge


def unaligned() -> Kernel:
    """A kernel that takes neither a shifted triangle nor grouped queries, as the memory-efficient one."""

    def run(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        assert query.shape[1] == key.shape[1]
        assert not causal or query.shape[2] == key.shape[2]
        return CPU.run(query, key, value, causal=causal, scale=scale)

    return Kernel("modest", CPU.backend, run, aligns=False, groups=False)


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
def test_attend_with_a_kernel_that_can_do_less(heads: tuple[int, int], lengths: tuple[int, int]) -> None:
    given = make_inputs(heads, lengths)
    assert_right(attend_by(unaligned(), *given, scale=SCALE), oracle(*given)[0])


@pytest.mark.parametrize("lengths", [(37, 37), (5, 37), (1, 37)])
def test_attend_with_a_kernel_that_aligns(lengths: tuple[int, int]) -> None:
    """Such a kernel is called once, with all keys."""
    calls = []

    def run(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        calls.append((query.shape[2], key.shape[2]))
        output, total = oracle(query, key, value, scale=scale, causal=causal)
        return output.float(), total.float()

    kernel = Kernel("able", CPU.backend, run, aligns=True)
    given = make_inputs((4, 2), lengths)
    assert_right(attend_by(kernel, *given, scale=SCALE), oracle(*given)[0])
    assert len(calls) == 1
    assert calls[0][1] == lengths[1]


@pytest.mark.parametrize("aligns", [False, True])
def test_one_query_reads_every_key_once(aligns: bool) -> None:
    """The query heads of a group are queries of one head, so a decoded token repeats and merges nothing."""
    calls = []

    def run(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        calls.append((query.shape, key.shape, causal))
        return CPU.run(query, key, value, causal=causal, scale=scale)

    kernel = Kernel("noted", CPU.backend, run, aligns=aligns, groups=False)
    given = make_inputs((6, 2), (1, 37))
    assert_right(attend_by(kernel, *given, scale=SCALE), oracle(*given)[0])
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


def test_gradients_reach_keys_that_were_repeated() -> None:
    given = [x.requires_grad_() for x in make_inputs((4, 2), (37, 37))]
    found = torch.autograd.grad(attend_by(unaligned(), *given, scale=SCALE).sum(), given)
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
