"""Exact causal attention over long sequences without a mask, by the fastest kernel of the device, found by measuring.

Queries are the last positions of the keys: query i of Sq sees the keys up to Sk - Sq + i. Kernels that cannot align the
causal triangle so take the prefix that all queries see and the triangle one after the other; the two outputs are merged
by their log-sum-exps. Documents that are not to see each other are attended to one after the other.

Shape legend: B = batch, H = query heads, G = key/value heads, Sq = queries, Sk = keys, D = head dimension.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import CausalVariant

from longrope.errors import ModelError

Documents = Sequence[Sequence[int]]  # where they begin in each row of a batch: 0, then ascending
SCORES_PER_BLOCK = 2**26  # attention scores that are held at once where no kernel streams them
TRIAL_TOKENS, TRIAL_KEYS = 32768, 65536  # of a pass; of one query that sees many keys
CHECKED_TOKENS, CHECKED_ERROR = 512, 0.05  # some tiles; far above bfloat16's rounding of values near 1
FLASH_3_MODULES = ("flash_attn_interface", "fa3_fwd_interface")  # its own build; PyPI's, without gradients
aten = torch.ops.aten  # log-sum-exps come from its private operations alone
OPERATIONS = (
    aten._scaled_dot_product_cudnn_attention.default,  # noqa: SLF001
    aten._scaled_dot_product_flash_attention.default,  # noqa: SLF001
    aten._scaled_dot_product_efficient_attention.default,  # noqa: SLF001
    aten._efficient_attention_forward.default,  # noqa: SLF001
    aten._scaled_dot_product_flash_attention_for_cpu.default,  # noqa: SLF001
)


@dataclass(frozen=True)
class Kernel:
    """An attention kernel.

    Attributes:
        name: for people.
        backend: which of torch's own is taken first where gradients are needed.
        run: (query, key, value, *, causal, scale) -> output [B, H, Sq, D] and log-sum-exp [B, H, Sq] in nats, float32.
        aligns: its causal triangle ends at the last key when there are more keys than queries.
        groups: takes fewer key/value heads than query heads.
        copied: bytes that it takes for each number of the keys.
    """

    name: str
    backend: SDPBackend
    run: Callable[..., tuple[Tensor, Tensor]]
    aligns: bool
    groups: bool = True
    copied: int = 0


def _run_cudnn(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    found = aten._scaled_dot_product_cudnn_attention(  # noqa: SLF001
        query, key, value, None, True, 0.0, causal, False, scale=scale
    )
    return found[0], found[1].view(query.shape[:3])


def _run_flash(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    found = aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, False, scale=scale)  # noqa: SLF001
    return found[0], found[1]


def _run_efficient(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    found = aten._efficient_attention_forward(  # noqa: SLF001
        *(x.transpose(1, 2) for x in (query, key, value)),
        bias=None,
        cu_seqlens_q=None,
        cu_seqlens_k=None,
        max_seqlen_q=None,
        max_seqlen_k=None,
        dropout_p=0.0,
        custom_mask_type=int(CausalVariant.LOWER_RIGHT) if causal else 0,
        compute_log_sumexp=True,
        scale=scale,
    )
    return found[0].transpose(1, 2), found[1][..., : query.shape[2]]


def _run_flash_3(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    found = _flash_3().flash_attn_func(
        *(x.transpose(1, 2) for x in (query, key, value)),
        softmax_scale=scale,
        causal=causal,
        num_splits=0,  # as many as fill the device when there are few queries
        return_attn_probs=True,  # the log-sum-exps, that is
    )
    return found[0].transpose(1, 2), found[1]


def _flash_3() -> ModuleType:
    return import_module(next(name for name in FLASH_3_MODULES if find_spec(name)))


def _run_hopper(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = import_module("longrope.hopper").attend_on_hopper(
        query, key, value, causal=causal, scale=scale
    )
    return found


def _run_cpu(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    found = aten._scaled_dot_product_flash_attention_for_cpu(  # noqa: SLF001
        query, key, value, 0.0, causal, scale=scale
    )
    return found[0], found[1]


CUDNN = Kernel("cuDNN", SDPBackend.CUDNN_ATTENTION, _run_cudnn, aligns=False)
FLASH = Kernel("flash", SDPBackend.FLASH_ATTENTION, _run_flash, aligns=True)
FLASH_3 = Kernel("FlashAttention 3", SDPBackend.CUDNN_ATTENTION, _run_flash_3, aligns=True)
HOPPER = Kernel("longrope", SDPBackend.CUDNN_ATTENTION, _run_hopper, aligns=True, copied=2)
EFFICIENT = Kernel("memory-efficient", SDPBackend.EFFICIENT_ATTENTION, _run_efficient, aligns=True, groups=False)
CPU = Kernel("torch's CPU flash", SDPBackend.FLASH_ATTENTION, _run_cpu, aligns=False)


@dataclass(frozen=True)
class Heads:
    """What a kernel is chosen for: query heads, key/value heads and head dimension."""

    queries: int
    keys: int
    dim: int


def list_kernels(device: torch.device) -> tuple[Kernel, ...]:
    """The kernels that may serve on a device: torch's own, ours for Hopper, FlashAttention 3 where it is installed."""
    if device.type != "cuda":
        return (CPU,)
    installed = any(find_spec(name) for name in FLASH_3_MODULES)
    return (CUDNN, FLASH, EFFICIENT) + (HOPPER,) * _is_hopper(device) + (FLASH_3,) * installed


