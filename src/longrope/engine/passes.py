"""The pass over a long text: exact losses per token without a mask, a second copy of the text or its whole logits.

The model's own modules do the work, called through transformers' public interfaces, with our attention (``context``).
Each decoder layer takes tiles of tokens in turn and keeps the keys and values of that layer alone, its output takes the
place of its input, and norms, MLPs and the head work on tiles, too. With gradients, layers see the whole text and are
recomputed in the backward pass where their activations do not fit; the outputs of attention, most of the work and
little of the memory, are kept where those fit.

Shape legend: B = batch, N = tokens of a window, n = those of one process, H = hidden size, V = vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from longrope import distributed
from longrope.engine.attention import Documents
from longrope.engine.compiling import many_variants
from longrope.engine.context import ForwardContext, run_decoder
from longrope.engine.held_states import EVERY_STATE, HeldStates, Holding
from longrope.engine.kernels import choose_kernel
from longrope.engine.kv_cache import describe_others, remembers_keys_alone
from longrope.engine.loss import chunk_losses, logit_chunks, logits_of, trained_outside_layers, weighted_loss
from longrope.engine.memory import (
    choose_tile,
    fits_with_activations,
    heads_of,
    layers_that_keep_attention,
    reads_in_tiles,
)
from longrope.engine.parted import check_own_positions
from longrope.engine.recomputing import norms_recomputed, recomputed
from longrope.engine.replaying import ReplayedPass, replayed_pass
from longrope.engine.shrinking import retry_in_less_memory
from longrope.engine.tiling import LayerChange, changed_layers, layer_in_tiles, mlps_in_tiles, norms_in_tiles
from longrope.errors import LongRopeError, ModelError
from longrope.models import LanguageModel, at_length

Tokens = NDArray[np.integer[Any]] | Tensor


def token_losses(
    model: LanguageModel,
    tokens: Tokens,
    at: slice = slice(None),
    *,
    documents: Documents | None = None,
    positions: Tokens | None = None,
) -> Tensor:
    """Next-token losses of whole windows, without gradients.

    Args:
        model: run in its current state (see ``models.rescaled``).
        tokens: [B, N] token ids, without padding.
        at: which of the N - 1 losses; all of them if left out.
        documents: where documents begin in each of the B windows (0, then ascending), which then see no token of
            another one. The loss of a later one's first token has no meaning of its own.
        positions: [B, N] the position of each token; 0, 1, 2 ... if left out.

    Returns:
        [B, N - 1] (or the part asked for) float32 nats on the CPU; entry n is the loss of token n + 1 given all before.

    Raises:
        LongRopeError: the documents do not fit the windows.
        ModelError: documents are to be kept apart in a model whose layers remember by other means than attention.
    """

    def work() -> Tensor:
        done = _run(model, tokens, documents=documents, positions=positions)
        hidden, targets, chosen = done.scored(at)
        losses = torch.empty(targets.shape, device=hidden.device)
        for cut in logit_chunks(model, targets):
            losses[:, cut] = chunk_losses(model.network, hidden[:, cut], targets[:, cut])
        return done.joined(losses)[:, chosen].cpu()

    return _without_gradients(model, tokens, work)


def _without_gradients(model: LanguageModel, tokens: Tokens, work: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode():
        return retry_in_less_memory(model, tokens.shape[0] * tokens.shape[1], work)


def greedy_answers(model: LanguageModel, tokens: Tokens, answer_tokens: int) -> Tensor:
    """Whether greedy decoding would give the last ``answer_tokens`` tokens of each sequence, by teacher forcing.

    An answer is the greedy one exactly when each of its tokens is the likeliest after all before it.

    Args:
        model: run in its current state.
        tokens: [B, N] prompts, each ending in its expected answer.
        answer_tokens: length of the answers.

    Returns:
        [B] booleans on the CPU.
    """

    def work() -> Tensor:
        done = _run(model, tokens)
        likeliest = logits_of(model.network, done.pick(slice(-answer_tokens - 1, -1))).argmax(-1)
        return (likeliest == done.ids[:, -answer_tokens:]).all(-1).cpu()

    return _without_gradients(model, tokens, work)


def last_log_probabilities(model: LanguageModel, tokens: Tokens, count: int) -> Tensor:
    """Log-probabilities of what follows each of the last ``count`` tokens of a sequence.

    Args:
        model: run in its current state.
        tokens: [1, N] token ids.
        count: at most N.

    Returns:
        [count, V] float32 nats on the CPU.
    """

    def work() -> Tensor:
        hidden = _run(model, tokens).pick(slice(tokens.shape[1] - count, tokens.shape[1]))
        return logits_of(model.network, hidden)[0].float().log_softmax(-1).cpu()

    return _without_gradients(model, tokens, work)


def weighted_loss_with_graph(
    model: LanguageModel,
    tokens: Tokens,
    weights: NDArray[np.float64],
    *,
    recompute: bool | None = None,
    holding: Holding = EVERY_STATE,
    documents: Documents | None = None,
    positions: Tokens | None = None,
) -> Tensor:
    """Weighted sum of next-token losses in nats, a scalar to call ``backward`` on.

    In several context-parallel processes, each returns the part of its own tokens, and gradients are to be summed.

    Args:
        model: run in its current state.
        tokens: [B, N] token ids, without padding.
        weights: [B, N - 1] weight of each token's loss; what comes before the first nonzero column is not scored. With
            ``documents`` the first token of each but the first is to have none, for nothing of it comes before.
        recompute: checkpoint every layer and keep no logits, so that memory holds one hidden state per layer, and one
            output of its attention where memory allows; otherwise all activations are kept, which saves the second pass
            forward. None keeps them where memory allows; where a pass has run out of it, none are kept.
        holding: how the hidden states before recomputed layers are held.
        documents: as in ``token_losses``.
        positions: as in ``token_losses``.

    Raises:
        LongRopeError: the documents do not fit the windows.
        ModelError: documents are to be kept apart in a model whose layers remember by other means than attention.
    """
    if recompute is None or model.limits.tile_tokens:
        recompute = not fits_with_activations(model, tokens.shape[0] * tokens.shape[1])
        if shard := distributed.shard():  # all must agree, or some would wait for keys that others do not send again
            recompute = bool(shard.total(torch.tensor(float(recompute), device=model.device)))
    first = int(weights.any(axis=0).argmax())
    kept = layers_that_keep_attention(model, tokens.shape[0] * tokens.shape[1]) if recompute else None
    done = _run(model, tokens, kept, holding=holding, documents=documents, positions=positions)
    hidden, targets, _ = done.scored(slice(first, None))
    given = torch.as_tensor(weights, dtype=torch.float32).to(hidden.device)
    shares = done.own(given) if done.shard else given[:, first:]
    cuts = list(logit_chunks(model, targets))
    divided = any(map(distributed.is_dtensor, trained_outside_layers(model.network)))
    if (recompute or hidden.is_cuda) and not divided:
        return weighted_loss(model.network, hidden, targets, shares, cuts)
    losses = partial(checkpoint, chunk_losses, use_reentrant=False) if recompute else chunk_losses
    total = torch.zeros((), device=hidden.device)
    sizes = [cut.stop - cut.start for cut in cuts]
    for cut, part in zip(cuts, hidden.split(sizes, dim=1), strict=True):  # whose gradients are joined once
        total = total + (losses(model.network, part, targets[:, cut]) * shares[:, cut]).sum()
    return total


def describe_pass(model: LanguageModel, *, decoding: bool = False) -> str:
    """The choices of a pass, or of one and decoding after it, and their reasons: compiler, attention kernels, tiles."""
    choose = partial(choose_kernel, model.device, model.network.dtype, heads_of(model))
    reasons = [choose(decoding=True)[1]] if decoding else []
    done = (
        "compiled (as asked)" if decoding or reads_in_tiles(model) else "not compiled, for each works on whole windows"
    )
    compiled = [f"layers {done}"] if model.compiled else []
    return "; ".join(dict.fromkeys((*compiled, choose()[1], *reasons, choose_tile(model)[1])))


@dataclass(frozen=True)
class _Pass:
    """What a decoder made of windows.

    Attributes:
        hidden: [B, n, H] states of this process's tokens: all N of them unless processes are context parallel.
        ids: [B, N] the token ids.
        shard: this process's part of the windows, None if it has them whole.
    """

    hidden: Tensor
    ids: Tensor
    shard: distributed.Shard | None

    def scored(self, at: slice) -> tuple[Tensor, Tensor, slice]:
        """States [B, m, H] and targets [B, m] to score for a slice of the losses, and where it lies once joined."""
        if not self.shard:
            return self.hidden[:, :-1][:, at], self.ids[:, 1:][:, at], slice(None)
        return self.hidden, self.own(self.ids[:, 1:]), slice(*at.indices(self.ids.shape[1] - 1))

    def own(self, values: Tensor) -> Tensor:
        """This process's part [B, n] of values for each loss [B, N - 1]; zeros where no token follows."""
        if not self.shard:
            return values
        padded = self.shard.padded(self.ids.shape[1])
        positions = self.shard.positions(padded).to(values.device)
        return functional.pad(values, (0, padded - values.shape[1]))[:, positions]

    def joined(self, losses: Tensor) -> Tensor:
        """[B, N'] losses of all processes in order."""
        return self.shard.join(losses) if self.shard else losses

    def pick(self, at: slice) -> Tensor:
        """[B, m, H] states at a slice of the window, in every process."""
        if not self.shard:
            return self.hidden[:, at]
        wanted = torch.arange(self.ids.shape[1])[at]
        positions = self.shard.positions(self.shard.padded(self.ids.shape[1]))
        here = (positions[:, None] == wanted).to(self.hidden)
        return self.shard.total(torch.einsum("bnh,nm->bmh", self.hidden, here))


