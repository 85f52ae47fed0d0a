"""Building a model from scratch: its sizes counted by hand, its seed, its tokenizer, its way to the disk and back."""

from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import longrope
from longrope.data import encode, encode_answer, load_texts, opening_token
from longrope.errors import ModelError
from longrope.models import LanguageModel, build_model, build_tokenizer, load_model, save_model
from longrope.rope import RopeSpec

SIZES: dict[str, Any] = {"d_model": 32, "layers": 2, "heads": 4, "key_value_heads": 2, "mlp": 48, "window": 64}
TOKENS = torch.randint(0, 320, (2, 64), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer([pico.make_text(600)], 320)


def build(tokenizer: Any, **changes: Any) -> LanguageModel:
    return build_model(tokenizer, **{**SIZES, "device": "cpu", **changes})


def get_logits(model: LanguageModel) -> torch.Tensor:
    with torch.inference_mode():
        return model.network(TOKENS).logits  # type: ignore[no-any-return]


# The model


def test_a_model_has_the_sizes_that_were_asked_for(tokenizer: Any) -> None:
    model = build(tokenizer, theta=5e4)
    attention = 32 * (4 + 2 + 2 + 4) * 8  # queries, keys, values, output; heads of 8
    layer = attention + 3 * 32 * 48 + 2 * 32
    assert sum(weight.numel() for weight in model.network.parameters()) == 320 * 32 + 2 * layer + 32
    assert model.spec == RopeSpec(head_dim=8, rotary_dim=8, theta=5e4, trained_window=64)
    assert model.network.config.eos_token_id == model.network.config.pad_token_id == tokenizer.eos_token_id
    assert model.network.config.bos_token_id is None
    assert {weight.dtype for weight in model.network.parameters()} == {torch.float32}


def test_sizes_that_are_left_out_follow_from_the_others(tokenizer: Any) -> None:
    config = build(tokenizer, key_value_heads=None, mlp=None).network.config
    assert (config.num_key_value_heads, config.intermediate_size) == (4, 85)


def test_an_untrained_model_is_near_to_uniform_at_every_position(tokenizer: Any) -> None:
    logits = get_logits(build(tokenizer, d_model=64, layers=8))
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), TOKENS[:, 1:], reduction="none")
    assert losses.mean(0).numpy() == pytest.approx(np.log(320), abs=1)
    assert losses.mean() == pytest.approx(np.log(320), abs=0.1)


def test_the_residual_stream_does_not_grow_with_the_depth(tokenizer: Any) -> None:
    def added(layers: int) -> float:
        """The size of what all blocks add to the embeddings."""
        network = build(tokenizer, layers=layers).network
        written: list[torch.Tensor] = []
        network.model.layers[-1].register_forward_hook(lambda *call: written.append(call[-1]))
        with torch.inference_mode():
            network(TOKENS)
            return float((written[0] - network.get_input_embeddings()(TOKENS)).std())

    assert added(16) == pytest.approx(added(2), rel=0.5)


def test_a_seed_decides_the_weights_and_leaves_the_random_state_alone(tokenizer: Any) -> None:
    before = torch.get_rng_state()
    first, again, other = (get_logits(build(tokenizer, seed=seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_a_saved_model_reopens_with_the_same_logits(tokenizer: Any, tmp_path: Path) -> None:
    model = longrope.build_model(tokenizer, **SIZES, device="cpu")
    save_model(model, tmp_path)
    reopened = load_model(tmp_path, device="cpu")
    assert torch.equal(get_logits(reopened), get_logits(model))
    assert reopened.spec == model.spec
    text = pico.make_text(60)
    assert encode(reopened.tokenizer, text) == encode(tokenizer, text)
    assert opening_token(reopened.tokenizer) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 30}, "d_model = 30 is not divisible into 4 heads of even size. .* a multiple of 8 for d_model"),
        ({"d_model": 36}, "d_model = 36 is not divisible"),
        ({"key_value_heads": 3}, "heads = 4 is not divisible by key_value_heads = 3. .* a divisor of 4"),
        ({"key_value_heads": 0}, "key_value_heads = 0. At least 1"),
        ({"layers": 0}, "layers = 0. At least 1"),
        ({"mlp": -1}, "mlp = -1. At least 1"),
        ({"window": 1}, "window = 1. At least 2"),
        ({"theta": 1.0}, "theta = 1.0. A finite number above 1"),
        ({"theta": float("nan")}, "theta = nan"),
        ({"device": "nowhere"}, "The device 'nowhere' was asked for"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(tokenizer: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(tokenizer, **changes)


# The tokenizer


@settings(deadline=None)
@given(text=st.text())
def test_any_text_comes_back_as_it_was(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_every_digit_is_a_token_of_its_own() -> None:
    tokenizer = build_tokenizer(["the code 48213 is 48213 and 48213\n" * 50], 265)
    assert len(tokenizer) == 265
    assert tokenizer.tokenize("48213") == list("48213")
    asked, count = encode_answer(tokenizer, "the code", "48213")
    assert tokenizer.decode(asked[-count:]) == "48213"
    assert "the" in tokenizer.tokenize("the code")


def test_a_document_ends_with_the_end_token_and_nothing_opens_it(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(pico.make_text(600))
    tokens = load_texts([tmp_path], tokenizer).measure.tokens
    assert tokenizer.convert_ids_to_tokens(int(tokens[-1])) == "<|end|>" == tokenizer.eos_token == tokenizer.pad_token
    assert tokenizer.bos_token is None
    assert opening_token(tokenizer) is None


def test_the_same_documents_give_the_same_tokenizer(tokenizer: Any) -> None:
    again = build_tokenizer(iter([pico.make_text(600)]), 320)
    assert again.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("documents", "vocabulary", "message"),
    [
        (["a b c"], 2048, r"The tokenizer has \d+ entries. 2,048 were asked for"),
        (["a b c"], 100, "The tokenizer has 257 entries. 100 were asked for; 257 are the least"),
        ([], 300, "The tokenizer has 257 entries"),
    ],
)
def test_a_vocabulary_that_cannot_be_filled_is_refused(documents: list[str], vocabulary: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_tokenizer(documents, vocabulary)
