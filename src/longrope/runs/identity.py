"""Whether work that is begun again has the same inputs, by a hash of them or one by one; names of tuned models."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from longrope.errors import RunError

TUNED = ", tuned "  # in the name of a model, before what its weights were made of


def hash_inputs(inputs: Any, digits: int = 16) -> str:
    """The first hex digits of a hash of inputs, which are anything that JSON holds, in whatever order of keys."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:digits]


def check_same(place: str, work: str, before: Mapping[str, str], now: Mapping[str, str], *, needed: str) -> None:
    """Refuse to go on with work that was begun with other inputs.

    Args:
        place: what holds the work, for the message.
        work: what the inputs are of.
        before: the inputs that it was begun with, by name.
        now: those that it is to go on with.
        needed: the second part of the error.

    Raises:
        RunError: naming every input that has changed.
    """
    pairs = {key: (now.get(key, "nothing"), before.get(key, "nothing")) for key in {**now, **before}}
    if changed := "; ".join(f"{key} = {new} (was {old})" for key, (new, old) in pairs.items() if new != old):
        raise RunError(
            f"{place} was made by another {work}: {changed}.",
            needed,
            "Give another directory with --out, or the old settings.",
        )


def tuned_name(name: str, made_of: str) -> str:
    """The name of a model whose weights were trained: that of the original model, and what made the weights."""
    return f"{name.partition(TUNED)[0]}{TUNED}{made_of}"


def weights_of(name: str) -> str:
    """What made the weights of a model, by its name; empty for the original."""
    return name.partition(TUNED)[2]
