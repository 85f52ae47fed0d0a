"""Chat templates and generation configs of strangers: what fails is said in words, and nothing hangs."""

from typing import Any

import pico
import pytest

from longrope.data import apply_template
from longrope.errors import ModelError
from longrope.generation import encode_question


def with_template(template: str) -> Any:
    tokenizer = pico.make_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_writes_a_message() -> None:
    tokenizer = with_template("{% for m in messages %}<{{ m.role }}> {{ m.content }}{% endfor %}{{ more }}")
    assert apply_template(tokenizer, "Hello", more="!") == "<user> Hello!"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 1 / 0 }}", r"fails \(ZeroDivisionError: division by zero\)"),
        ("{% for", r"fails \(TemplateSyntaxError: "),
        ("{{ raise_exception('no system') }}", r"fails \(TemplateError: no system\)"),
        ("{{ messages.__class__.__mro__ }}", r"fails \(SecurityError: "),
        ("{{ a.b.c }}", r"fails \(UndefinedError: "),
        ("{{ 'a' * 3000000 }}", r"writes 3,000,000 characters around a message of 20"),
    ],
)
def test_a_template_that_fails_is_refused_in_words(template: str, said: str) -> None:
    with pytest.raises(ModelError, match=f"The chat template of this model {said}"):
        encode_question(with_template(template), "The document.", "What?")


def test_a_template_that_does_not_end_is_given_up() -> None:
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ModelError, match=r"does not end within 0\.2 s"):
        apply_template(with_template(loops), "x", seconds=0.2)


@pytest.mark.parametrize("stated", ["x", [[1]], [1, 2.5]])
def test_end_tokens_are_token_ids(stated: Any) -> None:
    model = pico.make_model()
    model.network.generation_config.eos_token_id = [3, 4]
    assert model.end_tokens >= {3, 4}
    model.network.generation_config.eos_token_id = stated
    with pytest.raises(ModelError, match="states eos_token_id = "):
        _ = model.end_tokens
