"""Losses of long windows against whole logits.

The logits are made in chunks that do not divide the windows, and layers go through tiles that do not, either.
"""

from collections.abc import Callable
from typing import Any

import pico
import pytest
import torch
from long_passes import (
    CHUNKS,
    DOCUMENTS,
    TOKENS,
    VOCABULARY,
    compute_losses,
    every_family,
    every_tile,
    get_state,
    hooked,
    make_factors,
    mean_loss_with_graph,
    set_chunk,
    set_tile,
)
from spying import before
from torch import Tensor

from longrope.engine import attention, context
from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache
from longrope.engine.passes import token_losses
from longrope.models import LanguageModel, rescaled

FAILING = ("embed_tokens", "layers.0", "layers.1.self_attn", "layers.1.mlp", "layers.1.mlp.down_proj", "norm")
every_chunk = pytest.mark.parametrize("chunk", CHUNKS)


@every_family
@every_chunk
def test_token_losses_are_those_of_whole_logits(
    family: str, chunk: str, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One loss per token but the first, with the family's own caps and scales, however the logits are cut."""
    model = make(family)
    set_chunk(monkeypatch, CHUNKS[chunk])
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
    set_chunk(monkeypatch)
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
    set_chunk(monkeypatch)
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
    set_chunk(monkeypatch)
    hook = model.network.lm_head.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape)))
    try:
        token_losses(model, TOKENS)
    finally:
        hook.remove()
    assert sizes == [(3, 7, VOCABULARY)] * 6 + [(3, 5, VOCABULARY)]


def test_network_is_whole_after_the_pass(make: Callable[..., LanguageModel]) -> None:
    """The decoder that stood aside for the head is back, an exception included."""
    model = make("llama")
    decoder, names = model.network.model, [name for name, _ in model.network.named_modules()]

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    token_losses(model, TOKENS)
    with hooked(model.network.lm_head, fail), pytest.raises(RuntimeError, match="no memory"):
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
    """Only what is asked for goes through the head, in chunks of about one size."""
    model, given = make("llama"), []
    whole = token_losses(model, TOKENS)
    set_chunk(monkeypatch, CHUNKS[chunk])
    with hooked(model.network.lm_head, lambda _, args: given.append(args[0].shape[1])):
        part = token_losses(model, TOKENS, at)
    assert part.shape == whole[:, at].shape
    assert sum(given) == part.shape[1]
    assert len(set(given[:-1])) <= 1
    torch.testing.assert_close(part, whole[:, at], rtol=1e-5, atol=1e-5)


@every_tile
@pytest.mark.parametrize("with_graph", [False, True])
def test_no_more_than_a_tile_at_once(
    tile: int, with_graph: bool, make: Callable[..., LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No MLP widens more tokens than a tile has; without a graph no layer or attention sees more, either."""
    model, seen = make("llama"), {"mlp": [], "attention": []}  # type: ignore[var-annotated]
    before(monkeypatch, attention, "attend", lambda query, *_, **__: seen["attention"].append(query.shape[2]))
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
    before(monkeypatch, norm, "forward", lambda part: sizes.append(part.shape[1]))
    hooks = [module.register_forward_hook(look) for module in (*model.network.model.layers, norm)]
    try:
        losses = token_losses(model, TOKENS)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(places) == 1
    assert sizes == [7] * 6 + [6]
    torch.testing.assert_close(losses.double(), compute_losses(model.network, TOKENS), rtol=2e-5, atol=2e-5)


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
