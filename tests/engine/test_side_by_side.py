"""Questions that are read side by side, against reading each of them with its text in one pass of its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pico
import pytest
import torch

from longrope.engine.decoding import read_prompt
from longrope.engine.kv_cache import REWOUND_TOKENS, KeyValueCache, LayerKeys
from longrope.engine.near_exact import dca, self_extend
from longrope.engine.questions import follow_greedily
from longrope.models import LanguageModel

TEXT = np.random.default_rng(0).integers(1, 300, 150).astype(np.int32)
Reading = Callable[[LanguageModel, int], AbstractContextManager[None]]


def greedy(model: LanguageModel, question: Any, count: int) -> list[int]:
    """The greedy answer: text and question are read anew for each token of it."""
    tokens = [*TEXT.tolist(), *question.tolist()]
    for _ in range(count):
        cache = KeyValueCache(model, 200)
        tokens.append(int(read_prompt(model, np.asarray(tokens), cache).argmax()))
    return tokens[len(tokens) - count :]


def asked(model: LanguageModel) -> tuple[list[tuple[Any, int]], list[bool]]:
    """Questions of unlike lengths with greedy answers, and each with one token changed; which are right."""
    rng = np.random.default_rng(3)
    questions, wanted = [], []
    for size, answer_tokens in ((1, 3), (9, 1), (4, 5)):
        question = rng.integers(1, 300, size)
        answer = greedy(model, question, answer_tokens)
        for changed in (None, 0, answer_tokens - 1):
            other = [(x + (i == changed)) % 320 for i, x in enumerate(answer)]
            questions.append((np.asarray([*question, *other], np.int32), answer_tokens))
            wanted.append(changed is None)
    return questions, wanted


@pytest.mark.parametrize(
    ("family", "reading"),
    [
        ("llama", None),
        ("gemma2", None),  # every second layer sees 32 tokens
        ("llama", dca),
        ("qwen3", self_extend),
    ],
)
def test_answers_are_those_of_reading_each_question_alone(family: str, reading: Reading | None) -> None:
    model = pico.make_model(family)
    passes: list[tuple[int, ...]] = []
    with reading(model, 200) if reading else nullcontext():
        questions, wanted = asked(model)
        cache = KeyValueCache(model, 200, drop=True)
        read_prompt(model, TEXT, cache)
        embedding = model.network.get_input_embeddings()
        hook = embedding.register_forward_pre_hook(lambda _, x: passes.append(tuple(x[0].shape)))
        assert follow_greedily(model, questions, cache) == wanted
        hook.remove()
    assert passes == [(9, 10)]
    assert cache.tokens == len(TEXT)  # nothing of them is kept


@pytest.mark.parametrize("tokens", [20, 3 * REWOUND_TOKENS])
def test_rows_see_the_last_keys_where_a_layer_drops_the_others(tokens: int) -> None:
    """Against the last 31 keys and the new ones, joined by hand."""
    window, kept = 32, torch.randn(1, 2, tokens, 4)
    keys = LayerKeys(5 * REWOUND_TOKENS, drop=True)
    for part in kept.split(REWOUND_TOKENS, dim=2):
        keys.begin_tile()
        keys.update(part, window=window)
    keys.forgets = True
    keys.begin_tile()
    new = torch.randn(3, 2, 7, 4)
    (found,) = keys.update(new, window=window)
    last = kept[:, :, -(window - 1) :]
    assert torch.equal(found, torch.cat((last.repeat(3, 1, 1, 1), new), dim=2))
    assert keys.tokens == tokens


def test_keys_of_8_bits_are_read_one_by_one() -> None:
    model = pico.make_model("llama")
    questions, _ = asked(model)
    cache = KeyValueCache(model, 200, eight_bit=True)
    read_prompt(model, TEXT, cache)
    calls: list[int] = []
    hook = model.network.get_input_embeddings().register_forward_pre_hook(lambda _, x: calls.append(len(x[0])))
    follow_greedily(model, questions, cache)
    hook.remove()
    assert calls == [1] * len(questions)


def test_keys_in_the_memory_of_the_cpu_are_read_side_by_side() -> None:
    model = pico.make_model("llama")
    questions, wanted = asked(model)
    cache = KeyValueCache(model, 200, offload=True)
    read_prompt(model, TEXT, cache)
    assert follow_greedily(model, questions, cache) == wanted
