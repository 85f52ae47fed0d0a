"""A tokenizer that lacks characters of the answers is refused before any pass: it would write all answers alike."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pico
import pytest
from measuring import no_passes
from ruler_prompts import TOKENIZERS as RULER_TOKENIZERS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from longrope.data import TokenText, check_answer, encode, encode_answer
from longrope.errors import TextsError
from longrope.evaluation import measure
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe

LETTERS = "abcdefghijklmnopqrstuvwxyz"
METRICS = ("passkey", "many-passkeys", "needle", "prose-needle", "ruler-niah_single_1", "ruler-vt", "planted-summary")
LINE = "the river turns the mill and what is the pass key of it"


def dropping() -> PreTrainedTokenizerFast:
    """Byte pairs of lower case alone, without an unknown token: other characters vanish."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<end>"], show_progress=False)
    tokenizer.train_from_iterator([LINE, f"{LETTERS}.,?-\n"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


TOKENIZERS: dict[str, tuple[Callable[[], PreTrainedTokenizerFast], str]] = {
    "with an unknown token": (lambda: pico.make_word_piece([LINE], 90, alphabet=f"{LETTERS}.,?-"), r"with '\[UNK\]'"),
    "without one": (dropping, r"as '[^0-9A-Z]*'"),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("metric", METRICS)
def test_answers_that_the_tokenizer_cannot_write_are_refused_before_any_pass(
    kind: str, metric: str, model: LanguageModel
) -> None:
    """Perplexity, which is asked for first, is not measured either."""
    make, how = TOKENIZERS[kind]
    ids = np.random.default_rng(0).integers(3, 60, 10_000).astype(np.int32)
    settings = MeasureRecipe((1500,), ("perplexity", metric), windows=2, passkeys=10, needles=4, ruler_prompts=2)
    with no_passes(), pytest.raises(TextsError, match=f"The tokenizer writes '[^']+' {how}") as error:
        measure(replace(model, tokenizer=make()), None, TokenText(ids, "measure", None), settings=settings)
    assert "take a model with another tokenizer" in error.value.remedy


def test_an_answer_of_which_characters_vanish_is_refused() -> None:
    tokenizer: Any = dropping()
    assert encode(tokenizer, "48213") == []
    with pytest.raises(TextsError, match="'48213' as ''"):
        encode_answer(tokenizer, "the key is", "48213")
    with pytest.raises(TextsError, match="'mill 7' as ' mill '"):
        check_answer(tokenizer, "mill 7", encode(tokenizer, " mill 7"))
    assert encode_answer(tokenizer, "the key is", "mill")[1] == 1


@pytest.mark.parametrize("answer", ["48213", "VAR Anna", "timber-nimble", "two bright coins and some maps"])
def test_answers_that_tokenizers_write_in_their_own_way_are_taken(answer: str) -> None:
    """In lower case, with other spaces, with what stands before it in the same token."""
    for some in (pico.make_tokenizer(), *RULER_TOKENIZERS.values()):
        check_answer(some, answer, encode(some, f" {answer}"))
        check_answer(some, answer, encode(some, f"is {answer}"))


def test_an_answer_may_lose_its_accents() -> None:
    tokenizer: Any = pico.make_word_piece([LINE, "cafe"], 90, alphabet=LETTERS)
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    assert tokenizer.decode(encode(tokenizer, "café")) == "cafe"
    check_answer(tokenizer, "café", encode(tokenizer, "café"))
