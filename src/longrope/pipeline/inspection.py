"""What a model's RoPE is, before anything is computed with it."""

from typing import Any

from longrope.models import load_config, read_spec
from longrope.runs.provenance import describe_rope


def inspect(source: str, target_tokens: int | None = None) -> dict[str, Any]:
    """The geometry of a model's RoPE from its config alone, and the factors of each baseline for a target window.

    Args:
        source: hub name, folder or GGUF file.
        target_tokens: the target window; by default eight times the trained one.

    Raises:
        ModelError: the config cannot be read, or its RoPE is not supported.
    """
    spec = read_spec(load_config(source))
    return {"model": source, **describe_rope(spec, target_tokens or 8 * spec.trained_window)}
