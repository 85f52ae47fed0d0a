"""Layers that see the last tokens one by one, and all before them as compressed entries (DeepSeek-V4).

A layer's compressor makes one entry of every few tokens and says which entries each query sees: all that are complete,
or those that an indexer chooses. transformers' compressors say it for all queries at once. Here they make their
entries, and are asked for a block of queries at a time when attention comes to it.

Shape legend: B = batch, H = query heads, G = key/value heads, n = tokens at hand, m = tokens that are kept one by one,
E = compressed entries, q = queries of a block, D = head dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from longrope.engine.attention import SCORES_PER_BLOCK, attend_masked, takes_gradients

SUFFIX = "Compressor"  # of the names of their classes
FAMILIES = ("deepseek_v4",)


@dataclass
class Compressed:
    """What the compressor of the layer at work has made.

    Attributes:
        entries: how many there are; their keys stand after those of single tokens.
        see: [B, q, E'] which of the first entries a block of queries sees, those of them that any of it may see.
    """

    entries: int
    see: Callable[[slice], Tensor]


class _Layer:
    """Stands in for a layer of transformers' cache, and for the list of all layers."""

    @property
    def layers(self) -> "_Layer":
        return self

    def __getitem__(self, _: int) -> "_Layer":
        return self


class _Making(_Layer):
    """Takes what a compressor makes; it is shown no entry, so that it compares no query with any.

    Args:
        rate: tokens of an entry.
        real: transformers' own, where the sequence goes on from one.
    """

    def __init__(self, rate: int, real: Any) -> None:
        self.rate, self.real = rate, real
        self.entries: dict[str, Tensor] = {}

    def store_compression_weights(self, name: str, states: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, int]:
        """Those that whole entries are made of, and where the first of them stands."""
        if self.real is not None:
            return self.real.store_compression_weights(name, states, gates)  # type: ignore[no-any-return]
        usable = states.shape[1] // self.rate * self.rate
        return states[:, :usable], gates[:, :usable], 0

    def update_overlap_state(self, *given: Any) -> Any:
        """What the entry before passes on to the first one."""
        return (None, None) if self.real is None else self.real.update_overlap_state(*given)

    def update_compressor_states(self, name: str, made: Tensor) -> Tensor:
        """Keep the entries [B, E, D], and return none."""
        self.entries[name] = made if self.real is None else self.real.update_compressor_states(name, made)
        return self.entries[name][:, :0]


class _Made(_Layer):
    """Shows a compressor the first of the entries that were made, and has it make no others."""

    def __init__(self, entries: dict[str, Tensor], count: int) -> None:
        self.entries, self.count = entries, count

    def store_compression_weights(self, _: str, states: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, int]:
        """Nothing to make entries of."""
        return states[:, :0], gates[:, :0], 0

    def update_compressor_states(self, name: str, _: Tensor) -> Tensor:
        """[B, E', D] the entries."""
        return self.entries[name][:, : self.count]


def adapt_compressors(network: Any, hand_over: Callable[[Compressed], None]) -> dict[Any, Callable[..., Any]]:
    """Other forwards of the compressors of a network, which hand over what they made; none for most."""
    if network.config.model_type not in FAMILIES:
        return {}
    modules = [module for module in network.modules() if type(module).__name__.endswith(SUFFIX)]
    return {module: torch.compiler.disable(partial(_compress, module, module.forward, hand_over)) for module in modules}


def _compress(
    module: Any,
    forward: Callable[..., Any],
    hand_over: Callable[[Compressed], None],
    hidden: Tensor,
    queries: Tensor,
    position_ids: Tensor,
    cache: Any,
    layer: int,
) -> tuple[Tensor, None]:
    """The keys of all entries [B, 1, E, D]; no mask, for attention asks for it block by block."""
    making = _Making(module.compress_rate, None if cache is None else cache.layers[layer])
    forward(hidden, queries, position_ids, making, layer)
    keys = making.entries["compressor"]
    known = {name: made.detach() for name, made in making.entries.items()}

    @torch.no_grad()
    def see(cut: slice) -> Tensor:
        places = position_ids[:, cut]
        count = min(keys.shape[1], (int(places.max()) + 1) // module.compress_rate)
        bias = None
        if count:
            _, bias = forward(hidden[:, cut], queries[:, cut], places, _Made(known, count), layer)
        if bias is None:  # one query, which sees all that are complete
            return torch.ones(len(hidden), places.shape[1], count, dtype=torch.bool, device=hidden.device)
        seen: Tensor = bias[:, 0] == 0
        return seen.expand(len(hidden), -1, -1)

    hand_over(Compressed(keys.shape[1], see))
    return keys[:, None], None


def attend_compressed(
    compressed: Compressed,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention to the last tokens and to compressed entries, block by block; blocks are recomputed for gradients.

    Args:
        compressed: the entries.
        query: [B, H, n, D], at the last positions of the single tokens.
        key: [B, G, m + E, D] of single tokens, then of entries.
        value: [B, G, m + E, D].
        scale: of the scores.
        window: how many single tokens a query sees, its own included.
        sinks: [H] logits of the sinks.

    Returns:
        [B, H, n, D].
    """
    batch, heads, tokens, _ = query.shape
    single = key.shape[2] - compressed.entries
    window = min(window or single, single)
    rows = max(1, min(window, SCORES_PER_BLOCK // (batch * heads * (compressed.entries + 2 * window))))
    graph = takes_gradients(query, key, value)

    def work(asked: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
        return attend_masked(asked, key, value, mask, scale, None, sinks)

    outputs = []
    for first in range(0, tokens, rows):
        cut = slice(first, min(first + rows, tokens))
        end = single - tokens + cut.stop
        start = max(0, single - tokens + first - window + 1)
        own = torch.arange(single - tokens + first, end, device=query.device)[:, None]
        seen = torch.arange(start, end, device=query.device)
        near = ((seen <= own) & (seen > own - window)).expand(batch, -1, -1)
        far = compressed.see(cut)
        mask = torch.cat((near, far), dim=2)[:, None]
        parts = [torch.cat((x[:, :, start:end], x[:, :, single : single + far.shape[2]]), dim=2) for x in (key, value)]
        given = (query[:, :, cut], *parts, mask)
        outputs.append(checkpoint(work, *given, use_reentrant=False) if graph else work(*given))
    return torch.cat(outputs, dim=2)
