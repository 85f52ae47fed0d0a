"""Tokenizers with and without a token before every text."""

from typing import Any

import pico
import pytest
from tokenizers import processors


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The pico tokenizer, which puts nothing before a text."""
    return pico.make_tokenizer()


@pytest.fixture(scope="module")
def opening_tokenizer() -> Any:
    """The same tokenizer with a begin-of-text token before every text, as Llama's has."""
    tokenizer = pico.make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    template = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", len(tokenizer) - 1)])
    tokenizer.backend_tokenizer.post_processor = template
    return tokenizer
