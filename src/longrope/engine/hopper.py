"""Attention for Hopper GPUs, forward only, that spends little on exponentials.

With heads of 64 a Hopper GPU under load is short of power, not of products, and what a score costs beside its products
counts. FlashAttention scales every score, looks for the row's maximum, subtracts it and adds up. Here, beyond the
tiles that hold a row's last keys, a score costs one exponential and half a conversion:

* Queries are scaled once, by the scale times log2(e), so that products of queries and keys are octaves. They are
  rounded to float16's 11 bits for that, and keys, of 8 bits, go with them into float16 as they are.
* No maximum: any base of a row's exponentials gives the same shares to rounding while nothing overflows, and bfloat16
  has float32's range. The base is the row's maximum over the tiles that the causal diagonal or the end of the keys
  runs through, and where no base there is far from 0, none is subtracted.
* Sums are products of the shares with ones: of the rounded shares, as the values' products are.

A score far above its row's base shows in the row's sum. A block of queries where that happened is done again, with the
running maximum.

The rest is FlashAttention 3's division of labour: one warp copies tiles of keys and values into shared memory (TMA),
three warpgroups take 64 queries each (two, where heads of 256 fill the registers), and while the products of one tile's
shares and values run, the next tile's shares are computed. Written in Gluon, the layer of Triton in which layouts and
waits are explicit; Triton comes with torch for GPUs.

Shape legend: B = batch, H = query heads, G = key/value heads, Sq = queries, Sk = keys, D = head dimension.
"""

from math import nan

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

ROWS = gl.constexpr(64)  # queries of a warpgroup, those of its instructions
COPY_REGISTERS = gl.constexpr(24)  # a thread of the warp that copies
# By head dimension: keys in a tile, tiles of keys that are held at once, warpgroups, and registers of a thread of them.
TILES = {64: (128, 2, 3, 160), 128: (64, 3, 3, 160), 256: (64, 2, 2, 240)}
LARGEST_BASE = gl.constexpr(50.0)  # in octaves, that need not be subtracted
LARGEST_SUM = gl.constexpr(2.0**100)  # of a row's exponentials; float32 holds values to 2 ** 27 weighted by them
LOG2_E = 1.4426950408889634
SECTION_BLOCKS = 512  # of queries, so that the GPU's 132 multiprocessors end together


@gluon.jit
def _locate(sizes, WARPGROUPS: gl.constexpr):
    """The block of queries, the head and the batch row of this program.

    Heads come in sections of those that read the same keys; within a section long blocks come first, so that no program
    begins a long one when the others are at their last.
    """
    queries, _, _, heads, _, section = sizes
    blocks = gl.cdiv(queries, WARPGROUPS * ROWS)
    first = gl.program_id(0) // (blocks * section) * section
    own = gl.minimum(section, heads - first)
    place = gl.program_id(0) % (blocks * section)
    return blocks - 1 - place // own, first + place % own, gl.program_id(1)


@gluon.jit
def _count_tiles(block, sizes, WARPGROUPS: gl.constexpr, KEYS: gl.constexpr):
    """How many tiles of keys a block of queries sees."""
    _, keys, shift, _, _, _ = sizes
    return gl.cdiv(gl.minimum(keys, (block + 1) * (WARPGROUPS * ROWS) + shift), KEYS)


