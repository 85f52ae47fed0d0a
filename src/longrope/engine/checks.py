"""Passes of ours give what transformers' own pass over a few tokens gives, or the model is refused."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from longrope.engine.decoding import prefill, read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses, weighted_loss_with_graph
from longrope.errors import ModelError
from longrope.models import LanguageModel, at_length, rescaled
from longrope.rope import RescaleFactors

TOKENS, PROMPT = 24, 18
SHARE = 0.9  # of positions: a router's choice may flip by rounding
CLOSE_NATS = 1e-3  # in float32 and float64
SPACINGS = (
    4  # of neighbouring numbers of 16 bits at the logits' size; rounding alone moved losses of six models by 0.4 to 1.6
)


def check_passes(model: LanguageModel, factors: RescaleFactors) -> None:
    """Raise ModelError if losses of our passes are not those of transformers' own logits."""
    tokens = _tokens(model)
    with rescaled(model, factors), torch.inference_mode():
        theirs, allowed = _losses(model, tokens)
        _compare(model, token_losses(model, tokens)[0], theirs[0], allowed, "a pass")


def check_gradients(model: LanguageModel, factors: RescaleFactors) -> None:
    """Raise ModelError if the loss of our passes has no slope along the factors, or another value."""
    tokens = _tokens(model)
    weights = np.full((1, TOKENS - 1), 1 / (TOKENS - 1))
    with rescaled(model, factors, learnable=True) as module, torch.enable_grad():
        assert module is not None
        loss = weighted_loss_with_graph(model, tokens, weights)
        (slope,) = torch.autograd.grad(loss, [module.lambdas])
        with torch.no_grad():
            theirs, allowed = _losses(model, tokens)
            _compare(model, loss[None], theirs.mean()[None], allowed, "a pass with gradients")
    if not (slope.isfinite().all() and slope.abs().max() > 0):
        raise ModelError(
            f"The loss of the model type {model.network.config.model_type!r} has no slope along the factors.",
            "Gradient descent follows it.",
            "Search with --method longrope-evolution.",
        )


def check_cache(model: LanguageModel, factors: RescaleFactors) -> None:
    """Raise ModelError if a prompt in the cache and tokens read one by one do not give the losses of one pass."""
    tokens = _tokens(model)
    with rescaled(model, factors), torch.inference_mode():
        cache = KeyValueCache(model, TOKENS)
        rows = [read_prompt(model, tokens[0, :PROMPT].tolist(), cache)]
        rows += [prefill(model, np.asarray([[token]]), cache)[0] for token in tokens[0, PROMPT:-1].tolist()]
        ours = functional.cross_entropy(torch.stack(rows).cpu(), tokens[0, PROMPT:], reduction="none")
        theirs, allowed = _losses(model, tokens)
        _compare(model, ours, theirs[0, PROMPT - 1 :], allowed, "a cache")


def _tokens(model: LanguageModel) -> Tensor:
    """[1, N] the same for every call, with ids that every vocabulary has."""
    rows: int = min(model.network.config.vocab_size, 1000)
    return (torch.arange(1, TOKENS + 1) * 37 % rows)[None]


def _losses(model: LanguageModel, tokens: Tensor) -> tuple[Tensor, float]:
    """[1, N - 1] nats by transformers' own attention and whole logits, and by how much ours may differ from them."""
    with at_length(model, TOKENS):
        logits = model.network(tokens.to(model.device), use_cache=False).logits.float().cpu()[:, :-1]
    wanted = logits.gather(-1, tokens[:, 1:, None])
    largest = torch.maximum(wanted.abs(), logits.amax(-1, keepdim=True).abs()).max().item()
    losses = functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return losses, allowed_nats(model.network.dtype, largest)


def allowed_nats(dtype: torch.dtype, logit: float) -> float:
    """By how much losses of one model may differ from pass to pass: they are differences of logits of this size.

    Numbers of 16 bits have 8 (bfloat16) or 11 (float16) significant bits: those of bfloat16 near 16 are 1/8 apart.
    """
    if dtype in (torch.float32, torch.float64) or not math.isfinite(logit) or logit == 0:
        return CLOSE_NATS
    spacing = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(logit))
    return max(CLOSE_NATS, SPACINGS * spacing)


def _compare(model: LanguageModel, ours: Tensor, theirs: Tensor, allowed: float, what: str) -> None:
    off = (ours.float().cpu() - theirs.float().cpu()).abs().quantile(SHARE).item()
    if not off < allowed:  # so that NaN is refused, too
        raise ModelError(
            f"By {what} of ours the losses of the model type {model.network.config.model_type!r} are off by {off:.2g} "
            "nats.",
            f"They must be those of transformers' own pass, within {allowed:.2g} nats.",
            "Please report this model type.",
        )
