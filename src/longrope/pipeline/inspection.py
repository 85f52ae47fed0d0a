"""What a model's RoPE is, and what works with the model, before anything is computed with its weights."""

from typing import Any

from longrope.errors import LongRopeError, ModelError, converting_errors
from longrope.models import (
    choose_table,
    describe_choice,
    describe_passed_over,
    describe_table,
    describe_window,
    load_config,
    make_shallow,
    read_tables,
    slides_over,
    with_trained_window,
)
from longrope.pipeline.capabilities import describe, probe
from longrope.rope import RopeSpec
from longrope.runs.provenance import describe_rope


def inspect(
    source: str, target_tokens: int | None = None, rope_table: str = "", trained_window: int = 0
) -> dict[str, Any]:
    """The geometry of a model's RoPE from its config alone, and the factors of each baseline for a target window.

    What works with the model is tried on a small random one of its config.

    Args:
        source: hub name, folder or GGUF file.
        target_tokens: the target window; by default eight times the trained one.
        rope_table: of several rotary tables the one to describe, by its name.
        trained_window: the window in tokens that the model serves, where its config states another one.

    Raises:
        ModelError: the config cannot be read, or its RoPE is not supported.
    """
    config = load_config(source)
    tables = with_trained_window(read_tables(config), trained_window)
    table = choose_table(tables, rope_table)
    window = target_tokens or 8 * table.geometry.trained_window
    report = {"model": source, **describe_rope(table.geometry, window), "scaling": describe_scaling(table.geometry)}
    if len(tables) > 1:
        report["tables"] = [describe_table(each) for each in tables]
    choices = [
        *describe_choice(tables, table, slides_over(config)),
        *describe_window(table, trained_window),
        *describe_passed_over(config),
    ]
    if choices:
        report["choices"] = choices
    report["steps"] = _describe_steps(config, rope_table, trained_window, window)
    return report


def describe_scaling(spec: RopeSpec) -> str:
    """The scaling that a model carries, and what it does at which length."""
    native = spec.native
    if native is None:
        return "none: plain RoPE at every length"
    if native.growth:
        return (
            f"{native.rope_type}: plain up to {spec.trained_window:,} tokens, beyond them by the length of the sequence"
        )
    attention = "" if native.attention_factor == 1 else f", with {native.attention_factor:.4g} times cos and sin"
    if native.short is not None:
        return (
            f"{native.rope_type}: short factors up to {native.switch_tokens:,} tokens, long ones beyond them{attention}"
        )
    return f"{native.rope_type}: the same divisors at every length{attention}"


def _describe_steps(config: Any, rope_table: str, trained_window: int, target_tokens: int) -> list[str]:
    try:
        with converting_errors(ModelError, "A small model of this config cannot be built", "", ""):
            return describe(probe(make_shallow(config, rope_table, trained_window), target_tokens=target_tokens))
    except LongRopeError as error:
        return [f"not tried: {error.found}"]
