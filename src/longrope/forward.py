"""The pass over a long text: exact losses per token without a mask, a second copy of the text or its whole logits.

The model's own modules do the work, called through transformers' public interfaces. Its attention is ours, registered
under a name for which transformers makes no mask. Each decoder layer walks over tiles of tokens and keeps the keys and
values of that layer alone, its output takes the place of its input, and norms, MLPs and the head work on tiles, too.
With gradients, layers see the whole text and are recomputed in the backward pass where their activations do not fit;
the outputs of attention, most of the work and little of the memory, are kept where those fit.

Shape legend: B = batch, N = tokens of a window, n = those of one process, H = hidden size, V = vocabulary, P = heads,
G = key/value heads, D = head dimension.
"""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._dynamo import config as dynamo
from torch._dynamo.exc import TorchDynamoException
from torch.nn import functional
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)
from transformers import AttentionInterface
from transformers.modeling_outputs import MoeModelOutputWithPast

from longrope import distributed
from longrope.attention import OPERATIONS, Documents, Heads, attend, attend_in_blocks, attend_within, choose_kernel
from longrope.cache import KeyValueCache, LayerKeys, decoder_layers, remembers_keys_alone
from longrope.errors import LongRopeError, ModelError
from longrope.models import LanguageModel

Tokens = NDArray[np.integer[Any]] | Tensor
ATTENTION = "longrope"  # transformers makes no mask for a name that it does not know
LOGITS_PER_CHUNK = 2**28  # 1 GiB of float32
LOGITS_PER_PART = 1024  # at most
MOST_VARIANTS = 64  # of a compiled function: by batches, tiles, kinds of layers
MOST_TILE_TOKENS = 65536
FEWEST_TILE_TOKENS = 256
TILE_SHARE, ACTIVATIONS_SHARE = 8, 4  # the part of the free memory that a tile, or all activations, may take
MOST_CPU_ACTIVATIONS = 2**32  # bytes
PROBE_TOKENS = 2048  # by which the time of longer passes is estimated


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
        model: run as it is at the moment (see ``models.rescaled``).
        tokens: [B, N] token ids, without padding.
        at: which of the N - 1 losses; all of them if left out.
        documents: where documents begin in each of the B windows (0, then ascending), which then see no token of
            another one. The loss of a later one's first token is that of the token before it, and tells nothing.
        positions: [B, N] the position of each token; 0, 1, 2 ... if left out.

    Returns:
        [B, N - 1] (or the part asked for) float32 nats on the CPU; entry n is the loss of token n + 1 given all before.

    Raises:
        LongRopeError: the documents do not fit the windows.
        ModelError: documents are to be kept apart in a model whose layers remember by other means than attention.
    """
    with torch.inference_mode():
        done = _run(model, tokens, documents=documents, positions=positions)
        hidden, targets, chosen = done.scored(at)
        score = _compiled_losses if model.compiled else _chunk_losses
        losses = torch.empty(targets.shape, device=hidden.device)
        for cut in _chunks(model, targets):
            losses[:, cut] = score(model.network, hidden[:, cut], targets[:, cut])
        return done.joined(losses)[:, chosen].cpu()


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
        done = _run(model, tokens)
        likeliest = _logits(model.network, done.pick(slice(-answer_tokens - 1, -1))).argmax(-1)
        return (likeliest == done.ids[:, -answer_tokens:]).all(-1).cpu()


def weighted_loss_with_graph(
    model: LanguageModel,
    tokens: Tokens,
    weights: NDArray[np.float64],
    *,
    recompute: bool | None = None,
    offload: bool = False,
    documents: Documents | None = None,
    positions: Tokens | None = None,
) -> Tensor:
    """Weighted sum of next-token losses in nats, a scalar to call ``backward`` on.

    In several processes that share a window, each returns the part of its own tokens, and gradients are to be summed.

    Args:
        model: run as it is at the moment.
        tokens: [B, N] token ids, without padding.
        weights: [B, N - 1] weight of each token's loss; what comes before the first nonzero column is not scored. With
            ``documents`` the first token of each but the first is to have none, for nothing of it comes before.
        recompute: checkpoint every layer and every chunk of logits, so that memory holds one hidden state per layer,
            and one output of its attention where there is room; otherwise all activations are kept, which saves the
            second pass forward. None keeps them where there is room.
        offload: keep those hidden states in the CPU's memory.
        documents: as in ``token_losses``.
        positions: as in ``token_losses``.

    Raises:
        LongRopeError: the documents do not fit the windows.
        ModelError: documents are to be kept apart in a model whose layers remember by other means than attention.
    """
    if recompute is None:
        recompute = not _fits_with_activations(model, tokens)
        if shard := distributed.shard():  # all must agree, or some would wait for keys that others do not send again
            recompute = bool(shard.total(torch.tensor(float(recompute), device=model.device)))
    score = partial(checkpoint, _chunk_losses, use_reentrant=False) if recompute else _chunk_losses
    first = int(weights.any(axis=0).argmax())
    tile = choose_tile(model, len(tokens))[0]
    keep = not offload and _attention_bytes(model, tokens.shape[0] * tokens.shape[1]) <= _room(model)
    change_layer = partial(_recomputed, model.network, tile=tile, offload=offload, keep=keep) if recompute else None
    done = _run(model, tokens, change_layer, documents=documents, positions=positions)
    hidden, targets, _ = done.scored(slice(first, None))
    given = torch.as_tensor(weights, dtype=torch.float32).to(hidden.device)
    shares = done.own(given) if done.shard else given[:, first:]
    total = torch.zeros((), device=hidden.device)
    for cut in _chunks(model, targets, apart=True):
        total = total + (score(model.network, hidden[:, cut], targets[:, cut]) * shares[:, cut]).sum()
    return total


def describe_pass(model: LanguageModel, *, decoding: bool = False) -> str:
    """The choices of a pass, or of one and decoding after it, and their reasons: compiler, attention kernels, tiles."""
    choose = partial(choose_kernel, model.device, model.network.dtype, heads_of(model))
    reasons = [choose(decoding=True)[1]] if decoding else []
    parts = "layers" if decoding else "layers and losses" if _walks(model) else "losses alone"
    compiled = [f"{parts} compiled (as asked)"] if model.compiled else []
    return "; ".join(dict.fromkeys((*compiled, choose()[1], *reasons, choose_tile(model)[1])))


def _walks(model: LanguageModel) -> bool:
    """Whether layers walk over tiles where no gradients are taken: windows are whole here, and keys are all memory."""
    return not distributed.shard() and remembers_keys_alone(model.network)


def choose_tile(model: LanguageModel, rows: int = 1) -> tuple[int, str]:
    """Return how many tokens of ``rows`` sequences go through a layer at once, and the reason."""
    if model.device.type != "cuda":
        return max(1, MOST_TILE_TOKENS // rows), f"tiles of {MOST_TILE_TOKENS:,} tokens (a CPU)"
    free = _free_memory(model.device)
    fitting = max(FEWEST_TILE_TOKENS, min(MOST_TILE_TOKENS, free // TILE_SHARE // _bytes_per_token(model)))
    tile = 1 << fitting.bit_length() - 1
    return max(1, tile // rows), f"tiles of {tile:,} tokens ({free / 2**30:.0f} GiB are free)"


def _bytes_per_token(model: LanguageModel, *, compiled: bool = False) -> int:
    """About what a layer holds of a token: a dozen hidden states and four of an MLP's width; compiled three and two."""
    config = model.network.config
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    states, mlps = (3, 2) if compiled else (12, 4)
    return int(model.network.dtype.itemsize * (states * config.hidden_size + mlps * wide))


