"""Models of text and images or sound: their text part is a causal language model of its own."""

from collections.abc import Mapping
from typing import Any

NAMES_OF_TEXT = {  # in a model of several parts, and in a causal language model
    r"^language_model\.lm_head\.": "lm_head.",
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.": "model.",
}
OF_TEXT = (
    "language_model.",
    "model.language_model.",
    "model.layers.",
    "model.embed_tokens.",
    "model.norm.",
    "lm_head.",
)


def text_part(config: Any) -> Any:
    """The config of the text part of a model; the config itself where it has no parts."""
    part = config.get_text_config(decoder=True)
    if part is not config and hasattr(config, "tie_word_embeddings"):  # the whole model decides it
        part.tie_word_embeddings = config.tie_word_embeddings
    return part


def describe_part(config: Any, whole: Any) -> tuple[str, ...]:
    """That only the text part of a model is taken; nothing for a whole model."""
    return () if config is whole else (f"the text part of the {whole.model_type} model alone",)


def without_other_parts(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a loading without the weights of the other parts, which a text part has no place for."""
    unexpected = [key for key in report["unexpected_keys"] if key.startswith(OF_TEXT)]
    return {**report, "unexpected_keys": unexpected}
