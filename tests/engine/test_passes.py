"""The long pass against whole logits, plain autograd and transformers' own greedy decoding.

The logits are made in chunks that do not divide the windows, and layers go through tiles that do not, either.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import pico
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.modeling_layers import GradientCheckpointingLayer

from longrope.engine import attention, context, kernels, memory, passes
from longrope.engine import loss as loss_head
from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache, LayerKeys
from longrope.engine.passes import greedy_answers, seconds_of_pass, token_losses, weighted_loss_with_graph
from longrope.errors import LongRopeError, ModelError
from longrope.models import LanguageModel, rescaled
from longrope.rope import RescaleFactors

VOCABULARY = pico.BASE["vocab_size"]
TOKENS = torch.randint(1, VOCABULARY, (3, 48), generator=torch.Generator().manual_seed(3))
FAMILIES: dict[str, dict[str, Any]] = {
    **{family: {} for family in pico.FAMILIES},
    "mixtral": {},  # experts
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 4.0},
}
CHUNKS = {"whole": 2**28, "uneven": VOCABULARY * 3 * 7, "single": 1}  # logits a chunk: all, 7 tokens of 3 rows, 1 token
TILES = {"uneven": 7, "single": 1, "all but one": 47}  # tokens
DOCUMENTS = ((0, 5, 6, 30), (0,), (0, 47))  # of the three windows
FAILING = ("embed_tokens", "layers.0", "layers.1.self_attn", "layers.1.mlp", "layers.1.mlp.down_proj", "norm")
every_family = pytest.mark.parametrize("family", FAMILIES)
every_chunk = pytest.mark.parametrize("chunk", CHUNKS)
every_tile = pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")


def set_tile(monkeypatch: pytest.MonkeyPatch, tile: int, rows: int = len(TOKENS)) -> None:
    """So many tokens of each of the rows go through a layer at once."""
    monkeypatch.setattr(memory, "MOST_TILE_TOKENS", tile * rows)


def mean_loss_with_graph(model: LanguageModel, tokens: Tensor, tail_tokens: int = 0, **settings: Any) -> Tensor:
    """Equal weights for all next tokens, or for a tail of each window."""
    weights = np.zeros((len(tokens), tokens.shape[1] - 1))
    weights[:, -tail_tokens:] = 1
    return weighted_loss_with_graph(model, tokens, weights / weights.sum(), **{"recompute": True, **settings})


@pytest.fixture(scope="module")
def make() -> Callable[..., LanguageModel]:
    """Pico models that are made once and never changed."""
    made: dict[tuple[str, torch.dtype], LanguageModel] = {}

    def get(family: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
        if (family, dtype) not in made:
            made[family, dtype] = pico.make_model(family, dtype=dtype, **FAMILIES[family])
        return made[family, dtype]

    return get


def make_factors(model: LanguageModel) -> RescaleFactors:
    lambdas = tuple(2.0 + i for i in range(model.spec.num_pairs))
    return RescaleFactors(lambdas, 256, model.spec.fingerprint, start_tokens=5, attention_factor=1.1)


def compute_losses(network: Any, tokens: Tensor) -> Tensor:
    """[B, N - 1] nats from whole logits: log of the sum of exponentials less the target's logit, in float64."""
    assert network.config._attn_implementation in ("sdpa", "eager"), "the oracle is transformers' own attention"
    logits = network(tokens, use_cache=False).logits.double()[:, :-1]
    targets = logits.gather(-1, tokens[:, 1:, None])[..., 0]
    return logits.exp().sum(-1).log() - targets  # type: ignore[no-any-return]


