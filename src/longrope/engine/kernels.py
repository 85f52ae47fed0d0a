"""Attention kernels: torch's own, ours for Hopper, FlashAttention 3 and 4, and which is the fastest here, by measuring.

Shape legend: B = batch, H = query heads, G = key/value heads, Sq = queries, Sk = keys, D = head dimension.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend
from torch.nn.attention.bias import CausalVariant

from longrope.engine.merging import beside_sinks
from longrope.errors import ModelError

TRIAL_TOKENS, TRIAL_KEYS = 32768, 65536  # of a pass; of one query that sees many keys
REPEATS = 3  # of a trial
CHECKED_TOKENS, CHECKED_ERROR = 512, 0.05  # some tiles; far above bfloat16's rounding of values near 1
FLASH_3_MODULES = ("flash_attn_interface", "fa3_fwd_interface")  # its own build; PyPI's, without gradients
FLASH_4_MODULE = "flash_attn.cute"  # flash-attn-4; flash-attn 2 has the package without this part
aten = torch.ops.aten  # torch's public attention gives no log-sum-exps, by which partial outputs are merged


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
        masks: `run` also takes a sliding window, a soft cap and sinks; the log-sum-exp then has the sinks in it.
    """

    name: str
    backend: SDPBackend
    run: Callable[..., tuple[Tensor, Tensor]]
    aligns: bool
    groups: bool = True
    copied: int = 0
    masks: bool = False


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
    found: tuple[Tensor, Tensor] = import_module("longrope.engine.hopper").attend_on_hopper(
        query, key, value, causal=causal, scale=scale
    )
    return found


