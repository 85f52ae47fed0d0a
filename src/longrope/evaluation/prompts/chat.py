"""The chat format of a model: the tokens that its template puts around a message of the user."""

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from longrope.data import encode
from longrope.errors import RecipeError

MARK = "longrope-message"  # stands for the message, to see what is around it


@dataclass(frozen=True)
class ChatFormat:
    """Token ids around one message: before it, with a system prompt if the template has one, and up to the answer."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def chat_format(tokenizer: Any) -> ChatFormat:
    """What a tokenizer's chat template puts around one message; a reasoning model answers without reasoning first.

    Raises:
        RecipeError: the tokenizer has no chat template, or one that does not hold a single message as it is.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise RecipeError(
            "The tokenizer of this model has no chat template.",
            "chat-needle asks in the format of a chat model.",
            "Measure needle, for which any model goes on with the text.",
        )
    message, options = [{"role": "user", "content": MARK}], {"tokenize": False, "add_generation_prompt": True}
    try:
        written = tokenizer.apply_chat_template(message, enable_thinking=False, **options)
    except TemplateError as error:
        written = f"{error}"
    before, _, after = written.partition(MARK)
    if written.count(MARK) != 1:
        raise RecipeError(
            f"The chat template of this model gives {written[:200]!r} for one message.",
            f"The message {MARK!r} must stand in it once.",
            "Measure needle, for which any model goes on with the text.",
        )
    return ChatFormat(tuple(encode(tokenizer, before)), tuple(encode(tokenizer, after)))
