"""The context of a running pass, and the attention function that transformers calls and that reads it.

transformers calls attention by a name in the model's config. Ours is registered under a name of its own, and makes no
mask; what the function needs beyond its arguments stands in the one active ``ForwardContext``.

Shape legend: B = batch, N = tokens of a window, n = those of one process, H = hidden size, P = heads, G = key/value
heads, Sk = keys, D = head dimension.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from longrope.distributed import Shard
from longrope.engine.adapters import adapt
from longrope.engine.attention import Documents, attend_causal, attend_within
from longrope.engine.backward import KeptOutputs
from longrope.engine.biases import KeyBias, adapt_biases, attend_biased
from longrope.engine.compressing import Compressed, adapt_compressors, attend_compressed
from longrope.engine.indexers import adapt_indexers
from longrope.engine.kv_cache import LayerKeys, SeveralKeys, decoder_of, describe_others, remembers_keys_alone
from longrope.engine.masks import Sight, describe_mask
from longrope.engine.parted import NearExact, attend_in_parts, near_exact_of
from longrope.errors import ModelError, describe_error

ATTENTION = "longrope"
CHOSEN = ("indices", "block_indices")  # what transformers hands down of an indexer's choice
HARMLESS = ("position_ids",)  # tensors that transformers hands down to attention, and that change nothing there
Forwards = dict[Any, Callable[..., Any]]  # what modules are to call in the place of their own forwards

_active: "ForwardContext | None" = None


@dataclass
class ForwardContext:
    """What our attention needs to know during a pass.

    It belongs to one pass: active while the decoder runs and, where layers are recomputed, again while their part of
    the backward pass runs. Only one context is active in a process at a time. The threads in which autograd runs the
    backward pass see it, too.

    Attributes:
        network: whose attention is ours while the context is active.
        forwards: what modules of the network call then in the place of their own forwards.
        documents: kept apart from each other in each window; None where each window is one.
        shard: this process's part of the windows; None where it has them whole.
        layer_keys: where the layer at work keeps keys and values, for tiles and caches (``LayerKeys``, of several texts
            ``SeveralKeys``); None where it sees all tokens.
        attention_calls: how often our attention was called.
        given: rows and tokens that the decoder is given.
        handed: what a module of the layer at work has made for its attention, until that takes it.
        kept: what attention gives in the layer at work, which runs again for gradients; None where it is not kept.
        near: by which near keys are exact and far ones have coarser positions; None where all keep their own.
    """

    network: Any
    forwards: Forwards
    documents: Documents | None = None
    shard: Shard | None = None
    layer_keys: Any = None
    attention_calls: int = 0
    given: tuple[int, int] = (0, 0)
    handed: Compressed | KeyBias | None = None
    kept: KeptOutputs | None = None
    near: NearExact | None = field(init=False)
    adapted: Forwards = field(init=False)
    choosing: Forwards = field(init=False)

    def __post_init__(self) -> None:
        """Find what the network is read with, and the modules that need help to call our attention."""
        self.near = near_exact_of(self.network)
        self.adapted = adapt(self.network, attend_in_context, self._tokens_before)
        self.choosing = {
            **adapt_indexers(self.network, self),
            **adapt_compressors(self.network, self._hand_over),
            **adapt_biases(self.network, self._hand_over),
        }

    def _hand_over(self, made: Compressed | KeyBias) -> None:
        self.handed = made

    def _tokens_before(self, hidden: Tensor) -> Any:
        """How many tokens came before those of the module at work [B, n, H]: a number, or [n] of them one by one."""
        if self.layer_keys is not None:
            return self.layer_keys.tokens
        if self.shard is None:
            return 0
        tokens = hidden.shape[1]
        return (self.slots(tokens, self.shard.ranks * tokens) - torch.arange(tokens)).to(hidden.device)

    def slots(self, tokens: int, total: int) -> Tensor:
        """[n] int64, on the CPU: where the tokens at hand stand among all of them so far."""
        return self.shard.positions(total) if self.shard else torch.arange(total - tokens, total)

    def longest(self, total: int) -> int:
        """How many tokens the sequence may come to that has so many so far."""
        return total if self.layer_keys is None else self.layer_keys.capacity

    def keys_of_all(self, new: Tensor) -> Tensor:
        """[B, Sk, D] keys of all tokens so far from those [B, n, D] of the tokens at hand, which are kept."""
        if self.layer_keys is not None:
            kept: Tensor
            (kept,) = self.layer_keys.update(new[:, None])
            return kept[:, 0]
        return self.shard.gather(new[:, None])[:, 0] if self.shard else new

    @contextmanager
    def active(self) -> Iterator[None]:
        """Have the network call our attention, and these forwards of its modules, in this block alone.

        Raises:
            ModelError: the network has an attention of its own.
            RuntimeError: another pass is running.
        """
        global _active  # noqa: PLW0603  # the one owner of the active context
        if _active is not None:
            raise RuntimeError("a pass is running already, and passes do not nest")
        _refuse_unable(self.network, adapted=bool(self.adapted), shared=self.shard is not None)
        _register()
        with _set_attention(self.network.config), _replaced({**self.adapted, **self.choosing, **self.forwards}):
            _active = self
            try:
                yield
            finally:
                _active = None

    @contextmanager
    def resumed(self, kept: KeptOutputs | None = None) -> Iterator[None]:
        """Be active in a block that is a part of the pass, or runs again in the backward pass when the pass is over."""
        with nullcontext() if _active is self else self.active():
            self.kept = kept
            try:
                yield
            finally:
                self.kept = None

    @contextmanager
    def caching(self, keys: LayerKeys | SeveralKeys) -> Iterator[None]:
        """Keep keys and values there while a layer works."""
        self.layer_keys = keys
        try:
            yield
        finally:
            self.layer_keys = None


def active_context() -> ForwardContext:
    """The context of the running pass.

    Raises:
        RuntimeError: no pass is running.
    """
    if _active is None:
        raise RuntimeError("no pass is running")
    return _active


def run_decoder(context: ForwardContext, given: dict[str, Any]) -> Tensor:
    """[B, n, H] states of the decoder, by our attention.

    Raises:
        ModelError: the decoder does not call our attention, does with its mask what cannot be done without one, or has
            dropout and is in training.
    """
    context.given = tuple(given["input_ids"].shape)
    _refuse_dropout(context.network)
    try:
        with context.active():
            hidden = decoder_of(context.network)(**{"use_cache": False, **given}).last_hidden_state
    except (AttributeError, TypeError) as error:  # of the family's own code, which was not given a mask
        raise ModelError(
            f"The model type {context.network.config.model_type!r} fails in a long pass: {describe_error(error)}.",
            "A long pass gives layers no mask of all positions by all positions; this type's own code may read one.",
            "Use another model type; LONGROPE_DEBUG=1 shows the traceback.",
        ) from error
    if not context.attention_calls:
        raise _not_called(context.network)
    return hidden  # type: ignore[no-any-return]


def _refuse_unable(network: Any, *, adapted: bool, shared: bool) -> None:
    """Raise ModelError for a network whose attention cannot be ours."""
    if shared and not remembers_keys_alone(network):
        raise ModelError(
            f"The model type {network.config.model_type!r} has {describe_others(network)}.",
            "Processes that share a window exchange keys and values alone.",
            "Give each process windows of its own: --context-ranks 1.",
        )
    if not adapted and not network._can_set_attn_implementation():  # noqa: SLF001  # there is no public way to ask
        raise _not_called(network)


def _not_called(network: Any) -> ModelError:
    return ModelError(
        f"The model type {network.config.model_type!r} does not call the attention that it is given.",
        "Its layers must go through transformers' AttentionInterface; without it they would see later tokens.",
        "Use another version of transformers, and please report this model type.",
    )


@cache
def _register() -> None:
    """Register our attention and its mask with transformers, once, when the first pass begins."""
    AttentionInterface.register(ATTENTION, torch.compiler.disable(attend_in_context))
    AttentionMaskInterface.register(ATTENTION, describe_mask)


@contextmanager
def _set_attention(config: Any) -> Iterator[None]:
    """Have a config and its sub-configs name our attention in this block alone.

    transformers' public ``set_attn_implementation`` is no way back: there is no public way to ask what is set, and it
    may refuse or replace what it is given (a flash attention that is not installed). It also visits all modules,
    a millisecond a call, and recomputation sets and restores once a layer.
    """
    native = [(each, each._attn_implementation) for each in _with_sub_configs(config)]  # noqa: SLF001
    config._attn_implementation = ATTENTION  # noqa: SLF001  # that of its sub-configs, too
    try:
        yield
    finally:
        for each, implementation in native:  # outer ones first, since each sets those below it
            each._attn_implementation = implementation  # noqa: SLF001


def _with_sub_configs(config: Any) -> Iterator[Any]:
    yield config
    for name in config.sub_configs:
        if (below := getattr(config, name, None)) is not None:
            yield from _with_sub_configs(below)


@contextmanager
def _replaced(forwards: Forwards) -> Iterator[None]:
    """Other forwards for these modules, instance by instance, in this block alone.

    They go into the modules' dictionaries past ``nn.Module.__setattr__``, which looks for weights in all that it is
    given, and recomputation replaces all forwards once a layer.
    """
    before = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module, own in before.items():
            if own is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own


def attend_in_context(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [B, P, n, D], key [B, G, Sk, D], value [B, G, Sk, E]; [B, n, P, E].

    ``s_aux`` [P], if given, are the logits of attention sinks; ``indices`` or ``block_indices`` what an indexer chose.
    """
    del sliding_window  # the mask says which tokens are seen; some models name a window here that theirs does not have
    context = active_context()
    handed, context.handed = context.handed, None
    if isinstance(handed, KeyBias):
        attention_mask, value = handed.sight, torch.cat((value, handed.terms[..., None]), dim=3)
    sight = Sight() if attention_mask is None else attention_mask
    _refuse_unknown(module, sight, others)
    context.attention_calls += 1
    kind = query.device.type
    if torch.is_autocast_enabled(kind):  # where cos and sin made float32 of query and key
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    chosen = next((others[name] for name in CHOSEN if others.get(name) is not None), sight.chosen)
    rows: list[tuple[Tensor, Tensor]] = []
    if context.layer_keys is not None:
        counted = any(x is not None for x in (handed, chosen, context.near, sight.chunk, context.documents))
        kept = context.layer_keys.update(key, value, window=None if counted else sight.window)
        rows, (key, value) = (kept, kept[0]) if isinstance(kept, list) else ([], kept)
    elif context.shard:
        key, value = context.shard.gather(key), context.shard.gather(value)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    given: dict[str, Any] = {"scale": scale, "softcap": softcap, "sinks": others.get("s_aux")}
    work: Callable[..., Tensor] = partial(
        attend_causal, window=sight.window, chunk=sight.chunk, kept=context.kept, **given
    )
    if isinstance(handed, Compressed):
        work = partial(attend_compressed, handed, scale=scale, window=sight.window, sinks=others.get("s_aux"))
    elif isinstance(handed, KeyBias):
        work = partial(attend_biased, scale=scale, window=sight.window, keep=handed.keep)
    if context.near and context.near.concerns(module, whole=sight.window is None and sight.chunk is None):
        other, widths = handed is not None or chosen is not None, (key.shape[3], value.shape[3])
        context.near.check(module, apart=bool(context.documents), other=other, widths=widths)
        if context.near.parts is None:
            work = partial(_moved_on, work, context.near)
        else:
            work = partial(attend_in_parts, near=context.near, **given)
    chosen = chosen if chosen is not None and chosen.shape[-1] else None
    parts = [_attend(context, work, query[i : i + 1], *pair, None) for i, pair in enumerate(rows)]
    output = torch.cat(parts) if rows else _attend(context, work, query, key, value, chosen)
    return output.transpose(1, 2).contiguous(), None  # some models take a view of it


