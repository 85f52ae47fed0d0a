"""The text of an answer as it streams, and the prompt that it answers."""

from collections.abc import Callable
from typing import Any

import pico
from generating import DOCUMENT, END, PROMPT, WORDS, make_table
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from longrope import generation
from longrope.generation import GenerationSettings, encode_question, generate
from longrope.models import LanguageModel

# The stream


def stream(tokenizer: Any, tokens: list[int]) -> tuple[str, list[str]]:
    pieces: list[str] = []
    written = generation._Written(tokenizer, pieces.append)
    for token in tokens:
        written.add(token)
    return written.finish(), pieces


def test_characters_of_many_bytes_come_whole(
    make: Callable[[str], LanguageModel], forced: Callable[[list[int]], list[Any]]
) -> None:
    """Though each of their bytes is a token of its own."""
    model = make("llama")
    tokens = model.tokenizer(WORDS)["input_ids"]
    assert len(tokens) > 1.5 * len(WORDS)
    forced([*tokens, END])
    pieces: list[str] = []
    wanted = GenerationSettings(max_new_tokens=80)
    done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=wanted, on_text=pieces.append)
    assert "".join(pieces) == done.text == WORDS
    assert len(pieces) > 20
    assert not any("�" in piece for piece in pieces)
    assert done.new_tokens == len(tokens)


def test_a_character_that_is_cut_is_reported_at_the_end(
    make: Callable[[str], LanguageModel], forced: Callable[[list[int]], list[Any]]
) -> None:
    model = make("llama")
    forced(model.tokenizer("ab🌧")["input_ids"])
    pieces: list[str] = []
    wanted = GenerationSettings(max_new_tokens=4)
    done = generate(model, make_table(model), DOCUMENT, PROMPT, settings=wanted, on_text=pieces.append)
    assert "".join(pieces) == done.text
    assert pieces[:2] == ["a", "b"]
    assert set(done.text[2:]) == {"�"}
    assert not done.ended


@given(st.lists(st.integers(0, 319), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_tokens_stream_to_their_text(tokens: list[int]) -> None:
    """Bytes that are no text and special tokens included."""
    tokenizer = STREAMED
    text, pieces = stream(tokenizer, tokens)
    assert text == "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True)
    assert all(pieces)


STREAMED = pico.make_tokenizer()


def test_spaces_before_words_are_kept() -> None:
    """A tokenizer in the manner of Llama-2 drops the space of the first token of a text alone."""
    vocabulary = {"<unk>": 0, "▁the": 1, "▁river": 2, "s": 3, "▁": 4}
    bare = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare)
    tokens = [1, 2, 3, 1, 4, 2]
    text, pieces = stream(tokenizer, tokens)
    assert text == tokenizer.decode(tokens) == "the rivers the  river"
    assert pieces == ["the", " river", "s", " the", " ", " river"]


# The prompt


def test_a_prompt_without_a_template_follows_the_document(make: Callable[[str], LanguageModel]) -> None:
    tokenizer = make("llama").tokenizer
    assert encode_question(tokenizer, "One.", "Two?") == tokenizer("One.\n\nTwo?")["input_ids"]


def test_a_chat_template_makes_one_message() -> None:
    tokenizer = pico.make_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    text = tokenizer.decode(encode_question(tokenizer, "One.", "Two?"))
    assert text == "<|user|>One.\n\nTwo?<|assistant|>"


def test_a_beginning_token_stands_once() -> None:
    """Whether the tokenizer adds it, or the template does."""
    tokenizer = pico.make_tokenizer()
    tokenizer.bos_token = "<|end|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", END)]
    )
    assert tokenizer("a")["input_ids"][0] == END
    plain = encode_question(tokenizer, "One.", "Two?")
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    for tokens in (plain, encode_question(tokenizer, "One.", "Two?")):
        assert tokens.count(END) == 1
        assert tokens[0] == END
        assert tokenizer.decode(tokens[1:]) == "One.\n\nTwo?"
