"""The pass over a long text: losses per token without ever holding the logits of the whole sequence.

Shape legend: B = batch, N = tokens of a window, H = hidden size, V = vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeModelOutputWithPast

from longrope.models import LanguageModel

Tokens = NDArray[np.integer[Any]] | Tensor
LOGITS_PER_CHUNK = 2**28  # 1 GiB of float32
HOPPER = 9  # compute capability


def token_losses(model: LanguageModel, tokens: Tokens) -> Tensor:
    """Next-token losses of whole windows, without gradients.

    Args:
        model: run as it is at the moment (see ``models.rescaled``).
        tokens: [B, N] token ids.

    Returns:
        [B, N - 1] float32 nats on the CPU; entry n is the loss of token n + 1 given all before it.
    """
    with torch.inference_mode():
        hidden, ids = _hidden_states(model, tokens)
        targets = ids[:, 1:]
        losses = [_chunk_losses(model.network, hidden[:, at], targets[:, at]) for at in _chunks(model, targets)]
        return torch.cat(losses, dim=1).cpu()


def greedy_answers(model: LanguageModel, tokens: Tokens, answer_tokens: int) -> Tensor:
    """Whether greedy decoding would give the last ``answer_tokens`` tokens of each sequence, by teacher forcing.

    An answer is the greedy one exactly when each of its tokens is the likeliest after all before it.

    Args:
        model: run as it is at the moment.
        tokens: [B, N] prompts, each ending in its expected answer.
        answer_tokens: length of the answers.

    Returns:
        [B] booleans on the CPU.
    """
    with torch.inference_mode():
        hidden, ids = _hidden_states(model, tokens)
        likeliest = _logits(model.network, hidden[:, -answer_tokens - 1 : -1]).argmax(-1)
        return (likeliest == ids[:, -answer_tokens:]).all(-1).cpu()


def weighted_loss_with_graph(
    model: LanguageModel,
    tokens: Tokens,
    weights: NDArray[np.float64],
    *,
    recompute: bool = True,
) -> Tensor:
    """Weighted sum of next-token losses in nats, a scalar to call ``backward`` on.

    Args:
        model: run as it is at the moment.
        tokens: [B, N] token ids.
        weights: [B, N - 1] weight of each token's loss; what comes before the first nonzero column is not scored.
        recompute: checkpoint every layer and every chunk of logits, so that memory holds one hidden state per layer;
            otherwise all activations are kept, which saves the second pass forward.
    """
    first = int(np.flatnonzero(weights.any(axis=0))[0])
    score = partial(checkpoint, _chunk_losses, use_reentrant=False) if recompute else _chunk_losses
    with _checkpointed_layers(model.network) if recompute else nullcontext():
        hidden, ids = _hidden_states(model, tokens)
        hidden, targets = hidden[:, first:-1], ids[:, first + 1 :]
        shares = torch.as_tensor(weights[:, first:], dtype=torch.float32).to(ids.device)
        total = torch.zeros((), device=ids.device)
        for at in _chunks(model, targets):
            losses = score(model.network, hidden[:, at], targets[:, at])
            total = total + (losses * shares[:, at]).sum()
    return total


def _hidden_states(model: LanguageModel, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """[B, N, H] output of the decoder, with no cache and no mask, and the token ids [B, N] on its device."""
    ids = torch.as_tensor(tokens, dtype=torch.long).to(model.device)
    with _fastest_attention(model.device):
        output = model.network.base_model(input_ids=ids, use_cache=False)
    return output.last_hidden_state, ids


def prefers_cudnn(device: torch.device) -> tuple[bool, str]:
    """Whether to put cuDNN's attention kernel first on this device, and the reason."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= HOPPER:
        return True, "cuDNN attention first, the faster kernel on Hopper and later"
    return False, "torch's default attention kernel"


def _fastest_attention(device: torch.device) -> Any:
    if not prefers_cudnn(device)[0]:
        return nullcontext()
    order = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    return sdpa_kernel(order, set_priority=True)


def _chunks(model: LanguageModel, targets: Tensor) -> Iterator[slice]:
    size = max(1, LOGITS_PER_CHUNK // (model.network.config.vocab_size * targets.shape[0]))
    for first in range(0, targets.shape[1], size):
        yield slice(first, min(first + size, targets.shape[1]))


def _chunk_losses(network: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = _logits(network, hidden).float()
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


class _Finished(nn.Module):
    """Stands in for a decoder whose output is already known; other questions go to the decoder itself."""

    def __init__(self, decoder: nn.Module, hidden: Tensor) -> None:
        super().__init__()
        self.decoder = (decoder,)  # in a tuple, so that it is no submodule
        self.output = MoeModelOutputWithPast(last_hidden_state=hidden)

    def forward(self, *_: Any, **__: Any) -> MoeModelOutputWithPast:
        return self.output

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["decoder"][0], name)


def _logits(network: Any, hidden: Tensor) -> Tensor:
    """[B, n, V] logits of hidden states [B, n, H] by the family's own head, soft caps and scales included."""
    name = network.base_model_prefix
    decoder = getattr(network, name)
    setattr(network, name, _Finished(decoder, hidden))
    try:
        return network(input_ids=None, use_cache=False).logits  # type: ignore[no-any-return]
    finally:
        setattr(network, name, decoder)


@contextmanager
def _checkpointed_layers(network: Any) -> Iterator[None]:
    """Recompute every decoder layer in the backward pass, in eval mode (so without dropout), for this block alone."""
    layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            del layer.forward
            if forward:
                layer.forward = forward
