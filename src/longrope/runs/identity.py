"""Whether work that is begun again has the same inputs: by one hash of them, or input by input."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from longrope.errors import RunError


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
