"""The chat format of a model: the tokens that its template puts around a message of the user."""

from dataclasses import dataclass
from typing import Any

from longrope.data import apply_template, encode
from longrope.errors import ModelError, RecipeError

REMEDY = "Measure needle, for which any model goes on with the text."
DAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"  # in the place of what gives templates today's date
MARK = "longrope-message"  # stands for the message, to see what is around it


@dataclass(frozen=True)
class ChatFormat:
    """Token ids around one message: before it, with a system prompt if the template has one, and up to the answer."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def chat_format(tokenizer: Any) -> ChatFormat:
    """What a tokenizer's chat template puts around one message; a reasoning model answers without reasoning first.

    Raises:
        RecipeError: the tokenizer has no chat template, or one that fails or does not hold a single message as it is.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise RecipeError(
            "The tokenizer of this model has no chat template.",
            "chat-needle asks in the format of a chat model.",
            REMEDY,
        )
    try:
        written = apply_template(tokenizer, MARK, enable_thinking=False, **_same_every_day(tokenizer))
    except ModelError as error:
        raise RecipeError(error.found, error.needed, REMEDY) from error
    before, _, after = written.partition(MARK)
    if written.count(MARK) != 1:
        raise RecipeError(
            f"The chat template of this model gives {written[:200]!r} for one message.",
            f"The message {MARK!r} must stand in it once.",
            REMEDY,
        )
    return ChatFormat(tuple(encode(tokenizer, before)), tuple(encode(tokenizer, after)))


def _same_every_day(tokenizer: Any) -> dict[str, Any]:
    """The template with a fixed date, so that prompts of two days are the same."""
    template = tokenizer.chat_template
    return {"chat_template": DAY + template} if isinstance(template, str) and "strftime_now" in template else {}