def _fits_with_activations(model: LanguageModel, tokens: Tokens) -> bool:
    """Whether all activations of a pass, with its logits in float32 three times over, take little of the memory."""
    config = model.network.config
    per_token = config.num_hidden_layers * _bytes_per_token(model) + 12 * config.vocab_size
    return bool(tokens.shape[0] * tokens.shape[1] * per_token <= _room(model))


def _attention_bytes(model: LanguageModel, tokens: int) -> int:
    """What all layers' attention gives for so many tokens: its output, on GPUs in 16 bits, and a float32 a head."""
    shard, heads = distributed.shard(), heads_of(model)
    own = tokens // (shard.ranks if shard else 1)
    per_token = heads.queries * (heads.dim * (4 if model.device.type == "cpu" else 2) + 4)
    return int(own * model.network.config.num_hidden_layers * per_token)


def _room(model: LanguageModel) -> int:
    """Bytes that activations may take."""
    return _free_memory(model.device) // ACTIVATIONS_SHARE if model.device.type == "cuda" else MOST_CPU_ACTIVATIONS


def estimate_memory(model: LanguageModel, tokens: int) -> int:
    """About how many bytes ``token_losses`` takes at its peak for one window, weights included.

    A layer's part: the states of the window, its keys, values, cos and sin, and the activations of a tile or what its
    kernel copies, whichever is more. The head's: the states, and a chunk of logits; in float32 with their logarithms
    unless the loss is compiled.
    """
    network, spec = model.network, model.spec
    weights = sum(weight.numel() * weight.dtype.itemsize for weight in network.parameters())
    states = tokens * network.config.hidden_size * network.dtype.itemsize
    heads = heads_of(model)
    kernel, _ = choose_kernel(model.device, network.dtype, heads)
    kept = 2 * tokens * (heads.keys * heads.dim + spec.rotary_dim) * network.dtype.itemsize
    activations = min(tokens, choose_tile(model)[0]) * _bytes_per_token(
        model, compiled=model.compiled and _walks(model)
    )
    layer = kept + max(activations, kernel.copied * tokens * heads.keys * heads.dim)
    head = (network.dtype.itemsize if model.compiled else 8) * min(LOGITS_PER_CHUNK, tokens * network.config.vocab_size)
    return int(weights + states + max(layer, head))


