"""Facts that are planted in a window and asked for at its end."""

import re
from typing import Any

import numpy as np
import pico
import pytest
from split_documents import unique_text

from longrope.data import (
    TokenText,
    encode_answer,
    opening_token,
    plant_needles,
)
from longrope.errors import TextsError


def told_codes(text: str, pattern: str) -> dict[str, str]:
    """The codes in a text by the names of what they belong to."""
    found: list[tuple[str, str]] = re.findall(pattern, text)
    assert len(found) == len(dict(found))
    return dict(found)


@pytest.mark.parametrize("opens", [False, True])
def test_needles_are_planted_and_asked_for(opens: bool, tokenizer: Any, opening_tokenizer: Any) -> None:
    """Eight facts at rising depths, eight questions at the end, the text between them as it was, the length kept."""
    tokenizer = opening_tokenizer if opens else tokenizer
    ids = tokenizer(pico.make_text(2400), add_special_tokens=False)["input_ids"]
    window = TokenText(np.asarray(ids, np.int32), "search", opening_token(tokenizer)).windows(3000, 1)[0]
    planted, answers = plant_needles(window, tokenizer, np.random.default_rng(3))
    assert planted.shape == (3000,)
    assert planted.dtype == np.int32
    assert answers.shape == (2999,)
    text = tokenizer.decode(planted)
    asked = told_codes(text, r"What is the code of the (\w+)\? The code of the \1 is (\d{5})")
    facts = told_codes(text, r"\nThe code of the (\w+) is (\d{5})\.\n")
    assert asked == facts
    assert len(facts) == len(set(facts.values())) == 8
    assert list(asked) != list(facts)
    body = re.sub(r"\nThe code of the \w+ is \d{5}\.\n", "", text[: text.index("\nWhat is the code")])
    assert body == tokenizer.decode(window)[: len(body)]
    depths = [text.index(f"The code of the {name} is {code}.") / len(body) for name, code in facts.items()]
    assert depths == sorted(depths)
    assert depths[0] < 0.2
    assert depths[-1] > 0.8
    answered = "".join(tokenizer.decode([token]) for token in planted[1:][answers])
    assert answered == "".join(asked.values())
    if opens:
        assert planted[0] == window[0] == tokenizer.bos_token_id


def test_needles_are_decided_by_their_random_state(tokenizer: Any) -> None:
    window = unique_text(3000).tokens % 300
    first, again, other = (plant_needles(window, tokenizer, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


def test_needles_that_would_fill_the_window_are_refused(tokenizer: Any) -> None:
    with pytest.raises(TextsError, match=r"Needles would take \d+ tokens of a window of 600"):
        plant_needles(unique_text(600).tokens % 300, tokenizer, np.random.default_rng(0))


def test_an_answer_that_the_tokenizer_cannot_write_is_refused() -> None:
    """Its unknown token would stand for every number, so any answer would be right."""
    texts = ["the river turns the mill and what is the pass key of it"]
    tokenizer = pico.make_word_piece(texts, 90, alphabet="abcdefghijklmnopqrstuvwxyz")
    assert tokenizer.unk_token_id in tokenizer("48213")["input_ids"]
    with pytest.raises(TextsError, match=r"'48213' with '\[UNK\]'"):
        encode_answer(tokenizer, "the key is", "48213")
    assert encode_answer(tokenizer, "the key is", "river")[1] == 1
