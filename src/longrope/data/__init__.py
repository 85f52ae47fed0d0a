"""Texts: files, folders and data sets become token streams, split by content into search, tune and measure parts."""

from longrope.data.contamination import check_unsearched, fingerprint, sketch, were_searched
from longrope.data.documents import Preprocess, Source, check_sources, encode, opening_token, opening_tokens
from longrope.data.needles import check_answer, encode_answer, plant_needles
from longrope.data.sketches import (
    Hashes,
    Overlap,
    TextSketch,
    all_runs,
    check_apart,
    decode_pieces,
    dump_sketch,
    hash_windows,
    parse_sketch,
    run_hashes,
    sketch_common,
    sketch_documents,
)
from longrope.data.sources import read_document
from longrope.data.splits import Texts, check_part, load_texts
from longrope.data.templates import apply_template
from longrope.data.windows import Starts, Tokens, TokenText

__all__ = [
    "Hashes",
    "Overlap",
    "Preprocess",
    "Source",
    "Starts",
    "TextSketch",
    "Texts",
    "TokenText",
    "Tokens",
    "all_runs",
    "apply_template",
    "check_answer",
    "check_apart",
    "check_part",
    "check_sources",
    "check_unsearched",
    "decode_pieces",
    "dump_sketch",
    "encode",
    "encode_answer",
    "fingerprint",
    "hash_windows",
    "load_texts",
    "opening_token",
    "opening_tokens",
    "parse_sketch",
    "plant_needles",
    "read_document",
    "run_hashes",
    "sketch",
    "sketch_common",
    "sketch_documents",
    "were_searched",
]
