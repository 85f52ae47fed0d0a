"""What a model's RoPE is, before anything is computed with it."""

from typing import Any

from longrope.models import (
    choose_table,
    describe_choice,
    describe_table,
    describe_window,
    load_config,
    read_tables,
    with_trained_window,
)
from longrope.runs.provenance import describe_rope


def inspect(
    source: str, target_tokens: int | None = None, rope_table: str = "", trained_window: int = 0
) -> dict[str, Any]:
    """The geometry of a model's RoPE from its config alone, and the factors of each baseline for a target window.

    Args:
        source: hub name, folder or GGUF file.
        target_tokens: the target window; by default eight times the trained one.
        rope_table: of several rotary tables the one to describe, by its name.
        trained_window: the window in tokens that the model serves, where its config states another one.

    Raises:
        ModelError: the config cannot be read, or its RoPE is not supported.
    """
    tables = with_trained_window(read_tables(load_config(source)), trained_window)
    table = choose_table(tables, rope_table)
    window = target_tokens or 8 * table.geometry.trained_window
    report = {"model": source, **describe_rope(table.geometry, window)}
    if len(tables) > 1:
        report["tables"] = [describe_table(each) for each in tables]
    if choices := (*describe_choice(tables, table), *describe_window(table, trained_window)):
        report["choices"] = list(choices)
    return report