@gluon.jit
def _stage(i, STAGES: gl.constexpr):
    """Where the i-th tile is held, and the phase of its barriers."""
    return i % STAGES, (i // STAGES) & 1


@gluon.jit
def _read_verdict(verdicts, judged):
    """Whether a warpgroup's sums overflowed, 0 or 1, once all have said so."""
    ONE: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    WARPGROUPS: gl.constexpr = verdicts.shape[0]
    mbarrier.wait(judged, 0)
    found = 0
    for warpgroup in gl.static_range(WARPGROUPS):
        found = gl.maximum(found, gl.max(verdicts.index(warpgroup).load(ONE), axis=0))
    return found


@gluon.jit
def _copy(maps, buffers, barriers, sizes):
    """The producer: tiles of keys and values from the last that the block sees to the first."""
    key_map, value_map = maps
    _, key_buffer, value_buffer, _, verdicts = buffers
    _, key_full, key_empty, value_full, value_empty, judged = barriers
    STAGES: gl.constexpr = key_buffer.shape[0]
    KEYS: gl.constexpr = key_buffer.shape[3]
    WARPGROUPS: gl.constexpr = verdicts.shape[0]
    block, head, row = _locate(sizes, WARPGROUPS)
    group = head // (sizes[3] // sizes[4])
    count = _count_tiles(block, sizes, WARPGROUPS, KEYS)
    attempts = 1
    attempt = 0
    while attempt < attempts:
        for i in range(count):
            stage, full = _stage(attempt * count + i, STAGES)
            at = (count - 1 - i) * KEYS
            mbarrier.wait(key_empty.index(stage), full ^ 1)
            mbarrier.expect(key_full.index(stage), key_map.block_type.nbytes)
            tma.async_copy_global_to_shared(
                key_map, [row, group, at, 0], key_full.index(stage), key_buffer.index(stage)
            )
            mbarrier.wait(value_empty.index(stage), full ^ 1)
            mbarrier.expect(value_full.index(stage), value_map.block_type.nbytes)
            tma.async_copy_global_to_shared(
                value_map, [row, group, at, 0], value_full.index(stage), value_buffer.index(stage)
            )
        if attempt == 0:
            attempts += _read_verdict(verdicts, judged)
        attempt += 1


@gluon.jit
def _exp2(x):
    """2 ** x; volatile, so that it stays before the waits that follow it and runs while products do."""
    return gl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=False, pack=1)


@gluon.jit
def _multiply_keys(query, key_buffer, stage, zeros):
    KEYS: gl.constexpr = key_buffer.shape[3]
    DIM: gl.constexpr = key_buffer.shape[4]
    key = key_buffer.index(stage).reshape([KEYS, DIM]).permute((1, 0))
    return warpgroup_mma(query, key, zeros, use_acc=False, is_async=True)


@gluon.jit
def _multiply_values(shares, value_buffer, stage, output):
    KEYS: gl.constexpr = value_buffer.shape[3]
    DIM: gl.constexpr = value_buffer.shape[4]
    return warpgroup_mma(shares, value_buffer.index(stage).reshape([KEYS, DIM]), output, is_async=True)


@gluon.jit
def _multiply_ones(shares, ones, sums, SUMS: gl.constexpr):
    shares = gl.convert_layout(shares, gl.DotOperandLayout(0, SUMS, 2), assert_trivial=True)
    return warpgroup_mma(shares, ones.permute((1, 0)), sums, is_async=True)


@gluon.jit
def _weigh(scores, base, SHIFTED: gl.constexpr):
    return _exp2(scores - base[:, None]) if SHIFTED else _exp2(scores)


@gluon.jit
def _add_whole_tiles(
    query, base, output, buffers, barriers, start, end, zeros, SHARES: gl.constexpr, SHIFTED: gl.constexpr
):
    """Sums of exponentials of rows over tiles that need no mask, and the output with those tiles added.

    While the products of one tile's shares and values run, the next tile's shares are computed.
    """
    _, key_buffer, value_buffer, ones, _ = buffers
    _, key_full, key_empty, value_full, value_empty, _ = barriers
    STAGES: gl.constexpr = key_buffer.shape[0]
    SUMS: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, 8, 16])
    stage, full = _stage(start, STAGES)
    mbarrier.wait(key_full.index(stage), full)
    scores = warpgroup_mma_wait(0, (_multiply_keys(query, key_buffer, stage, zeros),))
    mbarrier.arrive(key_empty.index(stage))
    shares = _weigh(scores, base, SHIFTED)
    sums = gl.zeros([ROWS, 8], gl.float32, SUMS)
    weights = gl.convert_layout(shares.to(value_buffer.dtype), SHARES)
    mbarrier.wait(value_full.index(stage), full)
    for i in range(start + 1, end):
        following, full = _stage(i, STAGES)
        mbarrier.wait(key_full.index(following), full)
        scores = _multiply_keys(query, key_buffer, following, zeros)
        output = _multiply_values(weights, value_buffer, stage, output)
        sums = _multiply_ones(weights, ones, sums, SUMS)
        scores = warpgroup_mma_wait(2, (scores,))
        shares = _weigh(scores, base, SHIFTED)
        mbarrier.wait(value_full.index(following), full)  # here: the exponentials stay before what follows
        output, sums, weights = warpgroup_mma_wait(0, (output, sums, weights))
        mbarrier.arrive(value_empty.index(stage))
        mbarrier.arrive(key_empty.index(following))
        weights = gl.convert_layout(shares.to(value_buffer.dtype), SHARES)
        stage = following
    output = _multiply_values(weights, value_buffer, stage, output)
    sums = _multiply_ones(weights, ones, sums, SUMS)
    output, sums, weights = warpgroup_mma_wait(0, (output, sums, weights))
    mbarrier.arrive(value_empty.index(stage))
    return gl.max(sums, axis=1), output  # its eight columns are alike


