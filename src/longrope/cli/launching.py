"""A command in the processes of a torchrun launch: one prints the results, one reports the end."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path

from longrope.errors import LongRopeError, RecipeError
from longrope.recipe import Recipe


@contextmanager
def launched(recipe: Recipe, context_ranks: int | None, factors: Path | None = None) -> Iterator[None]:
    """Join the other processes where torchrun has launched some.

    The main process prints the results. Of an error that ends all of them, the first to end prints the reason.

    Args:
        recipe: its longest window decides how many processes share a sequence.
        context_ranks: how many do, where that was asked for.
        factors: a file of factors that the run measures, if it has one.
    """
    from longrope import distributed, pipeline

    longest = pipeline.longest_window(recipe, factors)
    with ExitStack() as stack:
        with _one_reports():
            stack.enter_context(distributed.launched(context_ranks, longest_tokens=longest, device=recipe.device))
        if not distributed.is_main():
            nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
        with _one_reports():
            yield


def check_alone(command: str) -> None:
    """Raise RecipeError for a command that runs in one process, where torchrun has launched several."""
    if (count := int(os.environ.get("WORLD_SIZE") or 1)) > 1:
        raise RecipeError(
            f"`longrope {command}` was started in {count} processes.", "It runs in one.", "Start it without torchrun."
        )


@contextmanager
def _one_reports() -> Iterator[None]:
    """Let one process of a launch, the first to ask, raise what ends it; the others exit."""
    from longrope import distributed

    try:
        yield
    except (LongRopeError, KeyboardInterrupt):
        if distributed.claim_report():
            raise
        sys.exit(1)