def _run(
    model: LanguageModel,
    tokens: Tokens,
    kept: frozenset[int] | None = None,
    *,
    holding: Holding = EVERY_STATE,
    documents: Documents | None = None,
    positions: Tokens | None = None,
) -> _Pass:
    """Run the decoder without a mask; without gradients its layers work in tiles where each window is whole here.

    With ``kept`` layers are recomputed in the backward pass, but for the outputs of attention of these; ``holding`` is
    of the states before them.
    """
    ids = torch.as_tensor(tokens, dtype=torch.long).to(model.device)
    given = {"input_ids": ids}
    if positions is not None:
        check_own_positions(model.network)
        given["position_ids"] = torch.as_tensor(positions, dtype=torch.long).to(model.device)
    shard = distributed.shard()
    if shard:
        padded = shard.padded(ids.shape[1])
        own = shard.positions(padded).to(ids.device)
        parts = {name: functional.pad(whole, (0, padded - ids.shape[1]))[:, own] for name, whole in given.items()}
        given = {"position_ids": own[None], **parts}
    apart = _kept_apart(model.network, documents, ids.shape)
    tile = choose_tile(model, len(ids))[0]
    in_tiles: LayerChange | None = None
    if reads_in_tiles(model):
        in_tiles = partial(layer_in_tiles, model, tile=tile, cache=None)
    change_layer, forwards = in_tiles, {}
    fused = model.compiled and kept is not None and given["input_ids"].shape[1] <= tile and distributed.ranks() == 1
    if not fused and (not in_tiles or torch.is_grad_enabled()):
        forwards, change_layer = mlps_in_tiles(model.network, tile), None
    states = HeldStates(holding)
    if kept is not None:
        change_layer = partial(_recomputed, replace(model, compiled=fused), kept, states, in_tiles)
        forwards |= {} if fused else norms_recomputed(model.network, tile * len(ids))
    inner = {part for module in forwards for part in module.modules() if part is not module}
    forwards = {module: forward for module, forward in forwards.items() if module not in inner}
    forwards |= norms_in_tiles(model.network, tile)
    if change_layer:
        forwards |= changed_layers(model.network, change_layer)
    planned = ids.shape[1] if positions is None else int(torch.as_tensor(positions).max()) + 1
    with many_variants(compiled=model.compiled), at_length(model, planned):
        context = ForwardContext(model.network, forwards, apart, shard)
        if in_tiles and ids.shape[1] <= tile and (replayed := replayed_pass(model, ids.shape, context)):
            context.forwards |= changed_layers(model.network, partial(_replayed, replayed, in_tiles))
        hidden = run_decoder(context, given)
    states.end()
    return _Pass(hidden, ids, shard)