@gluon.jit
def _attend(warpgroup: gl.constexpr, buffers, barriers, results, strides, sizes, scale):
    """A consumer: 64 queries of the block against all that they see."""
    query_buffer, key_buffer, value_buffer, _, verdicts = buffers
    query_full, key_full, key_empty, value_full, value_empty, judged = barriers
    out, lse = results
    queries, keys, shift, heads, _, _ = sizes
    STAGES: gl.constexpr = key_buffer.shape[0]
    KEYS: gl.constexpr = key_buffer.shape[3]
    DIM: gl.constexpr = key_buffer.shape[4]
    WARPGROUPS: gl.constexpr = verdicts.shape[0]
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    OUTPUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DIM, 16])
    SHARES: gl.constexpr = gl.DotOperandLayout(0, OUTPUT, 2)
    ONE: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    block, head, row = _locate(sizes, WARPGROUPS)
    first = block * (WARPGROUPS * ROWS) + warpgroup * ROWS
    count = _count_tiles(block, sizes, WARPGROUPS, KEYS)
    seen = gl.cdiv(gl.minimum(keys, first + ROWS + shift), KEYS)  # tiles of which some query here sees a key
    whole = gl.minimum(gl.minimum(keys, first + 1 + shift) // KEYS, seen - 1)  # of these, seen whole by all
    at = first + gl.arange(0, ROWS, gl.SliceLayout(1, SCORES))
    columns = gl.arange(0, KEYS, gl.SliceLayout(0, SCORES))
    zeros = gl.zeros([ROWS, KEYS], gl.float32, SCORES)
    output = gl.zeros([ROWS, DIM], gl.float32, OUTPUT)
    base = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    total = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, SCORES))
    mbarrier.wait(query_full, 0)
    rounded = query_buffer.index(warpgroup).reshape([ROWS, DIM])
    octaves = rounded.load(gl.BlockedLayout([1, 8], [32 * 8 // DIM, DIM // 8], [4, 1], [1, 0])).to(gl.float32) * scale
    query = rounded._reinterpret(key_buffer.dtype, [ROWS, DIM], gl.NVMMASharedLayout(128, 16))  # noqa: SLF001
    query.store(octaves.to(key_buffer.dtype))
    fence_async_shared()

    attempts = 1
    attempt = 0
    while attempt < attempts:
        begin = attempt * count  # tiles that came before
        for i in range(begin, begin + count - seen):  # seen by later warpgroups alone
            stage, full = _stage(i, STAGES)
            mbarrier.wait(key_full.index(stage), full)
            mbarrier.arrive(key_empty.index(stage))
            mbarrier.wait(value_full.index(stage), full)
            mbarrier.arrive(value_empty.index(stage))

        output = gl.zeros([ROWS, DIM], gl.float32, OUTPUT)
        base = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
        total = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, SCORES))
        for i in range(begin + count - seen, begin + count - whole):  # with masks and the running maximum, in octaves
            stage, full = _stage(i, STAGES)
            mbarrier.wait(key_full.index(stage), full)
            scores = warpgroup_mma_wait(0, (_multiply_keys(query, key_buffer, stage, zeros),))
            mbarrier.arrive(key_empty.index(stage))
            key_at = (begin + count - 1 - i) * KEYS + columns
            visible = (key_at < keys)[None, :] & (key_at[None, :] <= (at + shift)[:, None])
            scores = gl.where(visible, scores, float("-inf"))
            larger = gl.maximum(base, gl.max(scores, axis=1))
            finite = gl.where(larger == float("-inf"), 0.0, larger)  # a row that has seen no key yet
            shares = gl.exp2(scores - finite[:, None])
            shrink = gl.exp2(base - finite)
            total = total * shrink + gl.sum(shares, axis=1)
            base = larger
            output = output * gl.convert_layout(shrink, gl.SliceLayout(1, OUTPUT))[:, None]
            weights = gl.convert_layout(shares.to(value_buffer.dtype), SHARES)
            mbarrier.wait(value_full.index(stage), full)
            output = _multiply_values(weights, value_buffer, stage, output)
            output, weights = warpgroup_mma_wait(0, (output, weights))
            mbarrier.arrive(value_empty.index(stage))

        if whole > 0:
            largest = gl.max(gl.abs(base), axis=0)
            if largest < LARGEST_BASE:
                shrink = gl.exp2(base)
                output = output * gl.convert_layout(shrink, gl.SliceLayout(1, OUTPUT))[:, None]
                more, output = _add_whole_tiles(
                    query, base, output, buffers, barriers, begin + count - whole, begin + count, zeros, SHARES, False
                )
                total = total * shrink + gl.convert_layout(more, gl.SliceLayout(1, SCORES))
                base = base - base
            else:
                more, output = _add_whole_tiles(
                    query, base, output, buffers, barriers, begin + count - whole, begin + count, zeros, SHARES, True
                )
                total += gl.convert_layout(more, gl.SliceLayout(1, SCORES))

        if attempt == 0:
            overflown = gl.max(gl.where(total < LARGEST_SUM, 0, 1), axis=0)  # NaN, too
            verdicts.index(warpgroup).store(gl.full([1], 0, gl.int32, ONE) + overflown)
            mbarrier.arrive(judged)
            attempts += _read_verdict(verdicts, judged)
            whole = 0
        attempt += 1

    index = (row * heads + head) * queries
    gl.store(lse + index + at, (base + gl.log2(total)) / 1.4426950408889634, mask=at < queries)
    output = output / gl.convert_layout(total, gl.SliceLayout(1, OUTPUT))[:, None]
    out_at = (first + gl.arange(0, ROWS, gl.SliceLayout(1, OUTPUT)))[:, None]
    place = row.to(gl.int64) * strides[0] + head.to(gl.int64) * strides[1] + out_at.to(gl.int64) * strides[2]
    place += gl.arange(0, DIM, gl.SliceLayout(0, OUTPUT))[None, :]
    gl.store(out + place, output.to(out.dtype.element_ty), mask=out_at < queries)


@gluon.jit(do_not_specialize=["queries", "keys", "shift", "heads", "groups", "section"])
def attention_kernel(
    query_map,
    key_map,
    value_map,
    out,
    lse,
    stride_row,
    stride_head,
    stride_query,
    queries,
    keys,
    shift,
    heads,
    groups,
    section,
    scale,
    STAGES: gl.constexpr,
    WARPGROUPS: gl.constexpr,
    REGISTERS: gl.constexpr,
) -> None:
    """One block of queries of one head: two or three warpgroups attend, one warp copies.

    Args:
        query_map: of [B, H, Sq, D], blocks of 64 queries.
        key_map: of [B, G, Sk, D], in tiles.
        value_map: as `key_map`.
        out: [B, H, Sq, D].
        lse: [B, H, Sq], in nats.
        stride_row: of `out`, and so the next two.
        stride_head: as above.
        stride_query: as above.
        queries: Sq.
        keys: Sk.
        shift: query i sees the keys up to i + shift.
        heads: H.
        groups: G.
        section: how many heads go together.
        scale: of the scores, times log2(e).
        STAGES: tiles of keys that are held at once.
        WARPGROUPS: that attend.
        REGISTERS: of a thread of them.
    """
    KEYS: gl.constexpr = key_map.block_type.shape[2]
    sizes = (queries, keys, shift, heads, groups, section)
    block, head, row = _locate(sizes, WARPGROUPS)
    buffers = (
        gl.allocate_shared_memory(query_map.dtype, [WARPGROUPS] + query_map.block_type.shape, query_map.layout),
        gl.allocate_shared_memory(key_map.dtype, [STAGES] + key_map.block_type.shape, key_map.layout),
        gl.allocate_shared_memory(value_map.dtype, [STAGES] + value_map.block_type.shape, value_map.layout),
        gl.allocate_shared_memory(value_map.dtype, [8, KEYS], gl.NVMMASharedLayout(128, 16)),
        gl.allocate_shared_memory(gl.int32, [WARPGROUPS, 1], gl.SwizzledSharedLayout(1, 1, 1, [0])),
    )
    query_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    key_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    key_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    value_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    value_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    judged = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(query_full, count=1)
    mbarrier.init(judged, count=WARPGROUPS)
    for stage in gl.static_range(STAGES):
        mbarrier.init(key_full.index(stage), count=1)
        mbarrier.init(value_full.index(stage), count=1)
        mbarrier.init(key_empty.index(stage), count=WARPGROUPS)
        mbarrier.init(value_empty.index(stage), count=WARPGROUPS)
    buffers[3].store(gl.full([8, KEYS], 1.0, value_map.dtype, gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])))
    fence_async_shared()
    mbarrier.expect(query_full, WARPGROUPS * query_map.block_type.nbytes)
    for warpgroup in gl.static_range(WARPGROUPS):
        at = (block * WARPGROUPS + warpgroup) * ROWS
        tma.async_copy_global_to_shared(query_map, [row, head, at, 0], query_full, buffers[0].index(warpgroup))
    barriers = (query_full, key_full, key_empty, value_full, value_empty, judged)
    results = (out, lse)
    strides = (stride_row, stride_head, stride_query)
    if WARPGROUPS == 3:
        gl.warp_specialize(
            [
                (_attend, (0, buffers, barriers, results, strides, sizes, scale)),
                (_attend, (1, buffers, barriers, results, strides, sizes, scale)),
                (_attend, (2, buffers, barriers, results, strides, sizes, scale)),
                (_copy, ((key_map, value_map), buffers, barriers, sizes)),
            ],
            [4, 4, 1],
            [REGISTERS, REGISTERS, COPY_REGISTERS],
        )
    else:
        gl.warp_specialize(
            [
                (_attend, (0, buffers, barriers, results, strides, sizes, scale)),
                (_attend, (1, buffers, barriers, results, strides, sizes, scale)),
                (_copy, ((key_map, value_map), buffers, barriers, sizes)),
            ],
            [4, 1],
            [REGISTERS, COPY_REGISTERS],
        )


