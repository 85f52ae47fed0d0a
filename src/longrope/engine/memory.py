"""What fits into memory: how many tokens go through a layer at once, and about what a pass or a training step takes."""

import torch

from longrope import distributed
from longrope.engine.held_states import EVERY_STATE, Holding
from longrope.engine.kernels import Heads, Kernel, choose_kernel
from longrope.engine.kv_cache import mlps_of, remembers_keys_alone
from longrope.engine.loss import count_chunks
from longrope.models import LanguageModel
from longrope.models.fitting import available_memory
from longrope.models.tables import sliding_layers

MOST_TILE_TOKENS = 65536
FEWEST_TILE_TOKENS = 256
TILE_SHARE, ACTIVATIONS_SHARE = 8, 4  # the part of the free memory that a tile, or all activations, may take
MOST_CPU_ACTIVATIONS = 2**32  # bytes
TOGETHER_SHARE = 0.75  # the part of the free memory that a training step on several windows may take


def heads_of(model: LanguageModel) -> Heads:
    """Query heads, key/value heads and their dimension."""
    config = model.network.config
    queries = config.num_attention_heads
    return Heads(queries, getattr(config, "num_key_value_heads", None) or queries, model.spec.head_dim)


def reads_in_tiles(model: LanguageModel) -> bool:
    """Whether layers work in tiles where no gradients are taken: windows are whole here, and keys are all memory."""
    return not distributed.shard() and remembers_keys_alone(model.network)


