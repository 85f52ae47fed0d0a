"""The loss head: logits and losses of hidden states, chunk by chunk, by the model's own head.

Shape legend: B = batch, n = tokens, H = hidden size, V = vocabulary.
"""

from collections.abc import Iterator, Sequence
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
    size = -(-tokens // count_chunks(model, tokens * rows))
    for first in range(0, tokens, max(1, size)):
        yield slice(first, min(first + size, tokens))


def count_chunks(model: LanguageModel, tokens: int) -> int:
    """In how many parts the logits of so many tokens are made."""
    count = -(-tokens * int(model.network.config.vocab_size) // LOGITS_PER_CHUNK)
    if limit := model.limits.tile_tokens:
        count = max(count, -(-tokens // limit))
    return max(1, count)


def chunk_losses(network: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """[B, n] float32 nats of targets [B, n] after hidden states [B, n, H]."""
    logits = logits_of(network, hidden)
    if logits.is_cuda:
        return import_module("longrope.engine.cross_entropy").fused_losses(logits, targets)  # type: ignore[no-any-return]
    logits = logits.float()
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def trained_outside_layers(network: Any) -> list[nn.Parameter]:
    """The trained weights outside of the layers, the head's among them."""
    inside = {id(weight) for layer in decoder_layers(network) for weight in layer.parameters()}
    return [weight for weight in network.parameters() if weight.requires_grad and id(weight) not in inside]


def weighted_loss(network: Any, hidden: Tensor, targets: Tensor, shares: Tensor, cuts: Sequence[slice]) -> Tensor:
    """The sum of losses [B, n] times their shares, chunk by chunk, whose gradients are worked out at once.

    So the logits of a chunk are made once, and kept for no backward pass.

    Args:
        network: no weight outside of its layers may be divided among processes.
        hidden: [B, n, H].
        targets: [B, n].
        shares: [B, n].
        cuts: the chunks, in order, all of the n tokens.
    """
    weights = trained_outside_layers(network)
    found: Tensor = _GradientsAtOnce.apply(network, hidden, targets, shares, cuts, *weights)  # type: ignore[no-untyped-call]
    return found


class _GradientsAtOnce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        network: Any,
        hidden: Tensor,
        targets: Tensor,
        shares: Tensor,
        cuts: Sequence[slice],
        *weights: nn.Parameter,
    ) -> Tensor:
        total, parts, ctx.sums = torch.zeros((), device=hidden.device), [], [None] * len(weights)
        wanted = any(ctx.needs_input_grad)
        for cut in cuts:
            with torch.set_grad_enabled(wanted):
                own = hidden[:, cut].detach().requires_grad_(wanted)
                loss = (chunk_losses(network, own, targets[:, cut]) * shares[:, cut]).sum()
            total += loss.detach()
            if wanted:
                by_hidden, *found = torch.autograd.grad(loss, (own, *weights), allow_unused=True)
                parts.append(by_hidden)
                ctx.sums = [_added(x, y) for x, y in zip(ctx.sums, found, strict=True)]
        ctx.save_for_backward(*parts)
        return total

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Any, ...]:
        by_hidden = torch.cat(ctx.saved_tensors, dim=1) * given[0]
        of_weights = [None if x is None else x * given[0] for x in ctx.sums]
        return None, by_hidden, None, None, None, *of_weights


def _added(so_far: Tensor | None, more: Tensor | None) -> Tensor | None:
    return more if so_far is None else so_far if more is None else so_far + more


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