def _recomputed(
    model: LanguageModel,
    kept: frozenset[int],
    states: HeldStates,
    in_tiles: LayerChange | None,
    forward: Any,
    index: int,
) -> Callable[..., Any]:
    """A layer that is recomputed, or works in tiles where nothing has gradients."""
    ungraded = in_tiles(forward, index) if in_tiles else forward
    return recomputed(model, forward, index, kept=kept, states=states, ungraded=ungraded, compiled=model.compiled)


def _replayed(replayed: ReplayedPass, in_tiles: LayerChange, forward: Any, index: int) -> Callable[..., Any]:
    """A layer that is recorded or replayed."""
    return replayed.change(in_tiles(forward, index), forward.__self__, index)


def _kept_apart(network: Any, documents: Documents | None, shape: Sequence[int]) -> Documents | None:
    """The documents that a pass over windows [B, N] keeps apart; None where each window is one."""
    if documents is None:
        return None
    rows, tokens = shape
    if len(documents) != rows or any(
        not len(starts) or starts[0] != 0 or starts[-1] >= tokens or any(b <= a for a, b in pairwise(starts))
        for starts in documents
    ):
        raise LongRopeError(
            f"Documents begin at {documents} in {rows} windows of {tokens:,} tokens.",
            "For each window they begin at 0, and each of the others later than the one before it.",
            "Give one list of starts for each window.",
        )
    if all(len(starts) == 1 for starts in documents):
        return None
    if not remembers_keys_alone(network):
        raise ModelError(
            f"The model type {network.config.model_type!r} has {describe_others(network)}.",
            "They carry a state from document to document, so documents cannot be kept apart.",
            "Train it without tune.isolate_documents.",
        )
    return documents
