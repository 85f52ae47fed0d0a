"""Python functions that a command line names; a recipe cannot, so that one from elsewhere runs no code."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from longrope.errors import RecipeError


def load_function(name: str | None) -> Callable[..., Any] | None:
    """The function that ``module:function`` names; modules of the current folder are found, too.

    Raises:
        RecipeError: there is none.
    """
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        sys.path.insert(0, str(Path.cwd()))
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(
            f"--preprocess {name} cannot be loaded ({error}).",
            "A function of a Python module is needed, by the names of both.",
            "For example --preprocess clean:text_of, with a file clean.py here.",
        ) from None
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(found):
        raise RecipeError(f"--preprocess {name} is no function.", "It is called with each row.", "Name a function.")
    return found  # type: ignore[no-any-return]  # whether it gives texts is seen when it does
