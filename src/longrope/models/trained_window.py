"""The trained window of a model where its config understates it, or may."""

from collections.abc import Iterable
from dataclasses import replace

from longrope.errors import ModelError
from longrope.rope import RotaryTable


def with_trained_window(tables: Iterable[RotaryTable], window_tokens: int) -> tuple[RotaryTable, ...]:
    """The tables with another trained window than the config states.

    Vicuna-16k's states 4,096 with linear scaling by 4, and serves 16,384.

    Args:
        tables: of a model.
        window_tokens: 0 leaves them as they are.

    Raises:
        ModelError: the model's own scaling begins where the stated window ends (dynamic NTK).
    """
    stated = tuple(tables)
    if not window_tokens:
        return stated
    for table in stated:
        native, window = table.geometry.native, table.geometry.trained_window
        if native and native.growth and window != window_tokens:
            raise ModelError(
                f"A trained window of {window_tokens:,} tokens was stated.",
                f"The model's own scaling ({native.rope_type}) begins after {window:,}, so the window is that.",
                "Leave --trained-window out, or correct max_position_embeddings in config.json.",
            )
    return tuple(replace(table, geometry=replace(table.geometry, trained_window=window_tokens)) for table in stated)


def describe_window(table: RotaryTable, window_tokens: int) -> tuple[str, ...]:
    """That the window was stated, or that the config may understate it; nothing otherwise."""
    native, window = table.geometry.native, table.geometry.trained_window
    if window_tokens:
        return (f"trained window {window_tokens:,}, as stated",)
    if native and native.rope_type == "linear":
        scaled = round(window * native.lambdas[0])
        stated = f"trained window {window:,}, as the config states"
        return (f"{stated}; if that is the window before its linear scaling, say --trained-window {scaled}",)
    return ()
