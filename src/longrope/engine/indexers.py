"""Sparse attention: layers whose queries see those tokens alone that an indexer chooses for them.

An indexer scores all tokens that a query may see, by keys of its own, and the layer attends to the best of them.
transformers' indexers score all queries at once and their layers make a mask of the choice. Here indexers are called
for a block of queries at a time, and what they choose is handed to our attention as numbers of tokens. Where a sequence
has no more tokens than an indexer chooses, nothing is scored: attention is plain.

Shape legend: B = batch, n = tokens at hand, T = tokens so far, q = queries of a block, C = tokens that a query sees,
G = key/value heads, D = width of an indexer's keys, R = tokens of a block of keys.
"""

import inspect
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from longrope.engine.attention import SCORES_PER_BLOCK, Documents

Given = dict[str, Any]  # what a layer gives to its indexer, by name


class Context(Protocol):
    """What an indexer needs to know of the pass that it runs in."""

    documents: Documents | None

    def keys_of_all(self, new: Tensor) -> Tensor:
        """[B, T, D] the keys of all tokens so far, from those of the tokens at hand [B, n, D]."""

    def slots(self, tokens: int, total: int) -> Tensor:
        """[n] int64, on the CPU: where the tokens at hand stand among all."""

    def longest(self, total: int) -> int:
        """How many tokens the sequence may come to."""


class _Cache:
    """Stands in for transformers' cache: keeps the keys that an indexer makes, or hands it those of all tokens."""

    def __init__(self, keys: Tensor | None = None) -> None:
        self.keys = keys
        self.layers = _Everywhere(self)

    def update_indexer(self, new: Tensor, _layer: int) -> Tensor:
        """[B, T, D]; of keys that are to be kept the first alone, so that next to nothing is scored."""
        if self.keys is None:
            self.keys = new
            return new[:, :1]
        return self.keys

    def update_index(self, new: Tensor) -> Tensor:
        """[B, 1, T, D], as MiniMax-M3 asks for them."""
        return self.update_indexer(new[:, 0], 0)[:, None]


class _Everywhere:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __getitem__(self, _: int) -> Any:
        return self.value


