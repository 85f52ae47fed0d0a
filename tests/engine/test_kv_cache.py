"""Greedy answers and passes that continue after a cache, against transformers' own decoding."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pico
import pytest
import torch
from long_passes import (
    FAMILIES,
    TOKENS,
    VOCABULARY,
    every_family,
    make_factors,
    needs_gpu,
    set_tile,
)
from torch import Tensor

from longrope.engine.decoding import prefill
from longrope.engine.kv_cache import KeyValueCache, LayerKeys
from longrope.engine.passes import greedy_answers
from longrope.errors import ModelError
from longrope.models import LanguageModel, rescaled

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


# Passes that continue after a cache


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
    """An offloaded cache gives the same numbers as one on the GPU."""
    model = pico.make_model("llama", dtype=torch.bfloat16)
    model.network.to("cuda")
    caches = [KeyValueCache(model, 48, offload=offload) for offload in (False, True)]
    there, here = (read_pieces(model, cache, (30, *(1,) * 18)) for cache in caches)
    assert torch.equal(there, here)
    assert caches[0].layers[0].calls[0][0].buffer.is_cuda  # type: ignore[union-attr]
    assert caches[1].layers[0].calls[0][0].buffer.is_pinned()  # type: ignore[union-attr]
