"""A tokenizer fits the embedding of its model: every id that a text can give has a row."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from longrope.errors import ModelError

KEPT = ("chat_template", "model_max_length", "padding_side")


def fit_tokenizer(source: str | Path, tokenizer: Any, rows: int) -> tuple[Any, tuple[str, ...]]:
    """The tokenizer without special tokens that have no row in the embedding, and what is to be said of them.

    Classes of transformers add special tokens that a model's files do not have, with ids of their own after the others.

    Args:
        source: the model, for the error.
        tokenizer: of transformers.
        rows: of the embedding; it may have rows to spare.

    Raises:
        ModelError: other tokens have no row, either.
    """
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    if not beyond:
        return tokenizer, ()
    special = {str(token) for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    needed = set(beyond) - special if tokenizer.is_fast else set(beyond)  # only fast ones can be taken apart
    if needed:
        raise ModelError(
            f"The tokenizer of {str(source)!r} has ids up to {max(beyond.values()):,} (that of {min(needed)!r} is one "
            f"of {len(needed):,} from {rows:,} on), and the embedding has {rows:,} rows.",
            "Every id of the tokenizer must have a row.",
            "Give the model the tokenizer that it was trained with, or resize its embedding and train that.",
        )
    listed = ", ".join(sorted(beyond))
    return _without(tokenizer, rows), (f"special tokens without a row in the embedding are left out: {listed}",)


def _without(tokenizer: Any, rows: int) -> Any:
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < rows]
    named = {
        name: token
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str) and tokenizer.convert_tokens_to_ids(token) < rows
    }
    kept = {name: getattr(tokenizer, name) for name in KEPT}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **named, **kept)