def estimate_training_memory(model: LanguageModel, tokens: int, *, adapters: bool) -> int:
    """About how many bytes a training step on one window takes at its peak in this process.

    Weights, gradients and two moments in float32; several processes divide them, and each has the weights whole beside
    its part. With adapters the weights alone, as they are on a GPU. A hidden state for each layer, where they fit the
    outputs of its attention, the activations of one layer and one chunk of logits with its gradient, all in float32.
    """
    config, ranks = model.network.config, distributed.ranks()
    shard = distributed.shard()
    own = tokens // (shard.ranks if shard else 1)
    weights = sum(weight.numel() for weight in model.network.parameters())
    frozen = weights * (4 if model.device.type == "cpu" else model.network.dtype.itemsize)
    held = frozen if adapters else 16 * weights // ranks + 4 * weights * (ranks > 1)
    states = 4 * own * config.hidden_size * config.num_hidden_layers
    layer = own * _bytes_per_token(model) * 4 // model.network.dtype.itemsize
    head = 3 * 4 * min(LOGITS_PER_CHUNK, own * config.vocab_size)
    attended = _attention_bytes(model, tokens)
    return int(held + states + (attended if attended <= _room(model) else 0) + max(layer, head))


def free_memory(model: LanguageModel) -> int:
    """Bytes of the model's device that can still be taken, with those that the model takes now; of a CPU all memory."""
    if model.device.type != "cuda":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    held = sum(weight.numel() * weight.dtype.itemsize for weight in model.network.parameters())
    return _free_memory(model.device) + int(held)


