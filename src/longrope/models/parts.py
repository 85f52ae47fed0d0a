"""Models of text and images or sound: their text part is a causal language model of its own."""

import copy
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from longrope.models.unsupported import refuse_unsupported

NAMES_OF_TEXT = {  # in a model of several parts, and in a causal language model
    r"^(language|text)_model\.lm_head\.": "lm_head.",
    r"^(language|text)_model\.model\.": "model.",
    r"^model\.(language|text)_model\.": "model.",
    r"^(language|text)_model\.": "model.",
}
OF_TEXT = (
    "language_model.",
    "model.language_model.",
    "text_model.",
    "model.text_model.",
    "model.layers.",
    "model.embed_tokens.",
    "model.norm.",
    "lm_head.",
)


def text_part(config: Any) -> Any:
    """The config of the text part of a model; the config itself where it has no parts (see ``refuse_unsupported``)."""
    refuse_unsupported(config)
    part = config.get_text_config(decoder=True)
    if part is not config and hasattr(config, "tie_word_embeddings"):  # the whole model decides it
        part.tie_word_embeddings = config.tie_word_embeddings
    return part


def as_registered(config: Any) -> Any:
    """A config as transformers' Auto classes take it for a causal language model.

    The text part of some models (Emu3, Mllama) is registered under the type of the whole model alone, of whose config
    the Auto classes use the text part.
    """
    kind = type(config)
    name = kind.__module__.split(".")[-2]
    whole: Any = CONFIG_MAPPING[name] if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else None
    if whole is None or kind in MODEL_FOR_CAUSAL_LM_MAPPING or whole.sub_configs.get("text_config") is not kind:
        return config
    part = copy.deepcopy(config)  # for the whole config changes it
    return whole(text_config=part, tie_word_embeddings=config.tie_word_embeddings)


def describe_part(config: Any, whole: Any) -> tuple[str, ...]:
    """That only the text part of a model is taken; nothing for a whole model."""
    return () if config is whole else (f"the text part of the {whole.model_type} model alone",)


def without_other_parts(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report of a loading without the weights of the other parts, which a text part has no place for."""
    unexpected = [key for key in report["unexpected_keys"] if key.startswith(OF_TEXT)]
    return {**report, "unexpected_keys": unexpected}
