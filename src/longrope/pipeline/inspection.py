"""What a model's RoPE is, before anything is computed with it."""

from typing import Any

from longrope.models import choose_table, describe_choice, describe_table, load_config, read_tables
from longrope.runs.provenance import describe_rope


def inspect(source: str, target_tokens: int | None = None, rope_table: str = "") -> dict[str, Any]:
    """The geometry of a model's RoPE from its config alone, and the factors of each baseline for a target window.

    Args:
        source: hub name, folder or GGUF file.
        target_tokens: the target window; by default eight times the trained one.
        rope_table: of several rotary tables the one to describe, by its name.

    Raises:
        ModelError: the config cannot be read, or its RoPE is not supported.
    """
    tables = read_tables(load_config(source))
    table = choose_table(tables, rope_table)
    window = target_tokens or 8 * table.geometry.trained_window
    report = {"model": source, **describe_rope(table.geometry, window)}
    if choices := describe_choice(tables, table):
        report["tables"] = [describe_table(each) for each in tables]
        report["choices"] = list(choices)
    return report