class TokenIndexer:
    """DeepSeek's, which chooses tokens: [B, n, C]; C is 0 where every token is seen."""

    def __init__(self, module: Any, context: Context) -> None:
        """Call this indexer's own forward, in this pass."""
        self.module, self.context, self.forward = module, context, module.forward
        self.names = list(inspect.signature(type(module).forward).parameters)[1:]
        self.cache = "cache" if "cache" in self.names else "past_key_values"  # before 5.24
        self.heads = next(getattr(module, name) for name in ("n_heads", "num_heads") if hasattr(module, name))

    @property
    def most(self) -> int:
        """How many tokens are chosen at most."""
        return int(self.module.index_topk)

    @torch.no_grad()
    def run(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the indexer's forward is given; returns the tokens that each query sees."""
        given = dict(zip(self.names, args, strict=False)) | kwargs
        hidden: Tensor = given["hidden_states"]
        batch, tokens, _ = hidden.shape
        keys = self.context.keys_of_all(self.make_keys(given))
        total = keys.shape[1]
        if self.context.longest(total) <= self.most:
            return hidden.new_empty(self.shape(batch, tokens, 0), dtype=torch.int32)
        slots = self.context.slots(tokens, total)
        chosen = hidden.new_empty(self.shape(batch, tokens, self.most), dtype=torch.int32)
        for rows, start, queries in _documents(self.context.documents, batch, slots):
            count = max(1, SCORES_PER_BLOCK // (batch * self.heads * total))
            for block in queries.split(count):
                own = slots[block] - start
                part = {name: _rows(value, rows, block.to(hidden.device)) for name, value in given.items()}
                seen = keys[rows, start : start + int(own.max()) + 1]
                found = self.choose(part, seen, own.to(hidden.device))
                chosen[rows, ..., block.to(hidden.device), :] = (start + found).to(torch.int32)
        return chosen

    def shape(self, batch: int, tokens: int, most: int) -> tuple[int, ...]:
        """Of what is chosen."""
        return batch, tokens, most

    def make_keys(self, given: Given) -> Tensor:
        """[B, n, D] the indexer's keys of the tokens at hand."""
        kept = _Cache()
        seen = torch.ones(1, 1, 1, dtype=torch.bool, device=given["hidden_states"].device)
        self.forward(**{**given, "attention_mask": seen, self.cache: kept})
        assert kept.keys is not None
        return kept.keys

    def choose(self, given: Given, keys: Tensor, own: Tensor) -> Tensor:
        """[B, q, C] tokens for queries that stand at these places [q] among the keys [B, T, D]."""
        seen = torch.arange(keys.shape[1], device=own.device) <= own[:, None]
        found = self.forward(**{**given, "attention_mask": seen[None], self.cache: _Cache(keys)})
        return _filled(found, own, self.most)


class BlockIndexer(TokenIndexer):
    """MiniMax-M3's, which chooses blocks of tokens for each key/value head: [B, G, n, C]."""

    @property
    def most(self) -> int:
        """How many tokens are chosen at most."""
        return int(self.module.topk_blocks * self.module.block_size)

    def shape(self, batch: int, tokens: int, most: int) -> tuple[int, ...]:
        """Of what is chosen."""
        return batch, self.heads, tokens, most

    def make_keys(self, given: Given) -> Tensor:
        """[B, n, D] the indexer's keys of the tokens at hand."""
        kept = _Cache()
        self.forward(**{**given, "position_ids": torch.zeros_like(given["position_ids"]), self.cache: kept})
        assert kept.keys is not None
        return kept.keys

    def choose(self, given: Given, keys: Tensor, own: Tensor) -> Tensor:
        """[B, G, q, C] tokens for queries that stand at these places [q] among the keys [B, T, D]."""
        blocks = self.forward(**{**given, "position_ids": own.expand(len(keys), -1), self.cache: _Cache(keys)})
        return _filled(_tokens_of(blocks, self.module.block_size, own), own, self.most)


class PooledIndexer:
    """Qwen4's, which scores whole blocks of keys by their mean: what it sees is [B, n, C].

    Its own forward goes through the queries one by one; the same is computed for blocks of them. Its layers stand among
    recurrent ones, so transformers' cache keeps its keys, and sequences are whole in one process.
    """

    def __init__(self, module: Any, context: Context) -> None:
        """Take the place of this indexer's own forward, in this pass."""
        self.module, self.context = module, context
        self.turn: Callable[..., Tensor] = vars(sys.modules[type(module).__module__])["apply_rotary_pos_emb"]

    @torch.no_grad()
    def run(self, hidden_states: Tensor, position_embeddings: Any, attention_mask: Any, cache: Any) -> Any:
        """The mask that says what each query sees, from what the indexer's forward is given."""
        module, tokens = self.module, hidden_states.shape[1]
        size, heads, width = module.compress_ratio, module.index_n_heads, module.index_head_dim
        both = module.index_qk_proj(hidden_states)
        query, new = both.unflatten(-1, (-1, width)).split([heads, both.shape[-1] // width - heads], dim=2)
        keys = new.squeeze(2) if cache is None else cache.update_indexer(new.squeeze(2), module.layer_idx)
        total = keys.shape[1]
        if total // size <= module.block_topk:
            return attention_mask
        cos, sin = (x.expand(len(keys), -1, -1) for x in position_embeddings)
        query = self.turn(module.q_layernorm(query), cos=cos[:, -tokens:], sin=sin[:, -tokens:], unsqueeze_dim=2)
        pooled = self._pool(keys, cos, sin)
        own = torch.arange(total - tokens, total, device=keys.device)
        count = max(1, SCORES_PER_BLOCK // (len(keys) * heads * pooled.shape[1]))
        parts = zip(query.split(count, dim=1), own.split(count), strict=True)
        chosen = [self._choose(asked, pooled, at) for asked, at in parts]
        return replace(attention_mask, chosen=torch.cat(chosen, dim=1))

    def _pool(self, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, T / R, D] a key for each whole block of keys [B, T, D], turned as the first of them."""
        size = self.module.compress_ratio
        blocks = keys[:, : keys.shape[1] // size * size].unflatten(1, (-1, size))
        pooled = self.module.k_layernorm(blocks.float().mean(dim=2).to(keys.dtype))
        starts = slice(0, blocks.shape[1] * size, size)
        return self.turn(pooled[:, :, None], cos=cos[:, starts], sin=sin[:, starts], unsqueeze_dim=2)[:, :, 0]

    def _choose(self, query: Tensor, pooled: Tensor, own: Tensor) -> Tensor:
        """[B, q, C] the tokens of the best blocks, and those after the last whole block, for queries [B, q, heads, D].

        A query need not see itself: where tokens are missing, one that it does see is named again.
        """
        size, most = self.module.compress_ratio, self.module.block_topk
        whole = (own + 1) // size
        scores = torch.einsum("bqhd,bkd->bqhk", query.float(), pooled.float()).relu().sum(2)
        scores = scores / math.sqrt(self.module.index_head_dim)
        seen = torch.arange(pooled.shape[1], device=own.device) < whole[:, None]
        best = scores.masked_fill(~seen, -torch.inf).topk(most, dim=-1).indices
        rest = (whole * size)[:, None] + torch.arange(size - 1, device=own.device)
        tokens = torch.cat((_tokens_of(best, size, own), rest.expand(len(best), -1, -1)), dim=-1)
        again = torch.where(whole > 0, best[..., 0] * size, own)[..., None]
        return torch.where(tokens > own[:, None], again, tokens).to(torch.int32)


INDEXERS: dict[str, type[TokenIndexer] | type[PooledIndexer]] = {
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa", "axk2", "hy_v4", "dots3_note_text"), TokenIndexer),
    "minimax_m3_vl_text": BlockIndexer,
    "qwen4_exp_text": PooledIndexer,
}


def adapt_indexers(network: Any, context: Context) -> dict[Any, Callable[..., Any]]:
    """Other forwards of the indexers of a network; none for most."""
    kind = INDEXERS.get(network.config.model_type)
    if kind is None:
        return {}
    modules = [module for module in network.modules() if type(module).__name__.endswith("Indexer")]
    return {module: torch.compiler.disable(kind(module, context).run) for module in modules}


def _documents(documents: Documents | None, batch: int, slots: Tensor) -> Iterator[tuple[slice, int, Tensor]]:
    """(rows, first token, which of the tokens at hand) of each document that some of those belong to."""
    if documents is None:
        yield slice(0, batch), 0, torch.arange(len(slots))
        return
    for row, starts in enumerate(documents):
        for start, end in pairwise((*starts, int(slots.max()) + 1)):
            queries = ((slots >= start) & (slots < end)).nonzero()[:, 0]
            if len(queries):
                yield slice(row, row + 1), start, queries


def _rows(value: Any, rows: slice, block: Tensor) -> Any:
    """What belongs to some rows of the batch and a block of the tokens at hand; cos and sin may have one row."""
    if isinstance(value, tuple):
        return tuple(_rows(part, rows, block) for part in value)
    if not isinstance(value, Tensor):
        return value
    return (value if len(value) == 1 else value[rows])[:, block]


def _tokens_of(blocks: Tensor, size: int, own: Tensor) -> Tensor:
    """The tokens of blocks [..., q, K], [..., q, K R]; the query's own [q] where there is no block (-1)."""
    tokens = blocks[..., None] * size + torch.arange(size, device=blocks.device)
    return torch.where(blocks[..., None] < 0, own[:, None, None], tokens).flatten(-2)


def _filled(found: Tensor, own: Tensor, most: int) -> Tensor:
    """[..., q, most]: tokens [..., q, C] with the query's own [q] where one is later than it, or none was found."""
    seen = torch.minimum(found, own[:, None].to(found))
    missing = own[:, None].to(found).expand(*found.shape[:-1], most - found.shape[-1])
    return torch.cat((seen, missing), dim=-1)
