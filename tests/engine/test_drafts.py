"""Answers by drafts are those of greedy decoding token by token, whatever is proposed, in fewer passes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pico
import pytest
from long_passes import hooked

from longrope.engine.decoding import decode, read_all, read_prompt
from longrope.engine.drafts import draft_steps, look_up, next_step
from longrope.engine.kv_cache import KeyValueCache
from longrope.models import LanguageModel

COUNT, END = 20, 0
PROMPT = np.random.default_rng(0).integers(1, 300, 60).astype(np.int32)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """One layer and weights by chance."""
    return pico.make_model("llama", num_hidden_layers=1)


def by_single_tokens(model: LanguageModel) -> list[int]:
    """The oracle: one pass for each token."""
    cache = KeyValueCache(model, len(PROMPT) + COUNT)
    return list(decode(model, read_prompt(model, PROMPT.tolist(), cache), cache, lambda x: int(x.argmax()), COUNT))


def by_drafts(model: LanguageModel, propose: Callable[[Sequence[int]], Sequence[int]]) -> tuple[list[int], list[int]]:
    """The answer, and how many tokens each pass after the prompt had."""
    cache = KeyValueCache(model, len(PROMPT) + COUNT)
    logits = read_prompt(model, PROMPT.tolist(), cache)
    passes, asked, written = list[int](), list[int](), list[int]()
    steps, likeliest = draft_steps(model, cache, propose, logits, COUNT), None
    with hooked(model.network.get_input_embeddings(), lambda _, given: passes.append(given[0].numel())):
        while (step := next_step(steps, likeliest)) is not None:
            likeliest = None
            if isinstance(step, int):
                written.append(step)
            else:
                asked.append(len(step))
                likeliest = read_all(model, np.asarray([step]), cache, len(step))[0].argmax(-1).tolist()
    assert asked == passes
    return written, passes


def test_what_is_proposed_changes_the_passes_and_not_the_answer(model: LanguageModel) -> None:
    right = by_single_tokens(model)
    assert len(right) == COUNT
    wrong = [token + 1 for token in right]
    for propose, passes in (
        (lambda _: [], COUNT - 1),
        (lambda _: wrong, COUNT - 1),
        (lambda so_far: right[len(so_far) :], 1),
        (lambda so_far: [*right[len(so_far) :], 5, 6], 1),
        (lambda so_far: right[len(so_far) : len(so_far) + 4], 4),
        (lambda so_far: [right[len(so_far)], END, END], COUNT / 2),
    ):
        written, made = by_drafts(model, propose)
        assert written == right
        assert len(made) == passes


@pytest.mark.parametrize("place", [0, 1, 7])
def test_an_end_token_ends_an_answer_inside_a_draft_too(model: LanguageModel, place: int) -> None:
    right = by_single_tokens(model)
    network = model.network
    before = network.generation_config.eos_token_id
    network.generation_config.eos_token_id = right[place]
    try:
        ended = replace(model)
        assert by_single_tokens(ended) == right[: right.index(right[place])]
        assert by_drafts(ended, lambda so_far: right[len(so_far) :])[0] == by_single_tokens(ended)
    finally:
        network.generation_config.eos_token_id = before


def test_the_latest_of_the_longest_matches_is_looked_up() -> None:
    """Against a search through all places in plain Python."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        known, written = rng.integers(0, 3, 40).astype(np.int32), rng.integers(0, 3, 5).tolist()
        tokens = [*known.tolist(), *written]
        expected: list[int] = []
        for size in range(1, 7):
            places = [i for i in range(len(tokens) - size) if tokens[i : i + size] == tokens[-size:]]
            if places:
                expected = tokens[places[-1] + size :][:4]
        assert look_up(known, written, 4) == expected
    assert look_up(np.arange(9, dtype=np.int32), [20, 21], 4) == []
