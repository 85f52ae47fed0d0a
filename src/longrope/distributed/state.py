"""The one distributed state: which process this is, which of them share a sequence, and which do the same work now.

Nothing else in the package holds it. ``entered`` sets it for a block and refuses a second one within. Outside of such a
block a process is alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

Scope = Literal["all", "row", "one"]


@dataclass
class DistributedState:
    """This process among all of a launch.

    The processes stand in rows of ``context_ranks``. Those of a row hold parts of the same sequence; the rows take
    windows and candidates in turn.

    Attributes:
        rank: of this process, as torchrun counts.
        ranks: how many processes there are.
        context_ranks: how many of them share a sequence.
        context_group: torch's process group of those that share this process's sequences; None where nothing is shared.
        choice: how the processes were grouped and why, in one line; empty in a single process.
        store: the key-value store by which processes agree on which of them reports the end; None in a single process.
        scope: who does the same work at the moment: all processes, those of a row, or this one alone.
    """

    rank: int = 0
    ranks: int = 1
    context_ranks: int = 1
    context_group: Any = None
    choice: str = ""
    store: Any = None
    scope: Scope = "all"


_SINGLE = DistributedState()
_state = _SINGLE


def current() -> DistributedState:
    """The state that was entered; that of a single process where none was."""
    return _state


@contextmanager
def entered(state: DistributedState) -> Iterator[None]:
    """Have this state in a block.

    Raises:
        RuntimeError: within a block that has one.
    """
    global _state  # noqa: PLW0603  # the one owner of the state
    refuse_nesting()
    _state = state
    try:
        yield
    finally:
        _state = _SINGLE


def refuse_nesting() -> None:
    """Raise RuntimeError within a block that has a state."""
    if _state is not _SINGLE:
        raise RuntimeError("this process has joined a launch already")


@contextmanager
def working(scope: Scope) -> Iterator[None]:
    """Say who does the same work in a block."""
    state = _state
    before, state.scope = state.scope, scope
    try:
        yield
    finally:
        state.scope = before


def ranks() -> int:
    """How many processes there are."""
    return _state.ranks


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return _state.rank == 0


def row() -> int:
    """Which row of processes this one stands in, of ``workers()`` rows."""
    return _state.rank // _state.context_ranks


def workers() -> int:
    """How many items ``map_ranks`` works on at the same time."""
    return _state.ranks // _state.context_ranks if _state.scope == "all" else 1


def beside() -> int:
    """How many items are being worked on at this moment, where each process or each row of them has one of its own."""
    return {"all": 1, "row": _state.ranks // _state.context_ranks, "one": _state.ranks}[_state.scope]


def choices() -> tuple[str, ...]:
    """How the processes were grouped, with the reason; nothing in a single process."""
    return (_state.choice,) if _state.choice else ()