def attend_on_hopper(query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention in bfloat16 with heads of 64, 128 or 256 on a GPU of compute capability 9.0.

    Args:
        query: [B, H, Sq, D]; if causal, at the last positions of the keys.
        key: [B, G, Sk, D], G a divisor of H; what float16 cannot hold, beyond 65,504, gives NaN.
        value: [B, G, Sk, D].
        causal: query i sees the keys up to Sk - Sq + i; otherwise all.
        scale: of the scores.

    Returns:
        Output [B, H, Sq, D] and log-sum-exp [B, H, Sq] in nats, float32, of shares that are rounded to bfloat16.

    Raises:
        RuntimeError: other numbers, heads, lengths or GPU, or Triton cannot compile it here.
    """
    (batch, heads, queries, dim), (groups, keys) = query.shape, key.shape[1:3]
    numbers = {x.dtype for x in (query, key, value)}
    if not queries or not keys or (causal and queries > keys):
        raise RuntimeError(f"{queries:,} queries cannot stand at the end of {keys:,} keys")
    if dim not in TILES or numbers != {torch.bfloat16} or torch.cuda.get_device_capability(query.device) != (9, 0):
        raise RuntimeError("takes heads of 64, 128 or 256 in bfloat16 on Hopper alone")
    tile, stages, warpgroups, registers = TILES[dim]
    blocks = triton.cdiv(queries, warpgroups * ROWS.value)
    out = query.new_empty((batch, queries, heads, dim)).transpose(1, 2)
    lse = query.new_empty((batch, heads, queries), dtype=torch.float32)
    shift = keys - queries if causal else keys
    shared = heads // groups  # heads that read the same keys
    section = shared * triton.cdiv(SECTION_BLOCKS, shared * blocks)
    key = key.to(torch.float16).nan_to_num_(nan=nan, posinf=nan, neginf=nan)  # too large a key must not go unseen
    sizes = queries, keys, shift, heads, groups, section
    try:
        maps = [_map_tiles(x, rows) for x, rows in ((query, ROWS.value), (key, tile), (value, tile))]
        with torch.cuda.device(query.device):
            attention_kernel[blocks * heads, batch](
                *maps, out, lse, *out.stride()[:3], *sizes, scale * LOG2_E, stages, warpgroups, registers, num_warps=4
            )
    except RuntimeError:
        raise
    except Exception as error:  # what Triton fails with is its own choice, and another kernel can be taken
        raise RuntimeError(f"Triton {triton.__version__} does not compile it: {error}") from error
    return out, lse


def _map_tiles(x: Tensor, rows: int) -> TensorDescriptor:
    """For the copies of blocks [1, 1, rows, D], whose last one is filled up with zeros."""
    if x.stride(3) != 1 or x.data_ptr() % 16 or any(s <= 0 or s % 8 for s in x.stride()[:3]):
        x = x.clone(memory_format=torch.contiguous_format)
    shape = [1, 1, rows, x.shape[3]]
    layout = gl.NVMMASharedLayout.get_default_for(shape, gl.bfloat16)  # or float16: as wide
    return TensorDescriptor(x, list(x.shape), list(x.stride()), shape, layout)
