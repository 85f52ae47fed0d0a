"""torch.compile for the layers of passes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch._dynamo import config as dynamo
from torch._dynamo.exc import TorchDynamoException

from longrope.errors import LongRopeError

MOST_VARIANTS = 64  # of a compiled function: by batches, tiles, kinds of layers


def many_variants(*, compiled: bool) -> AbstractContextManager[None]:
    """In this block torch compiles a function for as many variants as our passes have; past its limit it would not.

    The limit is one of the process, so it is raised for a pass at a time. A patch costs tens of microseconds: one a
    pass, not one a layer.
    """
    return dynamo.patch(recompile_limit=max(dynamo.recompile_limit, MOST_VARIANTS)) if compiled else nullcontext()


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function by torch.compile; our attention in it is not compiled.

    It is compiled for the first shapes that come, and when others come for any.

    Raises:
        LongRopeError: it cannot be compiled here.
    """
    fused = torch.compile(function)

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return fused(*args, **kwargs)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300]
            raise LongRopeError(
                f"torch.compile could not compile {function.__qualname__}: {reason}",
                "It needs a C++ compiler (g++), on a GPU Triton and Python's headers, too.",
                "Install them, or leave out --compile.",
            ) from None

    return run
