"""Which kernel has the fastest gradients, or takes windows, soft caps and sinks the fastest, by measuring.

A trial takes no graph: it may run within a pass whose graph is kept. Before its speed counts, a kernel's numbers are
compared with an explicit product in float64.

Shape legend: B = batch, H = query heads, G = key/value heads, Sq = queries, Sk = keys, D = head dimension.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from longrope.engine.backward import KernelPair, attend_aligned, backward_aligned, given_masks
from longrope.engine.kernels import (
    CHECKED_ERROR,
    CHECKED_TOKENS,
    CPU,
    CUDNN,
    EFFICIENT,
    FLASH,
    FLASH_4,
    FLASH_WINDOWS,
    TRIAL_TOKENS,
    Heads,
    Kernel,
    fastest_kernel,
    list_kernels,
    random_inputs,
)
from longrope.errors import ModelError

FORWARD, BACKWARD, BOTH = "forward", "backward", "both"


@cache
def choose_for_gradients(
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    *,
    whole: bool,
    listed: tuple[Kernel, ...] | None = None,
    speed: Callable[..., float] | None = None,
) -> tuple[KernelPair | None, str]:
    """Return the fastest kernel forwards and the one with the fastest backward pass, each measured once a process.

    Args:
        device: where it is to run.
        dtype: of queries, keys and values.
        heads: their numbers and size.
        whole: there are as many queries as keys.
        listed: the kernels to choose among; by default those of the device.
        speed: measures one of them; ``measure`` by default.

    Returns:
        The two kernels and the reason; None where torch's public attention is to be taken.
    """
    listed, speed = list_kernels(device) if listed is None else listed, speed or measure
    if listed == (CPU,):
        return (KernelPair(CPU, CPU), "torch's CPU flash attention") if whole else (None, "")
    lengths = (TRIAL_TOKENS, TRIAL_TOKENS) if whole else (TRIAL_TOKENS // 2, TRIAL_TOKENS)
    trial, shape = f"{lengths[0]:,} queries and {lengths[1]:,} keys", f"{heads} in {dtype} with gradients"
    measured = partial(speed, device=device, dtype=dtype, heads=heads, lengths=lengths)
    backwards = [kernel for kernel in listed if kernel in (CUDNN, FLASH, FLASH_4)]
    forwards = [kernel for kernel in listed if kernel is not EFFICIENT]
    try:
        last, why = fastest_kernel(backwards, partial(measured, way=BACKWARD), f"{trial} backwards", shape)
        first, reason = fastest_kernel(forwards, partial(measured, way=FORWARD, backward=last), trial, shape)
    except ModelError:
        return None, ""
    return KernelPair(first, last), f"{reason}; gradients by {why}"


@cache
def choose_masked(
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    *,
    window: int | None,
    softcap: float | None,
    sinks: bool,
    gradients: bool,
    by_torch: bool,
) -> Kernel | None:
    """The kernel that takes a window, a soft cap and sinks with right numbers, if there is one.

    Args:
        device: where it is to run.
        dtype: of queries, keys and values.
        heads: their numbers and size.
        window: how many positions a query sees.
        softcap: of the scores.
        sinks: whether there are any.
        gradients: whether they are taken.
        by_torch: torch's flash kernel can do the same. None is returned if it is faster.
    """
    if FLASH_4 not in list_kernels(device):
        return None
    logits = torch.linspace(-1, 1, heads.queries, device=device) if sinks else None
    masks = given_masks(window, softcap, logits)
    lengths = (TRIAL_TOKENS, TRIAL_TOKENS)
    try:
        best, _ = fastest_kernel(
            [FLASH_4, *([FLASH_WINDOWS] if by_torch else [])],
            lambda kernel: measure(kernel, device, dtype, heads, lengths, way=BOTH if gradients else FORWARD, **masks),
            "windows, soft caps or sinks",
            f"{heads} in {dtype}",
        )
    except ModelError:
        return None
    return best if best is FLASH_4 else None


def measure(
    kernel: Kernel,
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    lengths: tuple[int, int],
    *,
    way: str = BOTH,
    backward: Kernel | None = None,
    repeats: int = 3,
    **masks: Any,
) -> float:
    """TFLOP/s of so many queries at the end of so many keys, after a look at the numbers of a short trial.

    Those of a whole triangle are counted in windows, too; a backward pass counts two and a half forward ones.

    Args:
        kernel: to be measured.
        device: where it is to run.
        dtype: of queries, keys and values.
        heads: their numbers and size.
        lengths: of queries and keys.
        way: FORWARD, BACKWARD, or BOTH one after the other.
        backward: another kernel, whose gradients after this kernel's output are looked at, too.
        repeats: that are measured.
        masks: a window, a soft cap and sinks.

    Raises:
        RuntimeError: the numbers are wrong, or the kernel fails.
    """
    looked_at = backward or (kernel if way != FORWARD else None)
    check_gradients(kernel, device, dtype, heads, whole=lengths[0] == lengths[1], backward=looked_at, **masks)
    query, key, value = random_inputs(lengths, device, dtype, heads)
    scale = heads.dim**-0.5
    forward = partial(attend_aligned, kernel, query, key, value, scale, **masks)

    def gradients(output: Tensor, lse: Tensor) -> Any:
        return backward_aligned(kernel, query, (query, key, value), output, lse, scale, **masks)

    works: dict[str, Callable[[], Any]] = {FORWARD: forward, BOTH: lambda: gradients(*forward())}
    if way == BACKWARD:
        works[way] = partial(gradients, *forward())
    seconds = _time(works[way], device, repeats)
    pairs = lengths[0] * (lengths[1] - lengths[0]) + lengths[0] * (lengths[0] + 1) / 2
    return {FORWARD: 1.0, BACKWARD: 2.5, BOTH: 3.5}[way] * 4.0 * heads.queries * heads.dim * pairs / seconds / 1e12


def _time(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Seconds of a run; a first one does not count."""
    work()
    _wait(device)
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    _wait(device)
    return (time.perf_counter() - began) / repeats


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_gradients(
    kernel: Kernel,
    device: torch.device,
    dtype: torch.dtype,
    heads: Heads,
    *,
    whole: bool,
    backward: Kernel | None = None,
    **masks: Any,
) -> None:
    """Raise RuntimeError unless a short trial gives what an explicit product does in float64.

    Its output, and gradients by ``backward``.
    """
    lengths = (CHECKED_TOKENS if whole else CHECKED_TOKENS // 2, CHECKED_TOKENS)
    query, key, value = random_inputs(lengths, device, dtype, heads)
    toward, scale = torch.randn_like(query), heads.dim**-0.5
    output, lse = attend_aligned(kernel, query, key, value, scale, **masks)
    found = [output]
    if backward is not None:
        found += backward_aligned(backward, toward, (query, key, value), output, lse, scale, **masks)
    expected = explicit_attention(toward, query, key, value, scale=scale, **masks)
    for at, (ours, plain) in enumerate(zip(found, expected, strict=False)):
        allowed = CHECKED_ERROR * (plain.abs().max() if at else 1.0)  # gradients have any size
        if not (ours.double() - plain).abs().max() < allowed:  # NaN, too
            raise RuntimeError(f"gives wrong numbers in {dtype}")


def explicit_attention(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> list[Tensor]:
    """Causal attention and its gradients from all scores, in float64 and without a graph.

    Args:
        gradient: [B, H, Sq, D] of the output.
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D].
        scale: of the scores.
        window: how many positions a query sees.
        softcap: of the scores.
        sinks: [H] logits.

    Returns:
        The output and the gradients of query, key, value and, if they are given, sinks.
    """
    groups = query.shape[1] // key.shape[1]
    gradient, query = gradient.double(), query.double()
    key, value = (x.double().repeat_interleave(groups, dim=1) for x in (key, value))
    own = torch.arange(key.shape[2] - query.shape[2], key.shape[2], device=key.device)[:, None]
    distance = own - torch.arange(key.shape[2], device=key.device)
    bent = query @ key.mT * scale
    scores = bent if softcap is None else softcap * torch.tanh(bent / softcap)
    seen = (distance >= 0) & (distance < (window or key.shape[2]))
    logits = -torch.inf * torch.ones(query.shape[1], device=key.device) if sinks is None else sinks
    logits = logits.double()[:, None, None].expand(*scores.shape[:3], 1)
    shares = torch.cat((scores.masked_fill(~seen, -torch.inf), logits), dim=3).softmax(-1)
    of_sinks, shares = shares[..., -1:], shares[..., :-1]
    output = shares @ value
    met = (gradient * output).sum(-1, keepdim=True)
    of_scores = shares * (gradient @ value.mT - met)
    of_scores = of_scores if softcap is None else of_scores * (1 - (scores / softcap) ** 2)
    wide = (of_scores.mT @ query * scale, shares.mT @ gradient)
    found = [output, of_scores @ key * scale, *(x.unflatten(1, (-1, groups)).sum(2) for x in wide)]
    return found if sinks is None else [*found, -(of_sinks * met).sum((0, 2, 3))]
