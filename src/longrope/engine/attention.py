"""Exact causal attention over long sequences without a mask.

Queries are the last positions of the keys: query i of Sq sees the keys up to Sk - Sq + i. Kernels that cannot align the
causal triangle so take the prefix that all queries see and the triangle one after the other; the two outputs are merged
by their log-sum-exps. Documents that are not to see each other are attended to one after the other, and so are chunks.

Sinks are logits, one a query head, that enter the sum of each softmax beside the scores and add nothing to the output.
To kernels that do not know them they are applied afterwards, by the log-sum-exp; where gradients are taken, which torch
has for no log-sum-exp, as one more key whose value is zero.

Shape legend: B = batch, H = query heads, G = key/value heads, Sq = queries, Sk = keys, D = head dimension.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from longrope.engine.backward import KeptOutputs, KernelPair, attend_aligned, attend_with_backward
from longrope.engine.graphs import attend_with_graph, attend_with_sink_key
from longrope.engine.kernels import Heads, Kernel, attend_one, choose_kernel, takes_windows, window_attention
from longrope.engine.merging import beside_sinks
from longrope.engine.trials import choose_masked

Documents = Sequence[Sequence[int]]  # where they begin in each row of a batch: 0, then ascending
SCORES_PER_BLOCK = 2**26  # attention scores that are held at once where no kernel streams them


def attend_causal(  # noqa: PLR0913  # what families ask of attention are its arguments
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    chosen: Tensor | None = None,
    kept: KeptOutputs | None = None,
) -> Tensor:
    """Causal attention by a kernel, or in blocks where a window, a soft cap or an indexer has something to do.

    Args:
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D'].
        scale: of the scores.
        window: how many positions a query sees, its own included; None for all before it.
        chunk: tokens of the chunks, counted from the first key, out of which no query sees; None for no chunks.
        softcap: scores become softcap * tanh(score / softcap).
        sinks: [H] logits of the sinks.
        chosen: what each query sees alone (see ``attend_chosen``).
        kept: as in ``attend_with_backward``; blocks keep nothing there.

    Returns:
        [B, H, Sq, D'].
    """
    width, room = value.shape[3], query.shape[3] - value.shape[3]
    if room > 0:  # kernels take one size of heads
        value = functional.pad(value, (0, room))
    elif room < 0:
        query, key = (functional.pad(x, (0, -room)) for x in (query, key))
    if chosen is not None:
        work = partial(attend_chosen, chosen=chosen, scale=scale, softcap=softcap, sinks=sinks)
    elif kernel := _choose_masked(query, key, value, window, softcap, sinks):
        limit = window if window is not None and window < key.shape[2] else None
        masks: dict[str, Any] = {"window": limit, "softcap": softcap, "sinks": sinks}
        work = partial(attend_with_backward, KernelPair(kernel, kernel), scale=scale, kept=kept, **masks)
    elif window is not None and window < key.shape[2] and _takes_windows(query, key, value, softcap, sinks):
        work = partial(attend_in_window, scale=scale, window=window, sinks=sinks)
    elif softcap is not None or (window is not None and window < key.shape[2]):
        work = partial(attend_in_blocks, scale=scale, window=window, softcap=softcap, sinks=sinks)
    else:
        work = partial(attend, scale=scale, sinks=sinks, kept=kept)
    if chunk is not None and chunk < key.shape[2]:
        work = partial(_attend_apart, range(0, key.shape[2], chunk), work)
    output = work(query, key, value)
    return output[..., :width] if room else output


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    sinks: Tensor | None = None,
    kept: KeptOutputs | None = None,
) -> Tensor:
    """Causal attention [B, H, Sq, D] of queries at the end of the keys [B, G, Sk, D], by the fastest kernel."""
    heads = Heads(query.shape[1], key.shape[1], query.shape[3])
    graph = takes_gradients(query, key, value, sinks)
    decoding = query.shape[2] == 1 and not graph
    kernel, _ = choose_kernel(query.device, query.dtype, heads, decoding=decoding)
    if graph:
        if sinks is None:
            return attend_with_graph(kernel, query, key, value, scale, kept)
        return attend_with_sink_key(partial(attend_with_graph, kernel, kept=kept), query, key, value, scale, sinks)
    if decoding:
        output, lse = attend_one(kernel, query, key, value, scale=scale)
    else:
        output, lse = attend_aligned(kernel, query, key, value, scale)
    return output if sinks is None else beside_sinks(output, lse, sinks)


def attend_within(
    documents: Documents, attention: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Attention [B, H, Sq, D] of queries to their own documents alone.

    Args:
        documents: of each of the B rows; the last one of a row goes on to the last key.
        attention: (query, key, value) -> output, causal, for queries at the last positions of the keys.
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D].
    """
    rows = []
    for row, starts in enumerate(documents):
        own = slice(row, row + 1)
        rows.append(_attend_apart(starts, attention, query[own], key[own], value[own]))
    return torch.cat(rows)


def _attend_apart(
    starts: Sequence[int], attention: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Attention of each query to its own one of the parts that begin at these keys; parts without queries cost none."""
    end = key.shape[2]
    begin = end - query.shape[2]
    met = starts[bisect_right(starts, begin) - 1 : bisect_left(starts, end)]
    parts = [
        attention(query[:, :, max(a, begin) - begin : b - begin], key[:, :, a:b], value[:, :, a:b])
        for a, b in pairwise((*met, end))
    ]
    return torch.cat(parts, dim=2)


def attend_in_window(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float, window: int, sinks: Tensor | None = None
) -> Tensor:
    """``attend_in_blocks`` by a kernel that knows windows."""
    output, lse = window_attention(query, key, value, scale=scale, window=window)
    return output if sinks is None else beside_sinks(output, lse, sinks)


def takes_gradients(*given: Tensor | None) -> bool:
    """Whether gradients of any of these are wanted."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)


def _choose_masked(
    query: Tensor, key: Tensor, value: Tensor, window: int | None, softcap: float | None, sinks: Tensor | None
) -> Kernel | None:
    """The kernel for windows, soft caps, and sinks with gradients, where there is one; none for a single query.

    Without gradients the fastest kernel serves sinks, too.
    """
    graph, limited = takes_gradients(query, key, value, sinks), window is not None and window < key.shape[2]
    if query.shape[2] == 1 or not (limited or softcap is not None or (sinks is not None and graph)):
        return None
    return choose_masked(
        query.device,
        query.dtype,
        Heads(query.shape[1], key.shape[1], query.shape[3]),
        window=window if limited else None,
        softcap=softcap,
        sinks=sinks is not None,
        gradients=graph,
        by_torch=limited and _takes_windows(query, key, value, softcap, sinks),
    )


def _takes_windows(query: Tensor, key: Tensor, value: Tensor, softcap: float | None, sinks: Tensor | None) -> bool:
    """Whether ``attend_in_window`` serves: it knows no soft caps, and sinks without gradients alone."""
    if softcap is not None or (sinks is not None and takes_gradients(query, key, value, sinks)):
        return False
    return takes_windows(query.device, query.dtype, Heads(query.shape[1], key.shape[1], query.shape[3]))


def attend_in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention with a sliding window or capped scores, block by block of queries, each with the keys it sees.

    Work and memory grow with the pairs that the window lets see each other. Blocks that see equally many keys are taken
    several at a time.

    Args:
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D].
        scale: of the scores.
        window: how many positions a query sees, its own included; None for all before it.
        softcap: scores become softcap * tanh(score / softcap).
        sinks: [H] logits of the sinks.
    """
    sq, sk = query.shape[2], key.shape[2]
    reach = min(window or sk, sk)
    rows = query.shape[0] * query.shape[1]
    block = max(1, min(sq, reach, SCORES_PER_BLOCK // (rows * reach)))
    most = max(1, SCORES_PER_BLOCK // (rows * block * (block + reach - 1)))  # blocks at once
    outputs = []
    first = 0
    while first < sq:
        before = sk - sq + first - reach + 1  # where the keys of this block begin
        count = max(1, min(most, (sq - first) // block)) if before >= 0 else 1
        last = min(first + count * block, sq)
        mask = _band(min(block, sq - first), max(before, 0) - before, reach, query.device)
        ends = max(before, 0), sk - sq + last
        given = [x[:, :, slice(*ends)].repeat_interleave(query.shape[1] // key.shape[1], dim=1) for x in (key, value)]
        if count == 1:
            outputs.append(attend_masked(query[:, :, first:last], given[0], given[1], mask, scale, softcap, sinks))
        else:
            asked = _in_blocks(query[:, :, first:last], block, block)
            key_part, value_part = (_in_blocks(x, block + reach - 1, block) for x in given)
            found = attend_masked(asked, key_part, value_part, mask, scale, softcap, sinks)
            outputs.append(found.unflatten(0, (count, -1)).movedim(0, 2).flatten(2, 3))
        first = last
    return torch.cat(outputs, dim=2)


def attend_chosen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    chosen: Tensor,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    most_scores: int = SCORES_PER_BLOCK,
) -> Tensor:
    """Attention of each query to some keys alone, block by block of queries; blocks are recomputed for gradients.

    Args:
        query: [B, H, Sq, D], at the last positions of the keys.
        key: [B, G, Sk, D].
        value: [B, G, Sk, D].
        chosen: [B, Sq, C] or, for each key/value head, [B, G, Sq, C] the keys that a query sees, none later than it.
        scale: of the scores.
        softcap: scores become softcap * tanh(score / softcap).
        sinks: [H] logits of the sinks.
        most_scores: that a block may hold.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    chosen = chosen[:, None] if chosen.ndim == 3 else chosen.repeat_interleave(groups, dim=1)
    before = key.shape[2] - query.shape[2]
    rows = max(1, most_scores // (query.shape[0] * query.shape[1] * key.shape[2]))
    graph = takes_gradients(query, key, value)

    def work(asked: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
        mask = torch.zeros(*seen.shape[:3], key.shape[2], dtype=torch.bool, device=key.device)
        return attend_masked(asked, key, value, mask.scatter_(3, seen.long(), value=True), scale, softcap, sinks)

    outputs = []
    for first in range(0, query.shape[2], rows):
        cut = slice(first, min(first + rows, query.shape[2]))
        given = (query[:, :, cut], *(x[:, :, : before + cut.stop] for x in (key, value)), chosen[:, :, cut])
        outputs.append(checkpoint(work, *given, use_reentrant=False) if graph else work(*given))
    return torch.cat(outputs, dim=2)


def _band(queries: int, left_out: int, reach: int, device: torch.device) -> Tensor:
    """[queries, keys] which keys a block sees: ``reach`` up to its own, but the ``left_out`` before the first key."""
    at = torch.arange(queries, device=device)[:, None]
    seen = torch.arange(left_out, queries + reach - 1, device=device)[None]
    return (seen >= at) & (seen < at + reach)


def _in_blocks(x: Tensor, size: int, step: int) -> Tensor:
    """[pieces * B, H, size, D]: pieces of [B, H, S, D] that begin every ``step`` positions, piece by piece."""
    return x.unfold(2, size, step).movedim(2, 0).transpose(3, 4).flatten(0, 1)


def attend_masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention [B, H, Sq, D] of queries to the keys [B, H, Sk, D] that a mask [B or 1, H or 1, Sq, Sk] shows them."""
    if softcap is None and sinks is None:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = query @ key.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks[:, None, None].to(scores).expand(*scores.shape[:3], 1)), dim=3)
    shares = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return shares[..., : key.shape[2]].to(value.dtype) @ value
