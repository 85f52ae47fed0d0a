"""The one decoding loop: against transformers' own greedy decoding, and when tokens enter the cache."""

from collections.abc import Callable
from itertools import islice

import numpy as np
import pico
import pytest
import torch
from long_passes import set_tile
from torch import Tensor

from longrope.engine.decoding import decode, prefill, read_prompt
from longrope.engine.kv_cache import KeyValueCache
from longrope.models import LanguageModel

PROMPT = np.random.default_rng(3).integers(1, pico.BASE["vocab_size"], 20)
END = 0  # the pico tokenizer's end of text


def likeliest(logits: Tensor) -> int:
    return int(logits.argmax())


def say(tokens: list[int]) -> Callable[[Tensor], int]:
    """Choose these tokens, whatever their logits."""
    left = iter(tokens)
    return lambda _: next(left)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("tile", [7, 65536])
def test_greedy_decoding_is_that_of_transformers(family: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    set_tile(monkeypatch, tile, rows=1)
    model, ids = pico.make_model(family), torch.from_numpy(PROMPT)[None]
    found = model.network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    expected = [token for token in found[0, 20:].tolist() if token != END]
    cache = KeyValueCache(model, 31)
    assert list(decode(model, read_prompt(model, PROMPT, cache), cache, likeliest, 12)) == expected


@pytest.mark.parametrize(
    ("said", "most", "expected", "cached"),
    [
        ([5, 6, END, 7], 9, [5, 6], 22),  # the model ends its answer
        ([END, 7], 9, [], 20),
        ([5, 6, 7, 8], 3, [5, 6, 7], 22),  # it is full, and the last token is not read
        ([5, END], 1, [5], 20),
    ],
)
def test_answers_end_and_a_token_is_read_when_the_next_is_asked_for(
    said: list[int], most: int, expected: list[int], cached: int
) -> None:
    model = pico.make_model()
    cache = KeyValueCache(model, 40)
    assert list(decode(model, read_prompt(model, PROMPT, cache), cache, say(said), most)) == expected
    assert cache.tokens == cached


def test_the_caller_may_stop_after_any_token() -> None:
    """What was written last is not read, and the next prompt follows what was."""
    model = pico.make_model()
    cache = KeyValueCache(model, 40)
    tokens = decode(model, read_prompt(model, PROMPT, cache), cache, say([5, 6, 7, 8]), 9)
    assert list(islice(tokens, 2)) == [5, 6]
    assert cache.tokens == 21
    whole = KeyValueCache(model, 40)
    expected = prefill(model, np.array([[*PROMPT, 5, 9, 10]]), whole)
    torch.testing.assert_close(read_prompt(model, [9, 10], cache), expected[0], rtol=1e-4, atol=1e-4)


def test_a_prompt_is_read_tile_by_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """And reported so; the logits are those of reading it at once."""
    model: LanguageModel = pico.make_model()
    whole = read_prompt(model, PROMPT, KeyValueCache(model, 20))
    set_tile(monkeypatch, 8, rows=1)
    read: list[int] = []
    logits = read_prompt(model, list(PROMPT), KeyValueCache(model, 20), read.append)
    assert read == [8, 16, 20]
    assert logits.shape == (pico.BASE["vocab_size"],)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)