def _is_hopper(device: torch.device) -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability(device) == (9, 0)


def choose_kernel(
    device: torch.device, dtype: torch.dtype, heads: Heads, *, decoding: bool = False
) -> tuple[Kernel, str]:
    """Return the fastest kernel for a shape, measured once a process, and the reason.

    Args:
        device: where it is to run.
        dtype: of queries, keys and values.
        heads: their numbers and size.
        decoding: one token's queries meet many keys, and reading those is all the work.

    Raises:
        ModelError: no kernel takes the shape.
    """
    if device.type != "cuda":
        return CPU, "torch's CPU flash attention, the only exact kernel here that streams"
    return _measure_kernels(device, dtype, heads, decoding=decoding)


@cache
def _measure_kernels(device: torch.device, dtype: torch.dtype, heads: Heads, *, decoding: bool) -> tuple[Kernel, str]:
    speeds: dict[Kernel, float] = {}
    failures = []
    for kernel in list_kernels(device):
        try:
            check_kernel(kernel, device, dtype, heads)
            speeds[kernel] = _speed(kernel, device, dtype, heads, decoding=decoding)
        except (RuntimeError, NotImplementedError, ImportError) as error:
            said, _, _ = str(error).partition("\n")
            failures.append(f"{kernel.name}: {said}")
    if not speeds:
        raise ModelError(
            f"No attention kernel on {torch.cuda.get_device_name(device)} takes {heads} in {dtype}.",
            f"Tried {'; '.join(failures)}.",
            "Load the model with --dtype bfloat16.",
        )
    best = max(speeds, key=lambda kernel: speeds[kernel])
    told = ", ".join(f"{kernel.name} {speed:.0f}" for kernel, speed in speeds.items())
    failed = "".join(f"; no {failure}" for failure in failures)
    trial = f"one query and {TRIAL_KEYS:,} keys" if decoding else f"{TRIAL_TOKENS:,} tokens"
    return best, f"{best.name} attention ({told} TFLOP/s on {trial} here{failed})"


def check_kernel(kernel: Kernel, device: torch.device, dtype: torch.dtype, heads: Heads) -> None:
    """Raise RuntimeError unless a kernel gives the right numbers; cuDNN takes float32 and returns NaN."""
    given = _random_inputs((CHECKED_TOKENS, CHECKED_TOKENS), device, dtype, heads)
    output, _ = partial_attention(kernel, *given, causal=True, scale=heads.dim**-0.5)
    query, key, value = (x.double() for x in given)
    shared = heads.queries != heads.keys
    expected = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shared)
    if not (output.double() - expected).abs().max() < CHECKED_ERROR:  # NaN, too
        raise RuntimeError(f"gives wrong numbers in {dtype}")


def _random_inputs(lengths: tuple[int, int], device: torch.device, dtype: torch.dtype, heads: Heads) -> list[Tensor]:
    sizes = ((heads.queries, lengths[0]), (heads.keys, lengths[1]), (heads.keys, lengths[1]))
    return [torch.randn((1, count, length, heads.dim), device=device, dtype=dtype) for count, length in sizes]


def _speed(
    kernel: Kernel, device: torch.device, dtype: torch.dtype, heads: Heads, *, decoding: bool, repeats: int = 3
) -> float:
    """TFLOP/s of a causal pass, or of one token's queries on many keys."""
    lengths = (1, TRIAL_KEYS) if decoding else (TRIAL_TOKENS, TRIAL_TOKENS)
    given = _random_inputs(lengths, device, dtype, heads)
    run = _attend_one if decoding else partial(partial_attention, causal=True)
    flops = 4.0 * heads.queries * heads.dim * TRIAL_KEYS if decoding else causal_flops(heads, TRIAL_TOKENS)
    run(kernel, *given, scale=heads.dim**-0.5)
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        run(kernel, *given, scale=heads.dim**-0.5)
    torch.cuda.synchronize(device)
    return repeats * flops / (time.perf_counter() - began) / 1e12


def causal_flops(heads: Heads, tokens: int) -> float:
    """Floating-point operations of causal attention forward over one sequence: two products over half of the square."""
    return 2.0 * heads.queries * heads.dim * tokens * (tokens + 1)


def attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    """Causal attention [B, H, Sq, D] of queries that stand at the last positions of the keys [B, G, Sk, D]."""
    heads = Heads(query.shape[1], key.shape[1], query.shape[3])
    graph = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    decoding = query.shape[2] == 1 and not graph
    kernel, _ = choose_kernel(query.device, query.dtype, heads, decoding=decoding)
    if graph:
        return _attend_with_graph(kernel, query, key, value, scale)
    if decoding:
        return _attend_one(kernel, query, key, value, scale=scale)
    prefix = key.shape[2] - query.shape[2]
    if not prefix or kernel.aligns:
        return partial_attention(kernel, query, key, value, causal=True, scale=scale)[0]
    before = partial_attention(kernel, query, key[:, :, :prefix], value[:, :, :prefix], causal=False, scale=scale)
    own = partial_attention(kernel, query, key[:, :, prefix:], value[:, :, prefix:], causal=True, scale=scale)
    return merge(before, own)


def partial_attention(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over a part of the keys: output [B, H, Sq, D] and log-sum-exp [B, H, Sq] in nats."""
    if not kernel.groups and key.shape[1] != query.shape[1]:
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
    return kernel.run(query, key, value, causal=causal, scale=scale)


def merge(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over two disjoint sets of keys from the outputs and log-sum-exps over each."""
    share = torch.sigmoid(one[1] - other[1])[..., None]  # in float32: a lone key among many has a tiny share
    return torch.lerp(other[0].float(), one[0].float(), share).to(one[0].dtype)


def _attend_one(kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    """One query sees every key, so the query heads of a group serve as its queries and no key is read twice."""
    grouped = query.view(query.shape[0], key.shape[1], -1, query.shape[3])
    return partial_attention(kernel, grouped, key, value, causal=False, scale=scale)[0].reshape(query.shape)


def _attend_with_graph(kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    if not kernel.groups:
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
    attention = partial(
        functional.scaled_dot_product_attention,
        query,
        key,
        value,
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    order = [kernel.backend, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]  # none holds all scores
    if query.shape[2] == key.shape[2]:
        with sdpa_kernel(order, set_priority=True) if query.is_cuda else nullcontext():
            return attention(is_causal=True)
    if query.is_cuda:
        aligned = EFFICIENT if kernel is EFFICIENT else FLASH  # these align, and have gradients
        return aligned.run(query, key, value, causal=True, scale=scale)[0]
    seen = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
    return attention(attn_mask=seen.tril(key.shape[2] - query.shape[2]))


def attend_within(
    documents: Documents, attention: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Attention [B, H, Sq, D] of queries to their own documents alone.

    Args:
        documents: of each of the B rows; the last one of a row goes on to the last key.
        attention: (query, key, value) -> output, causal, for queries at the last positions of the keys.
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D].
    """
    end = key.shape[2]
    begin = end - query.shape[2]
    rows = []
    for row, starts in enumerate(documents):
        own = slice(row, row + 1)
        met = starts[bisect_right(starts, begin) - 1 : bisect_left(starts, end)]
        parts = [
            attention(query[own, :, max(a, begin) - begin : b - begin], key[own, :, a:b], value[own, :, a:b])
            for a, b in pairwise((*met, end))
        ]
        rows.append(torch.cat(parts, dim=2))
    return torch.cat(rows)


def attend_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int | None = None, softcap: float | None = None
) -> Tensor:
    """Causal attention with a sliding window or capped scores, block by block of queries.

    Args:
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D].
        scale: of the scores.
        window: how many positions a query sees, its own included; None for all before it.
        softcap: scores become softcap * tanh(score / softcap).
    """
    sq, sk = query.shape[2], key.shape[2]
    reach = min(window or sk, sk)
    block = max(1, min(sq, reach, SCORES_PER_BLOCK // (query.shape[0] * query.shape[1] * reach)))
    group = query.shape[1] // key.shape[1]
    outputs = []
    for first in range(0, sq, block):
        last = min(first + block, sq)
        end = sk - sq + last
        begin = max(0, end - (last - first) - reach + 1)
        at = torch.arange(sk - sq + first, end, device=query.device)[:, None]
        seen = torch.arange(begin, end, device=query.device)[None]
        mask = (seen <= at) & (seen > at - reach)
        own_key, own_value = (x[:, :, begin:end].repeat_interleave(group, dim=1) for x in (key, value))
        outputs.append(_masked(query[:, :, first:last], own_key, own_value, mask, scale, softcap))
    return torch.cat(outputs, dim=2)


def _masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float, softcap: float | None) -> Tensor:
    if softcap is None:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * scale / softcap)
    shares = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1, dtype=torch.float32)
    return shares.to(value.dtype) @ value