def _run_flash_4(query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = import_module("longrope.engine.flash4").attend(query, key, value, **settings)
    return found


def _run_cpu(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    found = aten._scaled_dot_product_flash_attention_for_cpu(  # noqa: SLF001
        query, key, value, 0.0, causal, scale=scale
    )
    return found[0], found[1]


CUDNN = Kernel("cuDNN", SDPBackend.CUDNN_ATTENTION, _run_cudnn, aligns=False)
FLASH = Kernel("flash", SDPBackend.FLASH_ATTENTION, _run_flash, aligns=True)
FLASH_3 = Kernel("FlashAttention 3", SDPBackend.CUDNN_ATTENTION, _run_flash_3, aligns=True)
FLASH_4 = Kernel("FlashAttention 4", SDPBackend.CUDNN_ATTENTION, _run_flash_4, aligns=True, masks=True)
HOPPER = Kernel("longrope", SDPBackend.CUDNN_ATTENTION, _run_hopper, aligns=True, copied=2)
EFFICIENT = Kernel("memory-efficient", SDPBackend.EFFICIENT_ATTENTION, _run_efficient, aligns=True, groups=False)
CPU = Kernel("torch's CPU flash", SDPBackend.FLASH_ATTENTION, _run_cpu, aligns=False)


def window_attention(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int, causal: bool = True
) -> tuple[Tensor, Tensor]:
    """Causal attention in a sliding window by torch's flash kernel: output and log-sum-exp, as a kernel's."""
    found = aten._flash_attention_forward(  # noqa: SLF001
        *(x.transpose(1, 2) for x in (query, key, value)),
        cum_seq_q=None,
        cum_seq_k=None,
        max_q=query.shape[2],
        max_k=key.shape[2],
        dropout_p=0.0,
        is_causal=causal,
        return_debug_mask=False,
        scale=scale,
        window_size_left=window - 1,
        window_size_right=0,
    )
    return found[0].transpose(1, 2), found[1]


def _run_windows(
    query: Tensor, key: Tensor, value: Tensor, *, sinks: Tensor | None = None, **settings: Any
) -> tuple[Tensor, Tensor]:
    output, lse = window_attention(query, key, value, **settings)
    if sinks is None:
        return output, lse
    return beside_sinks(output, lse, sinks), torch.logaddexp(lse, sinks[:, None].to(lse))


FLASH_WINDOWS = Kernel("flash in windows", SDPBackend.FLASH_ATTENTION, _run_windows, aligns=True, masks=True)


@cache
def takes_windows(device: torch.device, dtype: torch.dtype, heads: "Heads") -> bool:
    """Whether ``window_attention`` takes a shape and gives the right numbers."""
    if device.type != "cuda":
        return False
    queries, keys, window = CHECKED_TOKENS // 2, CHECKED_TOKENS, CHECKED_TOKENS // 4
    query, key, value = random_inputs((queries, keys), device, dtype, heads)
    try:
        output, _ = window_attention(query, key, value, scale=heads.dim**-0.5, window=window)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # another number format, size of heads or GPU
        return False
    distance = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    seen, exact = (distance >= 0) & (distance < window), (query.double(), key.double(), value.double())
    expected = functional.scaled_dot_product_attention(*exact, attn_mask=seen, enable_gqa=heads.queries != heads.keys)
    return bool((output.double() - expected).abs().max() < CHECKED_ERROR)


@dataclass(frozen=True)
class Heads:
    """What a kernel is chosen for: query heads, key/value heads and head dimension."""

    queries: int
    keys: int
    dim: int


def list_kernels(device: torch.device) -> tuple[Kernel, ...]:
    """The kernels that may serve on a device: torch's own, ours for Hopper, FlashAttention 3 and 4 if installed."""
    if device.type != "cuda":
        return (CPU,)
    capability = torch.cuda.get_device_capability(device) if torch.cuda.is_available() else (0, 0)
    others = {
        HOPPER: capability == (9, 0),
        FLASH_3: any(find_spec(name) for name in FLASH_3_MODULES),
        FLASH_4: capability >= (9, 0) and _is_installed(FLASH_4_MODULE),
    }
    return (CUDNN, FLASH, EFFICIENT, *(kernel for kernel, there in others.items() if there))


def _is_installed(module: str) -> bool:
    """Whether a module of a package is there, of which other modules may be there without it or may not load."""
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


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
    return measure_kernels(list_kernels(device), device, dtype, heads, decoding=decoding)


@cache
def measure_kernels(
    candidates: tuple[Kernel, ...],
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    *,
    decoding: bool,
    speed: Callable[..., float] | None = None,
) -> tuple[Kernel, str]:
    """As ``choose_kernel``, among these kernels; ``speed`` is ``checked_speed`` or another function like it."""
    measure = partial(speed or checked_speed, device=device, dtype=dtype, heads=heads, decoding=decoding)
    trial = f"one query and {TRIAL_KEYS:,} keys" if decoding else f"{TRIAL_TOKENS:,} tokens"
    return fastest_kernel(candidates, measure, trial, f"{heads} in {dtype} on {_name(device)}")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if torch.cuda.is_available() else str(device)


def fastest_kernel(
    candidates: Sequence[Kernel], measure: Callable[[Kernel], float], trial: str, shape: str
) -> tuple[Kernel, str]:
    """Return the fastest of the kernels that work, and the reason.

    Args:
        candidates: in this order.
        measure: its TFLOP/s; raises RuntimeError, NotImplementedError or ImportError where the kernel does not work.
        trial: what is measured, for the reason.
        shape: what they are tried on, for the error.

    Raises:
        ModelError: no kernel takes the shape.
    """
    speeds: dict[Kernel, float] = {}
    failures = []
    for kernel in candidates:
        try:
            speeds[kernel] = measure(kernel)
        except torch.OutOfMemoryError:
            raise  # it says nothing of the kernel
        except (RuntimeError, NotImplementedError, ImportError) as error:
            said, _, _ = str(error).partition("\n")
            failures.append(f"{kernel.name}: {said}")
    if not speeds:
        raise ModelError(
            f"No attention kernel takes {shape}.",
            f"Tried {'; '.join(failures)}.",
            "Load the model with --dtype bfloat16.",
        )
    best = max(speeds, key=lambda kernel: speeds[kernel])
    measured = ", ".join(f"{kernel.name} {speed:.0f}" for kernel, speed in speeds.items())
    failed = "".join(f"; no {failure}" for failure in failures)
    return best, f"{best.name} attention ({measured} TFLOP/s on {trial} here{failed})"


def check_kernel(kernel: Kernel, device: torch.device, dtype: torch.dtype, heads: Heads) -> None:
    """Raise RuntimeError unless a kernel gives the right numbers; cuDNN takes float32 and returns NaN."""
    given = random_inputs((CHECKED_TOKENS, CHECKED_TOKENS), device, dtype, heads)
    output, _ = partial_attention(kernel, *given, causal=True, scale=heads.dim**-0.5)
    query, key, value = (x.double() for x in given)
    shared = heads.queries != heads.keys
    expected = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shared)
    if not (output.double() - expected).abs().max() < CHECKED_ERROR:  # NaN, too
        raise RuntimeError(f"gives wrong numbers in {dtype}")


def random_inputs(lengths: tuple[int, int], device: torch.device, dtype: torch.dtype, heads: Heads) -> list[Tensor]:
    """A query, a key and a value of a trial: so many queries, and so many keys."""
    sizes = ((heads.queries, lengths[0]), (heads.keys, lengths[1]), (heads.keys, lengths[1]))
    return [torch.randn((1, count, length, heads.dim), device=device, dtype=dtype) for count, length in sizes]


def checked_speed(kernel: Kernel, *, device: torch.device, dtype: torch.dtype, heads: Heads, decoding: bool) -> float:
    """TFLOP/s of a causal pass, or of one token's queries on many keys (raises RuntimeError for wrong numbers)."""
    check_kernel(kernel, device, dtype, heads)
    lengths = (1, TRIAL_KEYS) if decoding else (TRIAL_TOKENS, TRIAL_TOKENS)
    given = random_inputs(lengths, device, dtype, heads)
    run = attend_one if decoding else partial(partial_attention, causal=True)
    flops = 4.0 * heads.queries * heads.dim * TRIAL_KEYS if decoding else causal_flops(heads, TRIAL_TOKENS)
    run(kernel, *given, scale=heads.dim**-0.5)
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(REPEATS):
        run(kernel, *given, scale=heads.dim**-0.5)
    torch.cuda.synchronize(device)
    return REPEATS * flops / (time.perf_counter() - began) / 1e12


def causal_flops(heads: Heads, tokens: int) -> float:
    """Floating-point operations of causal attention forward over one sequence: two products over half of the square."""
    return 2.0 * heads.queries * heads.dim * tokens * (tokens + 1)


def partial_attention(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over a part of the keys: output [B, H, Sq, D] and log-sum-exp [B, H, Sq] in nats."""
    if not kernel.groups and key.shape[1] != query.shape[1]:
        key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value))
    return kernel.run(query, key, value, causal=causal, scale=scale)


def attend_one(kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> tuple[Tensor, Tensor]:
    """One query sees every key, so the query heads of a group serve as its queries and no key is read twice."""
    grouped = query.view(query.shape[0], key.shape[1], -1, query.shape[3])
    output, lse = partial_attention(kernel, grouped, key, value, causal=False, scale=scale)
    return output.reshape(query.shape), lse.reshape(query.shape[:3])