def _moved_on(work: Callable[..., Tensor], near: NearExact, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with queries and keys at the positions that a method gives them: for queries of one run of tokens."""
    return work(*near.moved_on(query, key), value)


def _refuse_dropout(network: Any) -> None:
    """Raise ModelError for a network in training that drops hidden states at random."""
    if network.training and any(isinstance(x, nn.Dropout) and x.training and x.p > 0 for x in network.modules()):
        raise ModelError(
            "The network is in training mode and has dropout.",
            "Passes are without dropout, so that the same text has the same losses.",
            "Put it into evaluation mode: model.network.eval().",
        )


def _refuse_unknown(module: nn.Module, sight: Any, others: dict[str, Any]) -> None:
    """Raise ModelError for attention that a long pass does not know."""
    known = (*HARMLESS, "s_aux", *CHOSEN)
    unknown = [name for name, value in others.items() if isinstance(value, Tensor) and name not in known]
    unknown += ["dropout"] * bool(others.get("dropout")) + ["attention_mask"] * (not isinstance(sight, Sight))
    if unknown:
        raise ModelError(
            f"{type(module).__name__} asks for attention with {unknown[0]}.",
            "A long pass knows causal attention with sliding windows, chunks, soft caps and sinks, without a mask that "
            "the model makes for each pair of tokens, and without dropout.",
            "Put the model into eval mode if it is in training; another model type is not supported.",
        )


def _attend(
    context: ForwardContext,
    work: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    chosen: Tensor | None,
) -> Tensor:
    """Attention [B, P, n, E] within documents and to the keys of all processes, or to those that an indexer chose."""
    if context.documents is not None and chosen is None:  # an indexer chooses within a document
        work = partial(attend_within, context.documents, work)
    if context.shard is None:
        return work(query, key, value, **({} if chosen is None else {"chosen": chosen}))
    shard = context.shard
    chunk = key.shape[2] // (2 * shard.ranks)
    ends = ((shard.rank + 1) * chunk, (2 * shard.ranks - shard.rank) * chunk)  # of its head and tail chunk
    seen = [{}, {}] if chosen is None else [{"chosen": part} for part in chosen.chunk(2, dim=-2)]
    parts = zip(query.chunk(2, dim=2), ends, seen, strict=True)
    return torch.cat([work(own, key[:, :, :end], value[:, :, :end], **x) for own, end, x in parts], dim=2)