def choose_tile(model: LanguageModel, rows: int = 1) -> tuple[int, str]:
    """Return how many tokens of ``rows`` sequences go through a layer at once, and the reason."""
    if limit := model.limits.tile_tokens:
        return max(1, limit // rows), f"tiles of {limit:,} tokens (memory did not suffice for larger ones)"
    if model.device.type == "meta":
        return max(1, MOST_TILE_TOKENS // rows), f"tiles of {MOST_TILE_TOKENS:,} tokens (no device)"
    on_gpu = model.device.type == "cuda"
    free = _free_memory(model.device) if on_gpu else available_memory()
    tile = fitting_tile(model, free)
    why = f"{free / 2**30:.0f} GiB are free" if on_gpu or tile < MOST_TILE_TOKENS else "a CPU"
    return max(1, tile // rows), f"tiles of {tile:,} tokens ({why})"


def fitting_tile(model: LanguageModel, free: int) -> int:
    """The tokens of a tile that takes little of the free bytes: a power of two, from 256 to 65,536.

    Each may hold a dozen hidden states and four of an MLP's width.
    """
    numbers = 12 * int(model.network.config.hidden_size) + 4 * _width(model)
    fitting = max(FEWEST_TILE_TOKENS, free // TILE_SHARE // (int(model.network.dtype.itemsize) * numbers))
    return min(MOST_TILE_TOKENS, 1 << fitting.bit_length() - 1)


def _width(model: LanguageModel) -> int:
    """Of an MLP, the widest one."""
    config = model.network.config
    wide = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return int(max(wide) if isinstance(wide, list | tuple) else wide)


def fits_with_activations(model: LanguageModel, tokens: int) -> bool:
    """Whether all activations of a pass take little of the memory."""
    few = not model.network.get_input_embeddings().weight.requires_grad
    return _all_activations(model, tokens, few=few) <= activation_room(model)


def _all_activations(model: LanguageModel, tokens: int, *, few: bool) -> int:
    """Bytes of what all layers keep for the backward pass, and of the head, if all weights are trained or few of them.

    On a CPU the logarithms of all logits are kept.
    """
    config, on_cpu = model.network.config, model.device.type == "cpu"
    logits = 4 * config.vocab_size * (tokens - _chunk(model, tokens)) if on_cpu else 0
    layers = tokens * config.num_hidden_layers * _kept_by_layer(model, few=few)
    return int(layers + logits + _head_with_gradients(model, tokens, few=few))


def _kept_by_layer(model: LanguageModel, *, few: bool) -> int:
    """Bytes that a layer keeps of a token for its backward pass.

    Of a norm its input in float32, and its output if it is trained; the inputs of linear layers that are trained; of
    attention queries, keys, values and output, with gradients of factors queries and keys three times over; of an MLP
    three of its width, and a fourth if the last layer of it is trained. On a GPU all weights are trained in float32
    and work in 16 bits: each linear layer keeps an input of its own.
    """
    heads, width, size = heads_of(model), _width(model), _working_size(model, few=few)
    state, queries, keys = int(model.network.config.hidden_size), heads.queries * heads.dim, heads.keys * heads.dim
    attention = 2 * (queries + keys)
    if few:
        return 8 * state + size * (attention + 3 * width + max(attention, 2 * state + width))
    inputs = 2 if model.device.type == "cpu" else 5
    return 16 * state + size * (inputs * state + attention + 4 * width)


def _layer_at_work(model: LanguageModel, tokens: int, *, few: bool) -> int:
    """Bytes of a layer that is made again for its backward pass, at the peak.

    What it keeps but for the MLP, and where few weights are trained three states more. Of the MLP, which works on tiles
    where there are more tokens, five times its width and a state, or six times its width.
    """
    heads, width, size = heads_of(model), _width(model), _working_size(model, few=few)
    state, attention = int(model.network.config.hidden_size), 2 * heads.dim * (heads.queries + heads.keys)
    in_tile = min(tokens, choose_tile(model)[0]) if mlps_of(model.network) else tokens
    if few:
        rest = 8 * state + size * (attention + max(attention, 2 * state) + 3 * state)
        return tokens * rest + in_tile * size * (5 * width + state)
    inputs = 2 if model.device.type == "cpu" else 5
    return tokens * (16 * state + size * (inputs * state + attention)) + in_tile * size * 6 * width


def _head_with_gradients(model: LanguageModel, tokens: int, *, few: bool) -> int:
    """Bytes of a chunk of logits with its gradient: on a GPU as the head gives them, else three times in float32."""
    size = 12 if model.device.type == "cpu" else 2 * _working_size(model, few=few)
    return size * int(model.network.config.vocab_size) * _chunk(model, tokens)


def _working_size(model: LanguageModel, *, few: bool) -> int:
    """Bytes of the numbers of linear layers in a training or a search by gradient."""
    return 4 if model.device.type == "cpu" else int(model.network.dtype.itemsize) if few else 2


def _chunk(model: LanguageModel, tokens: int) -> int:
    """The tokens whose logits are made at once."""
    return -(-tokens // count_chunks(model, tokens))


def attention_bytes(model: LanguageModel, tokens: int) -> int:
    """What all layers' attention gives for so many tokens: its output, on GPUs in 16 bits, and a float32 a head."""
    shard, heads = distributed.shard(), heads_of(model)
    own = tokens // (shard.ranks if shard else 1)
    per_token = heads.queries * (heads.dim * (4 if model.device.type == "cpu" else 2) + 4)
    return int(own * model.network.config.num_hidden_layers * per_token)


def layers_that_keep_attention(model: LanguageModel, tokens: int) -> frozenset[int]:
    """The layers whose attention's output is kept for the backward pass: all, those that see all tokens, or none."""
    config = model.network.config
    count, sliding = config.num_hidden_layers, sliding_layers(config)
    per_layer, room = attention_bytes(model, tokens) // count, activation_room(model)
    for layers in (frozenset(range(count)), frozenset(range(count)) - sliding):
        if per_layer * len(layers) <= room:
            return layers
    return frozenset()


def activation_room(model: LanguageModel) -> int:
    """Bytes that activations may take; none where a pass has run out of memory."""
    if model.limits.tile_tokens:
        return 0
    if model.device.type == "cuda":
        return _free_memory(model.device) // ACTIVATIONS_SHARE
    own = available_memory() // ACTIVATIONS_SHARE
    return (
        MOST_CPU_ACTIVATIONS if distributed.shard() else min(own, MOST_CPU_ACTIVATIONS)
    )  # others are to find the same


def estimate_memory(model: LanguageModel, tokens: int, *, kernel: Kernel | None = None, tile: int = 0) -> int:
    """About how many bytes ``token_losses`` takes at its peak for one window, weights included.

    Without a kernel and the tokens of a tile, with those that would be chosen here.

    The states of the window, and the most of three. Of a layer: its keys and values, cos and sin of every rotary table,
    and of a tile the MLP, two states and three of its width (compiled three and two), or attention, a state and four
    times the queries, with what its kernel copies. Of the last rotary table: its angles in float32, four and a half
    times over. Of the head: a chunk of logits; on a CPU in float32 with their logarithms.
    """
    network, heads, state = model.network, heads_of(model), model.network.config.hidden_size
    size, turned = network.dtype.itemsize, [table.geometry.rotary_dim for table in model.tables]
    kernel = kernel or choose_kernel(model.device, network.dtype, heads)[0]
    kept = 2 * size * tokens * (heads.keys * heads.dim + sum(turned))
    in_tile = size * min(tokens, tile or choose_tile(model)[0])
    fused = model.compiled and reads_in_tiles(model)
    mlp = in_tile * (3 * state + 2 * _width(model) if fused else 2 * state + 3 * _width(model))
    attention = 0 if fused else in_tile * (state + 4 * heads.queries * heads.dim)
    layer = kept + max(mlp, attention + kernel.copied * tokens * heads.keys * heads.dim)
    rotary = tokens * (2 * size * sum(turned[:-1]) + 18 * turned[-1])
    head = (size if model.device.type == "cuda" else 8) * _chunk(model, tokens) * network.config.vocab_size
    return int(weight_bytes(model) + tokens * state * size + max(layer, rotary, head))


def estimate_training_memory(
    model: LanguageModel,
    tokens: int,
    *,
    adapters: bool,
    recompute: bool | None = None,
    holding: Holding = EVERY_STATE,
) -> int:
    """About how many bytes a training step takes at its peak in this process, with so many tokens at once.

    Weights, gradients and two moments in float32; several processes divide them, and each has the weights whole beside
    its part. With adapters, or where few weights are trained, the weights alone, as they are on a GPU or quantized. All
    activations, or where they do not fit or ``recompute`` says so a hidden state for each layer, where they fit the
    outputs of its attention, and the activations of one layer or one chunk of logits with its gradient: in float32, or
    in the number format of weights that keep it.
    """
    config, ranks = model.network.config, distributed.ranks()
    shard = distributed.shard()
    own = tokens // (shard.ranks if shard else 1)
    weights = sum(weight.numel() for weight in model.network.parameters())
    size = model.network.dtype.itemsize if adapters and model.device.type != "cpu" else 4
    frozen = weight_bytes(model) if model.quantized else weights * size
    trained = frozen if adapters else 16 * weights // ranks + 4 * weights * (ranks > 1)
    if recompute is None:
        recompute = _all_activations(model, tokens, few=adapters) > activation_room(model)
    if not recompute:
        return int(trained + _all_activations(model, own, few=adapters))
    count, state = config.num_hidden_layers, size * own * config.hidden_size
    whole = min(count, holding.every)  # layers of a group, whose states and outputs of attention are there together
    held = min(3, count) if holding.offload and model.device.type == "cuda" else -(-count // whole)
    per_layer = attention_bytes(model, tokens) // count
    states = state * (held + whole - 1) + per_layer * (whole - 1)
    layer, head = _layer_at_work(model, own, few=adapters), _head_with_gradients(model, own, few=adapters)
    attended = per_layer * len(layers_that_keep_attention(model, tokens))
    return int(trained + states + attended + max(layer, head))


def windows_together(
    model: LanguageModel,
    tokens: int,
    windows: int,
    *,
    adapters: bool,
    recompute: bool = True,
    holding: Holding = EVERY_STATE,
    room: int | None = None,
) -> int:
    """How many of a training step's windows go through the model together, for they are too short to fill a GPU alone.

    Args:
        model: to be trained; no step of it has been taken.
        tokens: of a window.
        windows: of a step, in this process.
        adapters: as in ``estimate_training_memory``, as the next two.
        recompute: whether activations are.
        holding: of hidden states.
        room: bytes that a step may take; by default most of a GPU's free ones, and elsewhere none.

    Returns:
        At least one; more than one only as long as all of them have no more tokens than a large tile.
    """
    if room is None:
        room = int(TOGETHER_SHARE * free_memory(model)) if model.device.type == "cuda" else 0
    for together in range(min(windows, MOST_TILE_TOKENS // tokens), 1, -1):
        needed = estimate_training_memory(
            model, together * tokens, adapters=adapters, recompute=recompute, holding=holding
        )
        if needed <= room:
            return together
    return 1


def weight_bytes(model: LanguageModel) -> int:
    """Bytes of all weights, or of this process's part of those that are divided."""
    own = (distributed.local_tensor(weight) for weight in model.network.parameters())
    return int(sum(weight.numel() * weight.dtype.itemsize for weight in own))


def free_memory(model: LanguageModel) -> int:
    """Bytes of the model's device that can still be taken, with those that the model takes now."""
    return weight_bytes(model) + (_free_memory(model.device) if model.device.type == "cuda" else available_memory())


def _free_memory(device: torch.device) -> int:
    """Bytes that torch may still take: those free on the device, and those that it holds unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