@every_family
@every_chunk
def test_token_losses_are_those_of_whole_logits(
    family: str, chunk: str, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One loss per token but the first, with the family's own caps and scales, however the logits are cut."""
    model = make(family)
    monkeypatch.setattr(loss_head, "LOGITS_PER_CHUNK", CHUNKS[chunk])
    losses = token_losses(model, TOKENS)
    assert losses.shape == (3, 47)
    assert losses.dtype == torch.float32
    assert not losses.requires_grad
    torch.testing.assert_close(losses.double(), compute_losses(model.network, TOKENS), rtol=1e-5, atol=1e-5)


@every_family
def test_token_losses_in_bfloat16(
    family: str, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 logits become float32 before the loss; the mean is right to a hundredth, each entry to the rounding."""
    model = make(family, torch.bfloat16)
    monkeypatch.setattr(loss_head, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    losses, reference = token_losses(model, TOKENS), compute_losses(model.network, TOKENS)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.double(), reference, rtol=0.02, atol=0.1)
    assert losses.mean().item() == pytest.approx(reference.mean().item(), abs=0.01)


def test_caps_and_scales_matter(make: Callable[..., LanguageModel]) -> None:
    """Gemma-2's soft cap and the scales of Cohere and Granite change the logits, so an absence is noticed."""
    for family in ("gemma2", "cohere", "granite"):
        network = make(family).network
        hidden = network.base_model(TOKENS, use_cache=False).last_hidden_state
        bare = network.lm_head(hidden)
        assert (bare - network(TOKENS, use_cache=False).logits).abs().max() > 0.1, family


def test_head_that_asks_its_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Falcon-H1's head multiplies by a number that its decoder holds; its recurrent layers see the whole text."""
    set_tile(monkeypatch, 7)
    model = pico.make_model(
        "falcon_h1", lm_head_multiplier=0.5, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8
    )
    losses = token_losses(model, TOKENS)
    torch.testing.assert_close(losses.double(), compute_losses(model.network, TOKENS), rtol=1e-5, atol=1e-5)


def test_windows_do_not_see_each_other(make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses do not depend on the order of the windows or on how many go through at once."""
    model = make("llama")
    monkeypatch.setattr(loss_head, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    together = token_losses(model, TOKENS)
    torch.testing.assert_close(token_losses(model, TOKENS.flip(0)).flip(0), together, rtol=1e-5, atol=1e-5)
    alone = torch.cat([token_losses(model, row[None]) for row in TOKENS])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_losses_see_only_what_comes_before(make: Callable[..., LanguageModel]) -> None:
    """A changed token changes its own loss and the later ones, and no earlier one."""
    model, changed = make("llama"), TOKENS.clone()
    changed[:, 30] = (changed[:, 30] + 1) % VOCABULARY
    difference = (token_losses(model, changed) - token_losses(model, TOKENS)).abs()
    assert difference[:, :29].max() < 1e-5
    assert difference[:, 29:].min(0).values.max() > 1e-3
    assert difference[:, 29].min() > 1e-5


def test_losses_of_a_rescaled_model(make: Callable[..., LanguageModel]) -> None:
    """The pass runs the model as it is at the moment."""
    model = make("llama")
    with rescaled(model, make_factors(model)):
        losses, reference = token_losses(model, TOKENS), compute_losses(model.network, TOKENS).detach()
    torch.testing.assert_close(losses.double(), reference, rtol=1e-5, atol=1e-5)
    assert (losses - token_losses(model, TOKENS)).abs().max() > 0.1


def test_no_logits_of_a_whole_window_are_made(
    make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head never gets more tokens than a chunk holds."""
    model, sizes = make("llama"), []
    monkeypatch.setattr(loss_head, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    hook = model.network.lm_head.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape)))
    try:
        token_losses(model, TOKENS)
    finally:
        hook.remove()
    assert sizes == [(3, 7, VOCABULARY)] * 7  # all alike; the last one shares two tokens with the one before it


def test_network_is_whole_after_the_pass(make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder that stood aside for the head is back, an exception included."""
    model = make("llama")
    decoder, names = model.network.model, [name for name, _ in model.network.named_modules()]

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("no memory")

    token_losses(model, TOKENS)
    monkeypatch.setattr(model.network.lm_head, "forward", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        token_losses(model, TOKENS)
    assert model.network.model is decoder
    assert [name for name, _ in model.network.named_modules()] == names


# The pass in tiles


@every_family
@every_tile
def test_token_losses_in_tiles(
    family: str, tile: int, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer sees the keys and values of the tiles before, whether or not tiles divide the window."""
    model = make(family)
    set_tile(monkeypatch, tile)
    losses = token_losses(model, TOKENS)
    torch.testing.assert_close(losses.double(), compute_losses(model.network, TOKENS), rtol=2e-5, atol=2e-5)


def test_layers_that_call_attention_twice_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same keys and other values; each call's are kept apart, in a cache, too."""
    model = pico.make_model("diffllama")
    whole = token_losses(model, TOKENS[:1])
    torch.testing.assert_close(whole.double(), compute_losses(model.network, TOKENS[:1]), rtol=2e-5, atol=2e-5)
    logits = prefill(model, TOKENS[:1], KeyValueCache(model, 48))
    set_tile(monkeypatch, 14, rows=1)
    torch.testing.assert_close(token_losses(model, TOKENS[:1]), whole, rtol=2e-5, atol=2e-5)
    cache = KeyValueCache(model, 48)
    prefill(model, TOKENS[:1, :20], cache)
    cache.rewind(10)
    torch.testing.assert_close(prefill(model, TOKENS[:1, 10:], cache), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "cohere"])
def test_losses_of_a_rescaled_model_in_tiles(
    family: str, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tile stands at its own positions."""
    model = make(family)
    set_tile(monkeypatch, 7)
    with rescaled(model, make_factors(model)):
        losses, reference = token_losses(model, TOKENS), compute_losses(model.network, TOKENS).detach()
    torch.testing.assert_close(losses.double(), reference, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_pass_tells_the_loss_at_every_length(
    family: str, dtype: torch.dtype, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under fixed factors, what is lost at a token does not depend on what comes after it."""
    model, tolerance = make(family, dtype), 1e-4 if dtype == torch.float32 else 0.1
    set_tile(monkeypatch, 7, rows=1)
    with rescaled(model, make_factors(model)):
        whole = token_losses(model, TOKENS[:1])
        alone = [token_losses(model, TOKENS[:1, :length])[:, -1:] for length in range(2, TOKENS.shape[1] + 1)]
    torch.testing.assert_close(torch.cat(alone, dim=1), whole, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "at",
    [slice(-10, None), slice(5, 21), slice(0, 1), slice(46, 47), slice(40, 400), slice(None, None, 5), slice(9, 9)],
)
@every_chunk
def test_a_slice_of_the_losses(
    at: slice, chunk: str, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is asked for goes through the head, but for what makes its chunks alike."""
    model, given = make("llama"), []
    whole = token_losses(model, TOKENS)
    monkeypatch.setattr(loss_head, "LOGITS_PER_CHUNK", CHUNKS[chunk])
    with hooked(model.network.lm_head, lambda _, args: given.append(args[0].shape[1])):
        part = token_losses(model, TOKENS, at)
    assert part.shape == whole[:, at].shape
    assert 0 <= sum(given) - part.shape[1] < max(1, len(given))
    assert len(set(given)) <= 1
    torch.testing.assert_close(part, whole[:, at], rtol=1e-5, atol=1e-5)


@contextmanager
def hooked(module: Any, look: Callable[[Any, Any], None]) -> Iterator[None]:
    """See the arguments of every call of a module."""
    hook = module.register_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


@every_tile
@pytest.mark.parametrize("with_graph", [False, True])
def test_no_more_than_a_tile_at_once(
    tile: int, with_graph: bool, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No MLP widens more tokens than a tile has; without a graph no layer or attention sees more, either."""
    model, seen = make("llama"), {"mlp": [], "attention": []}  # type: ignore[var-annotated]
    attend = attention.attend

    def note(query: Tensor, *others: Any, **settings: Any) -> Tensor:
        seen["attention"].append(query.shape[2])
        return attend(query, *others, **settings)

    monkeypatch.setattr(attention, "attend", note)
    set_tile(monkeypatch, tile)
    up = model.network.model.layers[1].mlp.up_proj
    with hooked(up, lambda _, args: seen["mlp"].append(args[0].shape[1])):
        if with_graph:
            with rescaled(model, make_factors(model), learnable=True):
                mean_loss_with_graph(model, TOKENS).backward()
        else:
            token_losses(model, TOKENS)
    rest = [48 % tile] if 48 % tile else []
    assert seen["mlp"][: 48 // tile + len(rest)] == [tile] * (48 // tile) + rest
    assert max(seen["mlp"]) == tile
    assert max(seen["attention"]) == (48 if with_graph else tile)


def test_one_copy_of_the_text_is_enough(make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers and the last norm put their output in the place of their input."""
    model = make("llama")
    places: set[int] = set()
    sizes: list[int] = []
    set_tile(monkeypatch, 7)

    def look(_: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
        assert output.shape == given[0].shape == (3, 48, 32)
        places.update((given[0].data_ptr(), output.data_ptr()))

    norm = model.network.model.norm
    native = norm.forward

    def note(part: Tensor) -> Any:
        sizes.append(part.shape[1])
        return native(part)

    monkeypatch.setattr(norm, "forward", note)
    hooks = [module.register_forward_hook(look) for module in (*model.network.model.layers, norm)]
    try:
        losses = token_losses(model, TOKENS)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(places) == 1
    assert sizes == [7] * 6 + [6]
    torch.testing.assert_close(losses.double(), compute_losses(model.network, TOKENS), rtol=2e-5, atol=2e-5)


def get_state(model: LanguageModel) -> dict[str, Any]:
    """All that a pass changes for its time."""
    network = model.network
    forwards = {name: vars(module).get("forward") for name, module in network.named_modules()}
    changed = {"attention": network.config._attn_implementation, "context": context._active}
    return {**changed, "modules": dict(network.named_modules()), **forwards}


@pytest.mark.parametrize("way", ["losses", "graph", "backward", "reading"])
@pytest.mark.parametrize("at", [*FAILING, None])
def test_everything_is_as_before(
    way: str, at: str | None, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a pass, and after one that failed in any module: attention, forwards of layers, norms and MLPs."""
    model = make("llama")
    set_tile(monkeypatch, 7)
    decoder = model.network.model
    decoder.layers[0].forward = first = decoder.layers[0].forward  # another's change, which is to stay
    native = get_state(model)
    assert native["attention"] == "sdpa"

    def fail(*_: Any) -> None:
        assert model.network.config._attn_implementation == context.ATTENTION
        raise RuntimeError("no memory")

    def run() -> None:
        if way == "losses":
            token_losses(model, TOKENS, documents=DOCUMENTS)
        elif way == "reading":
            prefill(model, TOKENS[:1], KeyValueCache(model, 48))
        else:
            with rescaled(model, make_factors(model), learnable=True):
                loss = mean_loss_with_graph(model, TOKENS, documents=DOCUMENTS)
                if way == "backward":
                    loss.backward()

    try:
        if at is None:
            run()
        else:
            with hooked(decoder.get_submodule(at), fail), pytest.raises(RuntimeError, match="no memory"):
                run()
        assert get_state(model) == native
        assert decoder.layers[0].forward is first
    finally:
        del decoder.layers[0].forward


def test_as_before_when_recomputing_fails(make: Callable[..., LanguageModel]) -> None:
    """Our attention comes back for the backward pass, and goes again if that fails."""
    model = make("llama")
    native, mlp = get_state(model), model.network.model.layers[0].mlp
    with rescaled(model, make_factors(model), learnable=True):
        loss = mean_loss_with_graph(model, TOKENS)

        def fail(*_: Any) -> None:
            assert model.network.config._attn_implementation == context.ATTENTION
            raise RuntimeError("no memory")

        with hooked(mlp, fail), pytest.raises(RuntimeError, match="no memory"):
            loss.backward()
    assert get_state(model) == native


# What the pass refuses


@pytest.mark.parametrize("way", [token_losses, mean_loss_with_graph])
def test_a_model_that_does_not_call_our_attention_is_refused(way: Callable[..., Tensor]) -> None:
    """One that mixes tokens in its own way would not be causal without a mask."""
    model = pico.make_model("llama")
    for layer in model.network.model.layers:
        layer.self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(ModelError, match="'llama' does not call the attention that it is given"):
        way(model, TOKENS)
    with pytest.raises(ModelError, match="'llama' does not call the attention that it is given"):
        prefill(model, TOKENS[:1], KeyValueCache(model, 48))


def test_one_layer_that_does_not_call_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tiles or a cache would cut what it remembers by other means."""
    model = pico.make_model("llama")
    model.network.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    for read in (token_losses, lambda model, tokens: prefill(model, tokens[:1], KeyValueCache(model, 48))):
        set_tile(monkeypatch, 7)
        with pytest.raises(ModelError, match="has read 48 tokens and kept the keys of 0"):
            read(model, TOKENS)


def test_a_family_with_an_attention_of_its_own_is_refused() -> None:
    """Falcon wants a mask, which is never made; it is told before anything runs."""
    model = pico.make_model("falcon")
    native = get_state(model)
    with pytest.raises(ModelError, match="'falcon' does not call the attention that it is given"):
        token_losses(model, TOKENS)
    with pytest.raises(ModelError, match="'falcon' does not call the attention that it is given"):
        prefill(model, TOKENS[:1], KeyValueCache(model, 48))
    assert get_state(model) == native


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"attention_mask": torch.ones(1, 1, 3, 3)}, "attention_mask"),
        ({"dropout": 0.1}, "dropout"),
        ({"s_aux": torch.zeros(2)}, "s_aux"),
    ],
)
def test_what_our_attention_cannot_do_is_refused_by_name(given: dict[str, Any], name: str) -> None:
    query = torch.randn(1, 2, 3, 8)
    plain: dict[str, Any] = {"attention_mask": None, "dropout": 0.0, "s_aux": None}
    with context.ForwardContext(pico.make_model("llama").network, {}).active():
        output, weights = context.attend_in_context(torch.nn.Identity(), query, query, query, **plain)
    assert output.shape == (1, 3, 2, 8)
    assert output.is_contiguous()
    assert weights is None
    with pytest.raises(ModelError, match=f"Identity asks for attention with {name}"):
        context.attend_in_context(torch.nn.Identity(), query, query, query, **{**plain, **given})


def test_families_that_ask_for_more_are_refused() -> None:
    """Doge brings a mask of its own; a model in training mode asks for its dropout."""
    with pytest.raises(ModelError, match="DogeAttention asks for attention with attention_mask"):
        token_losses(pico.make_model("doge"), TOKENS)
    model = pico.make_model("llama", attention_dropout=0.1)
    token_losses(model, TOKENS)
    model.network.train()
    with pytest.raises(ModelError, match="LlamaAttention asks for attention with dropout"):
        token_losses(model, TOKENS)


# Layers that carry more than keys and values


@pytest.mark.parametrize("family", ["lfm2", "minimax"])
def test_layers_that_remember_more_see_the_whole_text(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution or linear attention would begin anew at each tile."""
    kinds: dict[str, dict[str, Any]] = {
        "lfm2": {"layer_types": ["conv", "full_attention"]},
        "minimax": {"num_local_experts": 4},
    }
    model = pico.make_model(family, **kinds[family])
    set_tile(monkeypatch, 7)
    losses = token_losses(model, TOKENS)
    torch.testing.assert_close(losses.double(), compute_losses(model.network, TOKENS), rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match=f"'{family}' has recurrent layers"):
        KeyValueCache(model, 48)


def test_a_model_that_calls_itself_stateful_is_not_cut(
    make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By transformers' own flag, where the config tells nothing of its layers."""
    model, seen = make("llama"), []
    monkeypatch.setattr(model.network, "_is_stateful", True)
    set_tile(monkeypatch, 7)
    with hooked(model.network.model.layers[0].self_attn.q_proj, lambda _, args: seen.append(args[0].shape[1])):
        token_losses(model, TOKENS)
    assert seen == [48]
    with pytest.raises(ModelError, match="'llama' has recurrent layers"):
        KeyValueCache(model, 48)


def test_layers_that_are_called_twice_cannot_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """HRM goes over its layers again and again: right in tiles, and refused where one cache would hold all rounds."""
    model = pico.make_model("hrm_text", num_layers_per_stack=1)
    set_tile(monkeypatch, 7)
    losses = token_losses(model, TOKENS)
    torch.testing.assert_close(losses.double(), compute_losses(model.network, TOKENS), rtol=2e-5, atol=2e-5)
    with pytest.raises(ModelError, match="called once"):
        prefill(model, TOKENS[:1], KeyValueCache(model, 480))


# The loss with a graph


def get_gradients(module: Any) -> Tensor:
    return torch.cat([module.lambdas.grad.flatten(), module.attention_factor.grad.flatten()])


@every_family
@pytest.mark.parametrize("tail_tokens", [0, 10])
def test_loss_and_gradients_are_those_of_plain_autograd(
    family: str, tail_tokens: int, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints and chunks change neither the loss nor what reaches lambda and the attention factor."""
    model = make(family)
    monkeypatch.setattr(loss_head, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    with rescaled(model, make_factors(model), learnable=True) as module:
        reference = compute_losses(model.network, TOKENS)[:, -tail_tokens:].mean()
        reference.backward()
        expected = get_gradients(module)
    with rescaled(model, make_factors(model), learnable=True) as module:
        loss = mean_loss_with_graph(model, TOKENS, tail_tokens)
        loss.backward()
        given = get_gradients(module)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert expected[0].abs() > 1e-4
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


@every_family
@pytest.mark.parametrize("settings", [{"offload": True}, {"recompute": False}], ids=["offload", "kept"])
def test_gradients_in_tiles(
    family: str, settings: dict[str, bool], make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLPs in tiles, hidden states in the CPU's memory or all activations kept: lambda gets the same gradients."""
    model = make(family)
    with rescaled(model, make_factors(model), learnable=True) as module:
        compute_losses(model.network, TOKENS).mean().backward()
        expected = get_gradients(module)
    set_tile(monkeypatch, 7)
    with rescaled(model, make_factors(model), learnable=True) as module:
        mean_loss_with_graph(model, TOKENS, **settings).backward()
        given = get_gradients(module)
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("tile", [7, 48])
@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2"])
def test_gradients_of_weights(family: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight of a network that is tuned gets the gradient of plain autograd."""
    monkeypatch.setattr(loss_head, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    set_tile(monkeypatch, tile)
    gradients = []
    for plainly in (True, False):
        model = pico.make_model(family)
        model.network.requires_grad_(True)
        loss = compute_losses(model.network, TOKENS).mean() if plainly else mean_loss_with_graph(model, TOKENS)
        loss.backward()
        gradients.append({name: weight.grad for name, weight in model.network.named_parameters()})
    plain, ours = gradients
    for name, expected in plain.items():
        assert ours[name] is not None, name
        assert expected.abs().max() > 0, name
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("tail_tokens", [1, 46, 47, 48, 1000])
def test_tail_counts_exactly_the_last_tokens(tail_tokens: int, make: Callable[..., LanguageModel]) -> None:
    """The mean is over so many last tokens of each window, over all of them where there are no more."""
    model = make("llama")
    expected = compute_losses(model.network, TOKENS)[:, -tail_tokens:].mean().item()
    assert mean_loss_with_graph(model, TOKENS, tail_tokens).item() == pytest.approx(expected, rel=1e-5)


def test_layers_are_recomputed_and_then_as_before(make: Callable[..., LanguageModel]) -> None:
    """Each layer runs once forwards and once more in the backward pass; afterwards its own forward is back."""
    model, runs = make("llama"), []
    layers = [m for m in model.network.modules() if isinstance(m, GradientCheckpointingLayer)]
    assert len(layers) == 2
    hooks = [
        layer.get_submodule("input_layernorm").register_forward_pre_hook(lambda *_, at=at: runs.append(at))
        for at, layer in enumerate(layers)
    ]
    try:
        with rescaled(model, make_factors(model), learnable=True):
            loss = mean_loss_with_graph(model, TOKENS)
            assert runs == [0, 1]
            assert all("forward" not in vars(layer) for layer in layers)
            loss.backward()
        assert runs == [0, 1, 1, 0]
    finally:
        for hook in hooks:
            hook.remove()


class Kernels(TorchDispatchMode):
    """Counts how often attention is worked out that gradients are for."""

    runs = 0

    def __torch_dispatch__(self, operation: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it."""
        self.runs += operation in kernels.OPERATIONS and args[0].requires_grad
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("tile", [16, 65536])
def test_the_kernel_runs_again_only_where_its_outputs_do_not_fit(
    tile: int, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same gradients, bit for bit; a pass that tries a kernel out on its way keeps none of what that gives."""
    model, choose, untried = make("llama"), kernels.choose_kernel, [None]

    def try_out(*given: Any, **options: Any) -> Any:
        if untried:
            untried.clear()
            kernels.check_kernel(kernels.CPU, torch.device("cpu"), torch.float32, kernels.Heads(4, 2, 8))
        return choose(*given, **options)

    monkeypatch.setattr(attention, "choose_kernel", try_out)
    monkeypatch.setattr(passes, "choose_tile", lambda *_: (tile, "a test"))
    found = []
    for room, runs in ((2**32, 1), (0, 2)):
        monkeypatch.setattr(passes, "activation_room", lambda _, room=room: room)
        untried.append(None)
        found.append(gradients(model))
        with Kernels() as counted:  # type: ignore[no-untyped-call]
            found.append(gradients(model))
        assert counted.runs == runs * model.network.config.num_hidden_layers
    assert all(torch.equal(found[0], other) for other in found)


def gradients(model: LanguageModel) -> Tensor:
    """Of all weights, with recomputed layers."""
    model.network.requires_grad_(True)
    try:
        mean_loss_with_graph(model, TOKENS).backward()
        return torch.cat([weight.grad.flatten() for weight in model.network.parameters() if weight.grad is not None])
    finally:
        model.network.zero_grad()
        model.network.requires_grad_(False)


def test_layers_are_as_before_after_an_exception(make: Callable[..., LanguageModel]) -> None:
    """A failed pass leaves no checkpointed layer behind."""
    model = make("llama")
    layers = [m for m in model.network.modules() if isinstance(m, GradientCheckpointingLayer)]
    before = token_losses(model, TOKENS)
    with pytest.raises(IndexError):
        mean_loss_with_graph(model, TOKENS + VOCABULARY)  # ids beyond the vocabulary
    assert all("forward" not in vars(layer) for layer in layers)
    assert torch.equal(token_losses(model, TOKENS), before)


# What is told before a pass


def test_the_kernel_for_one_token_is_reported_where_one_decodes(
    make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("llama")
    messages = passes.describe_pass(model)
    assert passes.describe_pass(model, decoding=True) == messages  # a CPU has one kernel
    reasons = {False: "best for a pass", True: "best for a token"}
    monkeypatch.setattr(passes, "choose_kernel", lambda *_, decoding=False: (kernels.CPU, reasons[decoding]))
    assert passes.describe_pass(model).startswith("best for a pass; tiles")
    assert passes.describe_pass(model, decoding=True).startswith("best for a pass; best for a token; tiles")


# What a pass or a training will take


class Clock:
    """A clock that passes of a known cost alone move on."""

    now = 0.0

    def __init__(self, patch: pytest.MonkeyPatch, linear: float, squared: float, warm_up: float = 0.0) -> None:
        """Take the place of the time and of the pass."""
        self.linear, self.squared, self.warm_up, self.read = linear, squared, warm_up, list[int]()
        patch.setattr("longrope.engine.passes.time.perf_counter", lambda: self.now)
        patch.setattr(passes, "token_losses", self.run)

    def run(self, _: Any, ids: Any) -> None:
        """A pass; the first over a length takes longer."""
        tokens = ids.shape[1]
        self.now += self.linear * tokens + self.squared * tokens**2 + self.warm_up * (tokens not in self.read)
        self.read.append(tokens)


@pytest.mark.parametrize("tokens", [100, 4096, 65536, 2**21])
@pytest.mark.parametrize(("linear", "squared"), [(1e-3, 0.0), (1e-4, 1e-7), (0.0, 1e-6)])
def test_seconds_of_a_pass_are_extrapolated_from_short_ones(
    linear: float, squared: float, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly where a part grows with the tokens and one with their square; what warms up does not count."""
    clock = Clock(monkeypatch, linear, squared, warm_up=10.0)
    expected = linear * tokens + squared * tokens**2
    assert seconds_of_pass(pico.make_model(), tokens) == pytest.approx(expected, rel=1e-6)
    assert max(clock.read) <= min(tokens, 4096)


def test_seconds_of_a_pass_are_never_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a longer pass was faster by chance, the estimate still grows with the window."""
    clock = Clock(monkeypatch, 0.0, 0.0)
    clock.run = lambda _, ids: setattr(clock, "now", clock.now + 1.0)  # type: ignore[method-assign]
    monkeypatch.setattr(passes, "token_losses", clock.run)
    assert 0 < seconds_of_pass(pico.make_model(), 65536) < seconds_of_pass(pico.make_model(), 131072)


class WorkClock(TorchDispatchMode):
    """A clock that moves on by the work of real passes: what operations write, and each query's keys in attention."""

    def __init__(self) -> None:
        """Begin at 0."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it and count it."""
        made = func(*args, **(kwargs or {}))
        self.now += sum(x.numel() for x in tree_leaves(made) if isinstance(x, Tensor))
        if "attention" in str(func):
            self.now += args[0].numel() * args[1].shape[-2]
        return made


def test_seconds_of_a_pass_are_about_those_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one twice as long as the longest that is tried, by the work that is done in place of seconds."""
    model, tokens = pico.make_model(), 8192
    with WorkClock() as clock:
        monkeypatch.setattr("longrope.engine.passes.time.perf_counter", lambda: clock.now)
        estimated, began = seconds_of_pass(model, tokens), clock.now
        token_losses(model, np.arange(tokens)[None] % 300)
    assert estimated == pytest.approx(clock.now - began, rel=1e-4)


# Documents that do not see each other


def lengths_of(row: int) -> list[tuple[int, int]]:
    """Where the documents of a window begin and end."""
    return list(pairwise((*DOCUMENTS[row], TOKENS.shape[1])))


def told_by_their_documents() -> Tensor:
    """[B, N - 1] which next tokens have one before them in their document."""
    return torch.tensor([[at + 1 not in starts for at in range(TOKENS.shape[1] - 1)] for starts in DOCUMENTS])


def losses_alone(network: Any) -> Tensor:
    """Losses that transformers gives for each document by itself, at its positions in the window, row after row."""
    found = []
    for row in range(len(TOKENS)):
        for first, last in lengths_of(row):
            own, positions = TOKENS[row : row + 1, first:last], torch.arange(first, last)[None]
            logits = network(own, position_ids=positions, use_cache=False).logits.double()[:, :-1]
            targets = logits.gather(-1, own[:, 1:, None])[..., 0]
            found.append((logits.exp().sum(-1).log() - targets)[0])
    return torch.cat(found)


@every_family
@every_tile
def test_documents_are_read_as_if_alone(
    family: str, tile: int, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several in a row, one in all of it, one of one token; with sliding windows and in tiles that they do not meet."""
    model = make(family)
    set_tile(monkeypatch, tile)
    with rescaled(model, make_factors(model)), torch.no_grad():
        losses = token_losses(model, TOKENS, documents=DOCUMENTS)
        expected, together = losses_alone(model.network), token_losses(model, TOKENS)
    known = told_by_their_documents()
    torch.testing.assert_close(losses[known].double(), expected, rtol=5e-5, atol=5e-5)
    assert (losses - together)[0, 5:].abs().max() > 0.1, "the documents must have something to hide"


@pytest.mark.parametrize("settings", [{"recompute": True}, {"recompute": True, "offload": True}, {"recompute": False}])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "mixtral"])
def test_gradients_of_documents_are_those_of_each_alone(
    family: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every weight and of lambda, whether layers run again in the backward pass or not."""
    monkeypatch.setattr(loss_head, "LOGITS_PER_CHUNK", CHUNKS["uneven"])
    set_tile(monkeypatch, 7)
    known, gradients = told_by_their_documents(), []
    shares = np.random.default_rng(4).random(known.shape) * known.numpy()
    for plainly in (True, False):
        model = pico.make_model(family, **FAMILIES[family])
        model.network.requires_grad_(True)
        with rescaled(model, make_factors(model), learnable=True) as module:
            if plainly:
                loss = (losses_alone(model.network) * torch.from_numpy(shares)[known]).sum()
            else:
                loss = weighted_loss_with_graph(model, TOKENS, shares, documents=DOCUMENTS, **settings)
            loss.backward()
            gradients.append({name: weight.grad for name, weight in model.network.named_parameters()})
            gradients[-1] |= {"loss": loss.detach().float(), "factors": get_gradients(module)}
    plain, ours = gradients
    for name, expected in plain.items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_documents_are_those_of_a_block_diagonal_mask(kind: str) -> None:
    """Also where transformers is handed a mask of all windows at once."""
    model = pico.make_model("llama")
    owners = torch.stack([(torch.arange(48) >= torch.tensor(starts)[:, None]).sum(0) for starts in DOCUMENTS])
    seen = (owners[:, :, None] == owners[:, None]) & torch.ones(48, 48).tril().bool()
    model.network.set_attn_implementation(kind)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits = model.network(TOKENS, attention_mask=mask[:, None], use_cache=False).logits.double()[:, :-1]
    expected = logits.exp().sum(-1).log() - logits.gather(-1, TOKENS[:, 1:, None])[..., 0]
    model.network.set_attn_implementation("sdpa")
    given = token_losses(model, TOKENS, documents=DOCUMENTS)
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=1e-5)


def test_documents_whose_positions_begin_anew_are_those_that_transformers_packs() -> None:
    """It takes a position that does not follow the one before as the beginning of another sequence."""
    model = pico.make_model("llama")
    positions = torch.cat([torch.arange(last - first) for row in range(3) for first, last in lengths_of(row)])
    with rescaled(model, make_factors(model)), torch.no_grad():
        logits = model.network(TOKENS, position_ids=positions.view(3, 48), use_cache=False).logits.double()[:, :-1]
        expected = logits.exp().sum(-1).log() - logits.gather(-1, TOKENS[:, 1:, None])[..., 0]
        given = token_losses(model, TOKENS, documents=DOCUMENTS, positions=positions.view(3, 48))
    torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=1e-5)


@needs_gpu
def test_cuda_documents_are_read_as_if_alone() -> None:
    """By the GPU's kernels, which see parts of the keys, down to documents of one and two tokens; gradients, too."""
    model = pico.make_model("llama", dtype=torch.bfloat16)
    model.network.to("cuda").requires_grad_(True)
    alone = [
        token_losses(model, TOKENS[row : row + 1, a:b])[0] for row in range(3) for a, b in lengths_of(row) if b > a + 1
    ]
    known = told_by_their_documents()
    losses = token_losses(model, TOKENS, documents=DOCUMENTS)[known]
    torch.testing.assert_close(losses, torch.cat(alone), rtol=0.02, atol=0.1)
    assert losses.mean().item() == pytest.approx(torch.cat(alone).mean().item(), abs=0.01)
    norms = []
    for recompute in (True, False):
        shares = known.double().numpy() / known.sum().item()
        loss = weighted_loss_with_graph(model, TOKENS, shares, recompute=recompute, documents=DOCUMENTS)
        loss.backward()
        assert loss.item() == pytest.approx(losses.mean().item(), abs=0.01)
        gradients = [weight.grad.float().flatten() for weight in model.network.parameters() if weight.grad is not None]
        norms.append(torch.cat(gradients).norm().item())
        model.network.zero_grad()
    assert norms[0] > 0
    assert norms[0] == pytest.approx(norms[1], rel=0.01)


def test_windows_of_one_document_are_read_together(make: Callable[..., LanguageModel]) -> None:
    """To the bit as where no documents are told."""
    model = make("llama")
    assert torch.equal(token_losses(model, TOKENS, documents=[[0]] * 3), token_losses(model, TOKENS))


def test_a_pass_without_a_scored_token_has_no_loss(make: Callable[..., LanguageModel]) -> None:
    """As one over documents of one token each."""
    assert weighted_loss_with_graph(make("llama"), TOKENS, np.zeros((3, 47)), recompute=False).item() == 0


@pytest.mark.parametrize(
    "documents",
    [
        *([], [[0]] * 2, [[0]] * 2 + [[]], [[0], [0], [1]]),
        *([[0, 5]] * 2, [[0, 5, 5]] * 3, [[0, 48]] * 3, [[0, 9, 7]] * 3),
    ],
)
@pytest.mark.parametrize("way", [token_losses, mean_loss_with_graph])
def test_documents_that_do_not_fit_are_refused(
    way: Callable[..., Tensor], documents: list[list[int]], make: Callable[..., LanguageModel]
) -> None:
    with pytest.raises(LongRopeError, match="in 3 windows of 48 tokens"):
        way(make("llama"), TOKENS, documents=documents)


def test_recurrent_layers_would_carry_over_documents() -> None:
    model = pico.make_model("falcon_h1", mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8)
    with pytest.raises(ModelError, match=r"'falcon_h1' has recurrent layers\. .* documents cannot be kept apart"):
        token_losses(model, TOKENS, documents=DOCUMENTS)
    assert token_losses(model, TOKENS, documents=[[0]] * 3).shape == (3, 47)


# Positions that are told


def losses_at(network: Any, positions: Tensor) -> Tensor:
    """Losses by transformers at these positions; its mask is given, or it would take a skip for another sequence."""
    distance = torch.arange(48)[:, None] - torch.arange(48)
    reach = getattr(network.config, "sliding_window", None) or 48
    masks = [torch.zeros(3, 1, 48, 48).masked_fill((distance < 0) | (distance >= n), -torch.inf) for n in (48, reach)]
    gemma = network.config.model_type == "gemma2"
    mask: Any = dict(zip(("full_attention", "sliding_attention"), masks, strict=True)) if gemma else masks[0]
    logits = network(TOKENS, attention_mask=mask, position_ids=positions, use_cache=False).logits.double()[:, :-1]
    return logits.exp().sum(-1).log() - logits.gather(-1, TOKENS[:, 1:, None])[..., 0]  # type: ignore[no-any-return]


POSITIONS = torch.arange(48).repeat(3, 1)
POSITIONS[0, 11:] += 100
POSITIONS[2, 40:] += 7


@every_family
def test_losses_at_positions_are_those_of_transformers(
    family: str, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other ones in each row, in tiles and with gradients; sliding windows go by tokens, not by positions."""
    model = make(family)
    set_tile(monkeypatch, 7)
    with rescaled(model, make_factors(model), learnable=True) as module:
        reference = losses_at(model.network, POSITIONS)
        reference.mean().backward()
        expected = get_gradients(module)
    with rescaled(model, make_factors(model), learnable=True) as module:
        mean_loss_with_graph(model, TOKENS, positions=POSITIONS).backward()
        losses = token_losses(model, TOKENS, positions=POSITIONS.numpy())
        plain = token_losses(model, TOKENS)
        given = get_gradients(module)
    torch.testing.assert_close(losses.double(), reference.detach(), rtol=5e-5, atol=5e-5)
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    assert (losses - plain)[0].abs().max() > 0.01
    torch.testing.assert_close(losses[1], plain[1], rtol=1e-4, atol=1e-4)


# Greedy answers


def generate(model: LanguageModel, prompts: Tensor, count: int) -> Tensor:
    """[B, count] what transformers' own greedy decoding answers, with its cache and without a stop."""
    model.network.generation_config.eos_token_id = None
    sequences = model.network.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=count, do_sample=False
    )
    return sequences[:, prompts.shape[1] :]  # type: ignore[no-any-return]


@every_family
def test_greedy_answers_are_those_of_generate(family: str, make: Callable[..., LanguageModel]) -> None:
    """What generate answers is the greedy answer; an answer that differs in any one token is not."""
    model, count = make(family), 4
    prompts = TOKENS[:, :20]
    with rescaled(model, make_factors(model)):
        answers = generate(model, prompts, count)
        assert greedy_answers(model, torch.cat((prompts, answers), dim=1), count).tolist() == [True] * 3
        for at in range(count):
            altered = answers.clone()
            altered[1, at] = (altered[1, at] + 1) % VOCABULARY
            found = greedy_answers(model, torch.cat((prompts, altered), dim=1), count)
            assert found.tolist() == [True, False, True], at


def test_greedy_answers_in_bfloat16(make: Callable[..., LanguageModel]) -> None:
    """The same on a bfloat16 model, one token at a time, where no two logits tie."""
    model = make("llama", torch.bfloat16)
    prompts = TOKENS[:, :20]
    answers = generate(model, prompts, 1)
    top = model.network(prompts, use_cache=False).logits[:, -1].topk(2).values
    assert (top[:, 0] > top[:, 1]).all(), "choose other prompts: this one ties"
    assert greedy_answers(model, torch.cat((prompts, answers), dim=1), 1).all()
    assert not greedy_answers(model, torch.cat((prompts, (answers + 1) % VOCABULARY), dim=1), 1).any()


def test_only_the_answer_is_compared(make: Callable[..., LanguageModel]) -> None:
    """Prompts need not be greedy continuations of themselves, and one answer token is enough to ask for."""
    model = make("llama")
    prompts = TOKENS[:, :20]
    answers = generate(model, prompts, 3)
    whole = torch.cat((prompts, answers), dim=1)
    assert not greedy_answers(model, whole, 10).any()
    assert greedy_answers(model, whole, 1).all()
    assert greedy_answers(model, whole[:, :-1], 2).all()


# TrainingSample on after a cache


def read_pieces(model: LanguageModel, cache: KeyValueCache, pieces: tuple[int, ...]) -> Tensor:
    """[pieces, V] what follows each piece of the first window."""
    ends = np.cumsum([0, *pieces])
    parts = [TOKENS[:1, first:last] for first, last in pairwise(ends)]
    return torch.cat([prefill(model, part, cache) for part in parts])


@pytest.mark.parametrize(
    ("family", "pieces"),
    [
        *((family, (20, 1, 1, 18, 1, 7)) for family in FAMILIES),
        *((family, pieces) for family in ("llama", "gemma2") for pieces in ((48,), (1,) * 48)),
    ],
)
def test_reading_on_gives_the_logits_of_the_whole(
    family: str, pieces: tuple[int, ...], make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the pieces and the tiles, at every end of a piece, under factors."""
    model = make(family)
    set_tile(monkeypatch, 7, rows=1)
    with rescaled(model, make_factors(model)), torch.no_grad():
        whole = model.network(TOKENS[:1], use_cache=False).logits[0, np.cumsum(pieces) - 1]
        cache = KeyValueCache(model, 50)
        logits = read_pieces(model, cache, pieces)
    assert cache.tokens == 48
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4 * whole.abs().max().item())


@every_family
@pytest.mark.parametrize("eight_bit", [False, True])
def test_a_rewound_cache_forgets(family: str, eight_bit: bool, make: Callable[..., LanguageModel]) -> None:
    """What follows after it is to the bit what follows in a cache that never held more."""
    model = make(family)
    rewound, fresh = (KeyValueCache(model, 48, eight_bit=eight_bit) for _ in range(2))
    for cache in (rewound, fresh):
        prefill(model, TOKENS[:1, :20], cache)
    for others in (TOKENS[1:2, 20:48], TOKENS[1:2, 20:23]):
        prefill(model, others, rewound)
        rewound.rewind(20)
        assert [layer.tokens for layer in rewound.layers] == [20] * len(rewound.layers)
    for piece in (slice(20, 41), slice(41, 42), slice(42, 48)):
        there, here = (prefill(model, TOKENS[:1, piece], cache) for cache in (rewound, fresh))
        assert torch.equal(there, here)


@pytest.mark.parametrize("eight_bit", [False, True])
def test_an_offloaded_cache_changes_nothing(eight_bit: bool, make: Callable[..., LanguageModel]) -> None:
    model = make("llama")
    caches = [KeyValueCache(model, 48, eight_bit=eight_bit, offload=offload) for offload in (False, True)]
    there, here = (read_pieces(model, cache, (30, *(1,) * 18)) for cache in caches)
    assert torch.equal(there, here)


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_eight_bits_are_near(family: str, dtype: torch.dtype, make: Callable[..., LanguageModel]) -> None:
    """Logits differ by less than a twentieth of their spread in the mean; keys and values take a byte an entry."""
    model = make(family, dtype)
    full, small = KeyValueCache(model, 48), KeyValueCache(model, 48, eight_bit=True)
    expected, given = (read_pieces(model, cache, (30, *(1,) * 18)) for cache in (full, small))
    difference = (given - expected).abs()
    assert 0 < difference.mean() < 0.05 * expected.std()
    if family != "mixtral":  # whose router may choose other experts
        assert difference.max() < 0.25 * expected.std()
    entries = full.num_bytes // dtype.itemsize
    head_dim = full.layers[0].calls[0][0].buffer.shape[-1]  # type: ignore[union-attr]
    assert small.num_bytes == entries + 4 * entries // head_dim


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_eight_bits_round_to_the_nearest(dtype: torch.dtype) -> None:
    """Each entry is off by half a step of its token and head at most, zeros are zeros, and the scale is not rounded."""
    generator = torch.Generator().manual_seed(1)
    new = torch.randn(1, 2, 9, 64, generator=generator) * torch.logspace(-3, 3, 9)[:, None]
    new[:, :, 4] = 0
    new = new.to(dtype)
    keys, _ = LayerKeys(9, eight_bit=True).update(new, new)
    assert keys.dtype == dtype
    steps = new.abs().amax(-1, keepdim=True).double() / 127
    rounding = {torch.float32: 1e-6, torch.bfloat16: 2**-8}[dtype] * new.abs().double()
    assert ((keys.double() - new.double()).abs() <= steps / 2 * 1.0001 + rounding).all()


def test_a_cache_counts_its_bytes(make: Callable[..., LanguageModel]) -> None:
    model = make("llama")
    cache = KeyValueCache(model, 100)
    assert cache.num_bytes == 0
    prefill(model, TOKENS[:1], cache)
    assert cache.num_bytes == 100 * 2 * 2 * 2 * 8 * 4  # tokens, layers, keys and values, heads, head_dim, float32


def test_a_cache_that_is_full_is_reported(make: Callable[..., LanguageModel]) -> None:
    """And is as it was before."""
    model = make("llama")
    cache = KeyValueCache(model, 47)
    prefill(model, TOKENS[:1, :40], cache)
    with pytest.raises(ModelError, match=r"8 tokens are to follow 40 in a cache of 47\."):
        prefill(model, TOKENS[:1, 40:], cache)
    assert cache.tokens == 40
    prefill(model, TOKENS[:1, 40:47], cache)


@needs_gpu
def test_cuda_offload_keeps_nothing_on_the_gpu() -> None:
    """An offloaded cache and offloaded hidden states give the same numbers as ones on the GPU."""
    model = pico.make_model("llama", dtype=torch.bfloat16)
    model.network.to("cuda")
    caches = [KeyValueCache(model, 48, offload=offload) for offload in (False, True)]
    there, here = (read_pieces(model, cache, (30, *(1,) * 18)) for cache in caches)
    assert torch.equal(there, here)
    assert caches[0].layers[0].calls[0][0].buffer.is_cuda  # type: ignore[union-attr]
    assert caches[1].layers[0].calls[0][0].buffer.is_pinned()  # type: ignore[union-attr]
    losses = []
    for offload in (False, True):
        with rescaled(model, make_factors(model), learnable=True) as module:
            loss = mean_loss_with_graph(model, TOKENS, offload=offload)
            loss.backward()
            losses.append((loss.item(), get_gradients(module).tolist()))
    assert losses[0] == losses[1]