def seconds_of_pass(model: LanguageModel, tokens: int) -> float:
    """About how long a pass over one window takes, by two short ones: it has a part that grows with the square."""
    longer = min(tokens, 2 * PROBE_TOKENS if model.device.type != "cuda" else 16 * PROBE_TOKENS)
    lengths = (max(2, longer // 2), max(2, longer))
    seconds = []
    for length in lengths:
        ids = np.arange(length)[None] % model.network.config.vocab_size
        token_losses(model, ids)  # the first one warms up
        began = time.perf_counter()
        token_losses(model, ids)
        seconds.append(time.perf_counter() - began)
    squared = max(0.0, (seconds[1] - 2 * seconds[0]) / (lengths[1] ** 2 - 2 * lengths[0] ** 2))
    linear = max(0.0, seconds[1] / lengths[1] - squared * lengths[1])
    return float(linear * tokens + squared * tokens**2)


def heads_of(model: LanguageModel) -> Heads:
    """Query heads, key/value heads and their dimension."""
    config = model.network.config
    queries = config.num_attention_heads
    return Heads(queries, getattr(config, "num_key_value_heads", None) or queries, model.spec.head_dim)


def _free_memory(device: torch.device) -> int:
    """Bytes that torch may still take: those free on the device, and those that it holds unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@dataclass(frozen=True)
class _Pass:
    """What a decoder made of windows.

    Attributes:
        hidden: [B, n, H] states of this process's tokens: all N of them unless processes share a window.
        ids: [B, N] the token ids.
        shard: this process's part of the windows, None if it has them whole.
    """

    hidden: Tensor
    ids: Tensor
    shard: "distributed.Shard | None"

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
    change_layer: "LayerChange | None" = None,
    *,
    documents: Documents | None = None,
    positions: Tokens | None = None,
) -> _Pass:
    """Run the decoder without a mask; without gradients its layers walk over tiles where each window is whole here."""
    ids = torch.as_tensor(tokens, dtype=torch.long).to(model.device)
    given = {"input_ids": ids}
    if positions is not None:
        given["position_ids"] = torch.as_tensor(positions, dtype=torch.long).to(model.device)
    shard = distributed.shard()
    if shard:
        padded = shard.padded(ids.shape[1])
        own = shard.positions(padded).to(ids.device)
        parts = {name: functional.pad(whole, (0, padded - ids.shape[1]))[:, own] for name, whole in given.items()}
        given = {"position_ids": own[None], **parts}
    apart = _kept_apart(model.network, documents, ids.shape)
    tile = choose_tile(model, len(ids))[0]
    if _walks(model) and not torch.is_grad_enabled():
        forwards, change_layer = {}, partial(_in_tiles, model, tile=tile, cache=None)
    else:
        forwards = _mlps_in_tiles(model.network, tile)
    forwards |= _norms_in_tiles(model.network, tile) | _changed_layers(model.network, change_layer)
    return _Pass(_decode(model.network, given, forwards, apart), ids, shard)


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
            f"The model type {network.config.model_type!r} has recurrent layers.",
            "They carry a state from document to document, so documents cannot be kept apart.",
            "Train it without tune.isolate_documents.",
        )
    return documents


def _decode(network: Any, given: dict[str, Tensor], forwards: "Forwards", documents: Documents | None = None) -> Tensor:
    """[B, n, H] states of the decoder, by our attention (raises ModelError if the decoder does not call it)."""
    before = _Calls.made
    with _our_attention(network, forwards, documents):
        hidden = network.base_model(**given, use_cache=False).last_hidden_state
    if _Calls.made == before:
        raise _unattended(network)
    return hidden  # type: ignore[no-any-return]


def _unattended(network: Any) -> ModelError:
    return ModelError(
        f"The model type {network.config.model_type!r} does not call the attention that it is given.",
        "Its layers must go through transformers' AttentionInterface; without it they would see later tokens.",
        "Use another version of transformers, and please report this model type.",
    )


class _Calls:
    """How often our attention was called, and at the moment: the documents kept apart, and where keys are kept."""

    made = 0
    documents: Documents | None = None
    keys: LayerKeys | None = None


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [B, P, n, D], key and value [B, G, Sk, D] -> [B, n, P, D]."""
    unknown = {"attention_mask": attention_mask, "dropout": dropout or None, "s_aux": others.get("s_aux")}
    if found := [name for name, given in unknown.items() if given is not None]:
        raise ModelError(
            f"{type(module).__name__} asks for attention with {found[0]}.",
            "A long pass takes whole sequences, causal, without padding, dropout or attention sinks.",
            "Give windows of one length; another model type is not supported yet.",
        )
    _Calls.made += 1
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # where cos and sin made float32 of query and key
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    shard = distributed.shard()
    if _Calls.keys is not None:
        key, value = _Calls.keys.update(key, value)
    elif shard:
        key, value = shard.gather(key), shard.gather(value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    work: Callable[..., Tensor] = partial(_attend_or_block, scale=scale, window=sliding_window, softcap=softcap)
    if _Calls.documents is not None:
        work = partial(attend_within, _Calls.documents, work)
    if shard:
        chunk = key.shape[2] // (2 * shard.ranks)
        ends = ((shard.rank + 1) * chunk, (2 * shard.ranks - shard.rank) * chunk)  # of its head and tail chunk
        parts = zip(query.chunk(2, dim=2), ends, strict=True)
        output = torch.cat([work(own, key[:, :, :end], value[:, :, :end]) for own, end in parts], dim=2)
    else:
        output = work(query, key, value)
    return output.transpose(1, 2).contiguous(), None  # some models take a view of it


def _attend_or_block(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """Causal attention by a kernel, or in blocks where a sliding window or a soft cap has something to do."""
    if softcap is not None or (window is not None and window < key.shape[2]):
        return attend_in_blocks(query, key, value, scale=scale, window=window, softcap=softcap)
    return attend(query, key, value, scale=scale)


AttentionInterface.register(ATTENTION, torch.compiler.disable(_attention))


Forwards = dict[Any, Callable[..., Any]]  # what modules are to call in the place of their own forwards


@contextmanager
def _our_attention(network: Any, forwards: Forwards, documents: Documents | None) -> Iterator[None]:
    """Run a network with our attention, and these forwards of its modules, in this block alone."""
    if not network._can_set_attn_implementation():  # noqa: SLF001  # an attention of its own, which wants a mask
        raise _unattended(network)
    config = network.config
    native, around = config._attn_implementation, _Calls.documents  # noqa: SLF001  # there is no public way to ask
    config._attn_implementation, _Calls.documents = ATTENTION, documents  # noqa: SLF001
    try:
        with _replaced(forwards):
            yield
    finally:
        config._attn_implementation, _Calls.documents = native, around  # noqa: SLF001


LayerChange = Callable[[Callable[..., Any], int], Callable[..., Any]]
"""(forward of a layer, its index) -> what to call instead."""


def _changed_layers(network: Any, change: LayerChange | None) -> Forwards:
    layers = decoder_layers(network) if change else ()
    return {layer: change(layer.forward, index) for index, layer in enumerate(layers) if change}


def _norms_in_tiles(network: Any, tile: int) -> Forwards:
    norms = [child for child in network.base_model.children() if "Norm" in type(child).__name__]
    return {norm: partial(_norm_in_tiles, norm.forward, tile) for norm in norms}


def _mlps_in_tiles(network: Any, tile: int) -> Forwards:
    mlps = [module for module in network.modules() if type(module).__name__.endswith("MLP")]
    return {mlp: partial(_mlp_in_tiles, mlp.forward, tile) for mlp in mlps}


@contextmanager
def _replaced(forwards: Forwards) -> Iterator[None]:
    """Other forwards for these modules, instance by instance, in this block alone."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, forward in before.items():
            del module.forward
            if forward:
                module.forward = forward


def _in_tiles(
    model: LanguageModel, forward: Any, index: int, *, tile: int, cache: KeyValueCache | None
) -> Callable[..., Any]:
    """A layer that walks over tiles of tokens and puts its output in the place of its input.

    Our attention keeps its keys and values, so each tile sees those of the tiles before.
    """
    if model.compiled:
        forward = partial(_compiled(forward.__func__), forward.__self__)

    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        tokens = hidden.shape[1]
        if cache is None and tokens <= tile:
            return forward(hidden, *args, **kwargs)
        keys = cache.layers[index] if cache else LayerKeys(tokens)
        _Calls.keys = keys
        try:
            for first in range(0, tokens, tile):
                cut = slice(first, min(first + tile, tokens))
                keys.begin_tile()
                given = {name: _cut(value, cut, tokens) for name, value in kwargs.items()}
                output = forward(hidden[:, cut], *(_cut(value, cut, tokens) for value in args), **given)
                hidden[:, cut] = output[0] if isinstance(output, tuple) else output
        finally:
            _Calls.keys = None
        if cache is None:
            _check_keys(model.network, keys, tokens)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return run


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function by torch.compile; our attention in it stays as it is.

    It is compiled for the first shapes that come, and when others come for any.

    Raises:
        LongRopeError: it cannot be compiled here.
    """
    fused = torch.compile(function)
    dynamo.recompile_limit = max(dynamo.recompile_limit, MOST_VARIANTS)  # past it functions would run as they are

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return fused(*args, **kwargs)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300]
            raise LongRopeError(
                f"torch.compile could not compile {function.__qualname__}: {reason}",
                "It needs a C++ compiler (g++), on a GPU Triton and Python's headers, too.",
                "Install them, or leave out --compile.",
            ) from None

    return run


def _check_keys(network: Any, keys: LayerKeys, tokens: int) -> None:
    """Raise ModelError unless a layer has handed over the keys of just so many tokens."""
    if keys.tokens != tokens:
        raise ModelError(
            f"A layer of the model type {network.config.model_type!r} has read {tokens:,} tokens and kept the keys of "
            f"{keys.tokens:,}.",
            "Tiles and caches need layers that carry keys and values alone and are called once.",
            "Read shorter texts, and please report this model type.",
        )


def _cut(value: Any, cut: slice, tokens: int) -> Any:
    """The part of an argument of a layer that belongs to a tile: tensors [B, N, ...] are cut, alone or in tuples."""
    if isinstance(value, tuple):
        return tuple(_cut(part, cut, tokens) for part in value)
    if isinstance(value, Tensor) and value.ndim > 1 and value.shape[1] == tokens:
        return value[:, cut]
    return value


def _recomputed(network: Any, forward: Any, _index: int, *, tile: int, offload: bool, keep: bool) -> Callable[..., Any]:
    """A layer whose activations are made again in the backward pass, in eval mode too, with our attention.

    Its output of attention is kept where that is asked for.
    """
    contexts = partial(create_selective_checkpoint_contexts, _keep_attention) if keep else noop_context_fn

    def run(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        documents = _Calls.documents  # of this pass; when its backward pass runs, it is over

        def work(hidden: Tensor, device: torch.device, *args: Any, **kwargs: Any) -> Any:
            with _our_attention(network, _mlps_in_tiles(network, tile), documents):
                return forward(hidden.to(device), *args, **kwargs)

        kept = hidden.cpu() if offload else hidden
        return checkpoint(work, kept, hidden.device, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return run


def _keep_attention(_context: Any, operation: Any, *args: Any, **_: Any) -> CheckpointPolicy:
    """Keep what attention gives for queries that gradients are for; a kernel that is being tried out has others."""
    wanted = operation in OPERATIONS and args[0].requires_grad
    return CheckpointPolicy.MUST_SAVE if wanted else CheckpointPolicy.PREFER_RECOMPUTE


def _norm_in_tiles(forward: Any, tile: int, hidden: Tensor) -> Tensor:
    """The last norm of a decoder, in place where nothing needs its input again."""
    if hidden.shape[1] <= tile or torch.is_grad_enabled():
        return forward(hidden)  # type: ignore[no-any-return]
    for part in hidden.split(tile, dim=1):
        part.copy_(forward(part))
    return hidden


def _mlp_in_tiles(forward: Any, tile: int, hidden: Tensor) -> Tensor:
    if hidden.ndim < 3 or hidden.shape[1] <= tile:
        return forward(hidden)  # type: ignore[no-any-return]
    work = partial(checkpoint, forward, use_reentrant=False) if torch.is_grad_enabled() else forward
    return torch.cat([work(part) for part in hidden.split(tile, dim=1)], dim=1)


def read_on(model: LanguageModel, tokens: Tokens, cache: KeyValueCache) -> Tensor:
    """Read tokens [1, n] after those in the cache, in tiles, and keep their keys and values there.

    Returns:
        [1, V] float32 logits of what follows the last one.

    Raises:
        ModelError: the cache has no room for them.
    """
    count = tokens.shape[1]
    end = cache.tokens + count
    if end > cache.capacity:
        raise ModelError(
            f"{count:,} tokens are to follow {cache.tokens:,} in a cache of {cache.capacity:,}.",
            "A cache holds as many tokens as it was made for.",
            "Make a larger one.",
        )
    tile = choose_tile(model)[0]
    with torch.inference_mode():
        given = {
            "input_ids": torch.as_tensor(tokens, dtype=torch.long).to(model.device),
            "position_ids": torch.arange(cache.tokens, end, device=model.device)[None],
        }
        forwards = _changed_layers(model.network, partial(_in_tiles, model, tile=tile, cache=cache))
        hidden = _decode(model.network, given, forwards | _norms_in_tiles(model.network, tile))
        for keys in cache.layers:
            _check_keys(model.network, keys, end)
        return _logits(model.network, hidden[:, -1:])[:, 0].float()


def _chunks(model: LanguageModel, targets: Tensor, *, apart: bool = False) -> Iterator[slice]:
    """Parts of about one size, or of just one (for which alone a compiler works), the last one overlapping."""
    rows, tokens = targets.shape
    count = -(-tokens * rows * model.network.config.vocab_size // LOGITS_PER_CHUNK)
    size = -(-tokens // max(1, count))
    for first in range(0, tokens, max(1, size)):
        last = min(first + size, tokens)
        yield slice(first if apart else last - size, last)


def _chunk_losses(network: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = _logits(network, hidden).float()
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


def _compiled_losses(network: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = _logits(network, hidden)
    part = math.gcd(logits.shape[-1], LOGITS_PER_PART)
    return _compiled(_loss_by_sums)(logits, targets, part)  # type: ignore[no-any-return]


def _loss_by_sums(logits: Tensor, targets: Tensor, part: int) -> Tensor:
    """Cross entropy in a form for which a compiler reads the logits once: sums of parts that fit its registers."""
    logits = logits.float()
    parts = logits.reshape(*logits.shape[:-1], -1, part)
    return parts.logsumexp(-1).logsumexp(-1) - logits.gather(-1, targets[..., None])[..., 0]


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
