"""Model types whose positions cannot be extended here, and why: what transformers' code for them does."""

from typing import Any

from longrope.errors import ModelError

ASSISTANT = (
    "drafts tokens for another model: it reads that model's embeddings, keys and values, and runs on no text alone"
)
REASONS = {
    "blt": "reads bytes in patches: each of its four parts has a rotary table of its own, by positions of bytes or of "
    "patches",
    "gemma4_assistant": ASSISTANT,
    "gemma4_unified_assistant": ASSISTANT,
    "roformer": "keeps its angles in a table of weights, which its own code computes from no entry of the config, and "
    "calls an attention of its own",
}
WITHOUT_A_WINDOW = {
    "recurrent_gemma": "states no max_position_embeddings: its attention sees the last tokens alone, and those before "
    "them reach it by recurrent states, which know no positions",
}
WITH_ALIBI = {
    "falcon": "states alibi = true: its attention adds biases by distance (ALiBi) and rotates no queries or keys",
}


def refuse_unsupported(config: Any) -> None:
    """Raise ModelError for a config, of a whole model or of its text part, of one of these model types."""
    kind = getattr(config, "model_type", "")
    reason = REASONS.get(kind)
    if not getattr(config, "max_position_embeddings", None):
        reason = reason or WITHOUT_A_WINDOW.get(kind)
    if getattr(config, "alibi", False):
        reason = reason or WITH_ALIBI.get(kind)
    if reason:
        raise ModelError(
            f"The model type {kind!r} {reason}.",
            "Needed: a causal language model whose layers are given the angles that its config states, by positions of "
            "tokens.",
            "Use another model; docs/models.md lists the types that work.",
        )
