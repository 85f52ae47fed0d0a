"""The loss head: logits and losses of hidden states, chunk by chunk, by the model's own head.

Shape legend: B = batch, n = tokens, H = hidden size, V = vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import MoeModelOutputWithPast

from longrope.engine.kv_cache import decoder_layers, decoder_of
from longrope.models import LanguageModel

LOGITS_PER_CHUNK = 2**28  # 1 GiB of float32


def logit_chunks(model: LanguageModel, targets: Tensor) -> Iterator[slice]:
    """Parts of about one size, whose logits are held at once: no more than those of a tile if memory is short."""
    rows, tokens = targets.shape
    count = -(-tokens * rows * model.network.config.vocab_size // LOGITS_PER_CHUNK)
    if limit := model.limits.tile_tokens:
        count = max(count, -(-tokens * rows // limit))
    size = -(-tokens // max(1, count))
    for first in range(0, tokens, max(1, size)):
        yield slice(first, min(first + size, tokens))


def chunk_losses(network: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """[B, n] float32 nats of targets [B, n] after hidden states [B, n, H]."""
    logits = logits_of(network, hidden)
    if logits.is_cuda and not logits.requires_grad:
        return import_module("longrope.engine.cross_entropy").fused_losses(logits, targets)  # type: ignore[no-any-return]
    logits = logits.float()
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def is_frozen(network: Any) -> bool:
    """Whether no weight outside of the layers is trained, the head's among them."""
    inside = {id(weight) for layer in decoder_layers(network) for weight in layer.parameters()}
    return not any(weight.requires_grad for weight in network.parameters() if id(weight) not in inside)


def weighted_loss_of_frozen(network: Any, hidden: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
    """The sum of losses [B, n] times their shares, whose gradient is worked out at once, while the logits are there.

    For hidden states [B, n, H] alone: the head must be frozen. Its logits are made once, and kept for no backward pass.
    """
    found: Tensor = _GradientAtOnce.apply(network, hidden, targets, shares)  # type: ignore[no-untyped-call]
    return found


class _GradientAtOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: Any, hidden: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        with torch.enable_grad():
            own = hidden.detach().requires_grad_()
            loss = (chunk_losses(network, own, targets) * shares).sum()
        ctx.save_for_backward(*torch.autograd.grad(loss, own))
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[None, Tensor, None, None]:
        return None, ctx.saved_tensors[0] * given[0], None, None


def logits_of(network: Any, hidden: Tensor) -> Tensor:
    """[B, n, V] logits of hidden states [B, n, H] by the family's own head, soft caps and scales included."""
    decoder = decoder_of(network)
    name = next(name for name, child in network.named_children() if child is decoder)
    setattr(network, name, _Finished(decoder, hidden))
    try:
        return network(inputs_embeds=hidden, use_cache=False).logits  # type: ignore[no-any-return]
    finally:
        setattr(network, name, decoder)


@dataclass
class _Known(MoeModelOutputWithPast):
    """A decoder's output of which the hidden states alone are known; a family asks it for more than its class has."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Finished(nn.Module):
    """Stands in for a decoder whose output is already known; other questions go to the decoder itself."""

    def __init__(self, decoder: nn.Module, hidden: Tensor) -> None:
        super().__init__()
        self.decoder = (decoder,)  # in a tuple, so that it is no submodule
        self.output = _Known(last_hidden_state=hidden)

    def forward(self, *_: Any, **__: Any) -> MoeModelOutputWithPast:
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["decoder"][0], name)
