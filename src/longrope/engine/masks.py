"""What transformers' masks would show to a layer's queries, in numbers instead of an n-by-n mask.

transformers makes masks by a function that is registered under the name of an attention. Ours makes none where a layer
is causal, and says how far a layer sees where that is limited. It is the only place that knows of all limits: some
families do not pass a sliding window to their attention, and none passes the size of its chunks.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from longrope.errors import ModelError

INDEXED = "indexed_attention"  # the kind of layers that have an indexer


@dataclass(frozen=True)
class Sight:
    """How far each query of a layer sees.

    Attributes:
        window: how many positions, its own included.
        chunk: tokens of the chunks, counted from the first token, out of which it does not see.
        chosen: [B, n, C] or, for each key/value head, [B, G, n, C] the tokens that an indexer lets it see.
        dtype: of the masks that families ask for it.
    """

    window: int | None = None
    chunk: int | None = None
    chosen: Tensor | None = None
    dtype: torch.dtype = torch.bool

    def __getitem__(self, _: Any) -> "Sight":
        """What some of the queries see; Gemma-4 takes rows of its masks."""
        return self

    def is_floating_point(self) -> bool:
        """As a mask of booleans says it, which Qwen4 asked before transformers 5.24."""
        return False

    def __and__(self, other: "Sight") -> "Sight":
        """What both let a query see, of which the other one is by an indexer (Qwen4)."""
        return replace(self, chosen=other.chosen)


def describe_mask(
    *,
    config: Any,
    local_size: int | None = None,
    attention_mask: Any = None,
    use_vmap: bool = False,
    allow_is_bidirectional_skip: bool | None = None,
    **_: Any,
) -> Sight | None:
    """Stand in for a function that makes masks, as transformers calls it.

    A plain causal mask is None, but where an indexer asks for one.

    Args:
        config: of the decoder.
        local_size: the sliding window or the size of chunks.
        attention_mask: padding.
        use_vmap: whether the family adds a rule of its own to the mask.
        allow_is_bidirectional_skip: given where tokens see later ones.

    Raises:
        ModelError: the mask is more than these.
    """
    found = {
        "padding": attention_mask is not None,
        "a rule of its own": use_vmap,
        "later tokens": allow_is_bidirectional_skip is not None,
    }
    if names := [name for name, asked in found.items() if asked]:
        raise ModelError(
            f"The model type {config.model_type!r} asks for a mask with {names[0]}.",
            "A long pass is causal and makes no mask; it knows sliding windows and chunks.",
            "Use another model, and please report this model type.",
        )
    if local_size is None:
        return Sight() if INDEXED in (getattr(config, "layer_types", None) or ()) else None
    if local_size == getattr(config, "attention_chunk_size", None) != getattr(config, "sliding_window", None):
        return Sight(chunk=local_size)
    return Sight(window=local_size)
