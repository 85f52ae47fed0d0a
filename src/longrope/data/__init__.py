"""Texts: files and folders become token streams, split by content into search, tune and measure parts."""

from longrope.data.contamination import check_unsearched, fingerprint, sketch
from longrope.data.documents import encode, opening_token, opening_tokens
from longrope.data.needles import encode_answer, plant_needles
from longrope.data.sources import read_document
from longrope.data.splits import Texts, load_texts
from longrope.data.windows import Starts, Tokens, TokenText

__all__ = [
    "Starts",
    "Texts",
    "TokenText",
    "Tokens",
    "check_unsearched",
    "encode",
    "encode_answer",
    "fingerprint",
    "load_texts",
    "opening_token",
    "opening_tokens",
    "plant_needles",
    "read_document",
    "sketch",
]
