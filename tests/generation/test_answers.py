"""Answers about a document against those of transformers, from caches of every kind."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pico
import pytest
import torch
from generating import DOCUMENT, END, PROMPT, SHORT, make_table
from long_passes import set_tile

from longrope.errors import ModelError
from longrope.generation import GenerationSettings, choose_token, encode_question, generate
from longrope.models import LanguageModel, rescaled
from longrope.rope import RescaleFactors

FAMILIES = ("llama", "mistral", "qwen3", "phi3", "gemma2", "gpt_neox", "cohere")


def answer_of_transformers(
    model: LanguageModel, factor_set: RescaleFactors | None, new_tokens: int
) -> tuple[str, int, bool]:
    """Text, tokens and whether it ended by itself, of transformers' own greedy decoding with its own cache."""
    ids = torch.tensor([encode_question(model.tokenizer, DOCUMENT, PROMPT)])
    with rescaled(model, factor_set), torch.no_grad():
        found = model.network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False
        )
    new = found[0, ids.shape[1] :].tolist()
    ended = new[-1] == END
    return model.tokenizer.decode(new, skip_special_tokens=True), len(new) - ended, ended


# The answer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tile", [7, 65536])
def test_the_answer_is_that_of_transformers(
    family: str, tile: int, make: Callable[[str], LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under factors, with the document read at once or in tiles."""
    model = make(family)
    set_tile(monkeypatch, tile, rows=1)
    done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=SHORT)
    factor_set = make_table(model).factor_sets[1]
    assert 128 < done.prompt_tokens + 12 <= 512
    assert (done.text, done.new_tokens, done.ended) == answer_of_transformers(model, factor_set, 12)
    assert (done.window_tokens, done.factors_fingerprint) == (512, factor_set.fingerprint)


def test_factor_sets_and_documents_matter(make: Callable[[str], LanguageModel]) -> None:
    """So that a wrong factor set would be noticed."""
    model = make("llama")
    factor_sets = make_table(model, (512, 513, 514)).factor_sets
    texts = {generate(model, factor_set, DOCUMENT, PROMPT, settings=SHORT).text for factor_set in factor_sets}
    texts.add(generate(model, factor_sets[0], DOCUMENT.replace("river", "night"), PROMPT, settings=SHORT).text)
    assert len(texts) == 4


def test_without_factors_the_model_runs_as_it_is() -> None:
    """Within its trained window."""
    model = pico.make_model("llama", max_position_embeddings=512)
    done = generate(model, None, DOCUMENT, PROMPT, settings=SHORT)
    assert (done.text, done.new_tokens, done.ended) == answer_of_transformers(model, None, 12)
    assert (done.window_tokens, done.factors_fingerprint) == (512, "")


def test_the_factor_set_is_chosen_once(make: Callable[[str], LanguageModel]) -> None:
    """For prompt and planned answer together, though the prompt alone fits into a smaller factor set."""
    model = make("llama")
    prompt_tokens = len(encode_question(model.tokenizer, DOCUMENT, PROMPT))
    table = make_table(model, (prompt_tokens + 11, prompt_tokens + 12, 2048))
    done = generate(model, table, DOCUMENT, PROMPT, settings=SHORT)
    texts = [answer_of_transformers(model, factor_set, 12)[0] for factor_set in table.factor_sets]
    assert done.text == texts[1]
    assert done.text not in (texts[0], texts[2])
    assert done.window_tokens == prompt_tokens + 12
    assert done.factors_fingerprint == table.factor_sets[1].fingerprint
    assert generate(model, table, DOCUMENT, PROMPT, settings=GenerationSettings(11)).window_tokens == prompt_tokens + 11


def test_one_factor_set_alone_may_be_given(make: Callable[[str], LanguageModel]) -> None:
    model = make("llama")
    factor_set = make_table(model).factor_sets[1]
    one, many = (
        generate(model, given, DOCUMENT, PROMPT, settings=SHORT).text for given in (factor_set, make_table(model))
    )
    assert one == many


@pytest.mark.parametrize("stated", [END, [200, END], None])
def test_the_answer_ends_at_an_end_token(stated: Any, forced: Callable[[list[int]], list[Any]]) -> None:
    """By the generation config, which may know several, or the tokenizer; it is no part of the answer."""
    model = pico.make_model("llama")
    model.network.generation_config.eos_token_id = stated
    table = make_table(model)
    for end in (END, 200):
        forced([*model.tokenizer("wind")["input_ids"], end, 33, 34])
        known = end == END or isinstance(stated, list)
        done = generate(model, table, DOCUMENT, PROMPT, settings=GenerationSettings(max_new_tokens=4))
        assert done.ended == known
        assert done.text.startswith("wind")
        if known:
            assert (done.text, done.new_tokens) == ("wind", len(model.tokenizer("wind")["input_ids"]))


def test_what_it_took_is_reported(
    make: Callable[[str], LanguageModel], forced: Callable[[list[int]], list[Any]]
) -> None:
    model = make("llama")
    forced([40, 41, 42, END])
    read: list[tuple[int, int]] = []
    done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=SHORT, on_read=lambda *n: read.append(n))
    tokens = len(encode_question(model.tokenizer, DOCUMENT, PROMPT))
    assert (done.prompt_tokens, done.new_tokens, done.ended) == (tokens, 3, True)
    assert read == [(tokens, tokens)]
    assert done.prefill_seconds >= 0
    assert done.decode_seconds >= 0
    assert done.cache_bytes == (tokens + 12) * 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head_dim, float32


def test_reading_is_reported_tile_by_tile(
    make: Callable[[str], LanguageModel], forced: Callable[[list[int]], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("llama")
    forced([END])
    set_tile(monkeypatch, 100, rows=1)
    read: list[tuple[int, int]] = []
    done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=SHORT, on_read=lambda *n: read.append(n))
    total = done.prompt_tokens
    assert read == [(at, total) for at in (*range(100, total, 100), total)]
    assert (done.text, done.new_tokens) == ("", 0)


# The cache


def test_an_offloaded_cache_gives_the_same_answer(make: Callable[[str], LanguageModel]) -> None:
    model = make("qwen3")
    plain, offloaded = (
        generate(model, make_table(model), DOCUMENT, PROMPT, settings=GenerationSettings(12, offload=offload))
        for offload in (False, True)
    )
    assert (plain.text, plain.cache_bytes) == (offloaded.text, offloaded.cache_bytes)


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_bits_keep_the_logits(
    family: str, make: Callable[[str], LanguageModel], forced: Callable[[list[int]], list[Any]]
) -> None:
    """After the whole prompt and at each token that is then forced: within a twentieth of their spread, in the mean."""
    model = make(family)
    logits: dict[bool, list[Any]] = {}
    for eight_bit in (False, True):
        logits[eight_bit] = forced([*range(40, 51), END])
        wanted = GenerationSettings(12, eight_bit=eight_bit)
        done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=wanted)
        head_dim = model.spec.head_dim
        entries = 2 * 2 * 2 * head_dim * (done.prompt_tokens + 12)
        if family not in ("phi3", "gpt_neox"):  # which have other numbers of key heads here
            assert done.cache_bytes == (entries * 4 if not eight_bit else entries + 4 * entries // head_dim)
    plain, small = (np.stack(logits[eight_bit]) for eight_bit in (False, True))
    assert plain.shape == small.shape == (12, 320)
    assert 0 < np.abs(small - plain).mean() < 0.05 * plain.std()


# Drawing


def test_drawn_tokens_follow_the_shares() -> None:
    """Softmax of logits over the temperature, within the fewest tokens that hold top_p of it."""
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))
    for temperature, top_p, expected in (
        (1.0, 1.0, [0.1, 0.4, 0.2, 0.3]),
        (0.5, 1.0, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (1.0, 0.69, [0, 4 / 7, 0, 3 / 7]),
        (1.0, 0.71, [0, 4 / 9, 2 / 9, 3 / 9]),
        (2.0, 0.01, [0, 1, 0, 0]),
    ):
        rng = np.random.default_rng(1)
        wanted = GenerationSettings(temperature=temperature, top_p=top_p)
        drawn = np.bincount([choose_token(logits, wanted, rng) for _ in range(4000)], minlength=4) / 4000
        np.testing.assert_allclose(drawn, expected, atol=0.025)
        assert ((drawn == 0) == (np.array(expected) == 0)).all()


def test_the_likeliest_is_taken_at_temperature_zero() -> None:
    rng = np.random.default_rng(0)
    logits = np.array([-np.inf, 3, 5, 5], np.float32)
    assert {choose_token(logits, GenerationSettings(), rng) for _ in range(9)} == {2}
    assert {choose_token(logits, GenerationSettings(temperature=1e-3), rng) for _ in range(50)} == {2, 3}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(bad: float, temperature: float) -> None:
    wanted = GenerationSettings(temperature=temperature)
    with pytest.raises(ModelError, match=f"The highest logit of the next token is {bad}"):
        choose_token(np.array([1, bad, 2], np.float32), wanted, np.random.default_rng(0))


def test_a_seed_decides_the_draws(make: Callable[[str], LanguageModel]) -> None:
    model = make("llama")
    texts = [
        generate(model, make_table(model), DOCUMENT, PROMPT, settings=GenerationSettings(12, 1.0, seed=seed)).text
        for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]
