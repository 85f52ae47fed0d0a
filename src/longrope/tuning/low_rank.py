"""Matrices with low-rank adapters as one operation, forwards and backwards.

peft multiplies by a matrix and by its adapter apart, casts the input to the adapter's float32 and back, scales, and
adds: each of these makes another tensor of the size of the input or output. Here the adapter adds to the product in
place, in the number format of the pass.

Shape legend: T = tokens, I = input size, O = output size, R = rank.
Source: arXiv 2106.09685, section 4.1.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

ADAPTER = "default"  # peft's name for the only one


def fuse_adapters(network: Any) -> int:
    """Have the adapted matrices of a network that peft has wrapped work so; return how many do.

    Those that have more than a plain adapter of a plain matrix go on as peft has them.
    """
    fused = [module for module in network.modules() if _is_plain(module)]
    for module in fused:
        module.__dict__["forward"] = partial(_forward, module)
    return len(fused)


def _is_plain(module: Any) -> bool:
    """Whether a module is peft's own linear layer with one adapter without dropout, bias or variant."""
    if type(module).__name__ != "Linear" or not hasattr(module, "lora_A"):
        return False
    base = module.base_layer
    return (
        type(base) is nn.Linear
        and not base.weight.requires_grad
        and list(module.lora_A) == [ADAPTER]
        and isinstance(module.lora_dropout[ADAPTER], nn.Identity)
        and module.lora_B[ADAPTER].bias is None
        and not module.lora_variant
    )


def _forward(module: Any, given: Tensor) -> Tensor:
    """What the wrapped layer makes of [..., I]: [..., O]."""
    base, kind = module.base_layer, given.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else given.dtype
    pair = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    return adapted_linear(given.to(dtype), base.weight, base.bias, *pair, module.scaling[ADAPTER])


def adapted_linear(
    given: Tensor, weight: Tensor, bias: Tensor | None, first: Tensor, second: Tensor, scale: float
) -> Tensor:
    """given @ (weight + scale * second @ first).T + bias, in the number format of ``given``.

    Args:
        given: [..., I].
        weight: [O, I], without gradients, as the bias.
        bias: [O].
        first: [R, I], the adapter's first matrix.
        second: [O, R], its second one.
        scale: of the adapter.
    """
    output: Tensor = _AdaptedLinear.apply(  # type: ignore[no-untyped-call]
        given.flatten(0, -2), weight, bias, first, second, scale
    )
    shaped: Tensor = output.unflatten(0, given.shape[:-1])
    return shaped


class _AdaptedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, given: Tensor, weight: Tensor, bias: Tensor | None, first: Tensor, second: Tensor, scale: float
    ) -> Tensor:
        dtype = given.dtype
        narrow = given @ first.to(dtype).T  # [T, R]
        output = functional.linear(given, weight.to(dtype), None if bias is None else bias.to(dtype))
        ctx.save_for_backward(given, narrow, weight, first, second)
        ctx.scale = scale
        return output.addmm_(narrow, second.to(dtype).T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        given, narrow, weight, first, second = ctx.saved_tensors
        (toward,) = gradients  # [T, O]
        dtype = given.dtype
        inside = (toward @ second.to(dtype)).mul_(ctx.scale)  # [T, R]
        of_first = (inside.T @ given).to(first.dtype)
        of_second = (toward.T @ narrow).to(second.dtype).mul_(ctx.scale)
        of_given = None
        if ctx.needs_input_grad[0]:
            of_given = (toward @ weight.to(dtype)).addmm_(inside, first.to(dtype))
        return of_given, None, None, of_first, of_second, None
