"""What a page needs of the JSON files of a run: which keys with which values. Others may be there, with plain values.

A run directory may come from anywhere, so this is checked where a file is read, and named by the file and the key.
"""

import math
from pathlib import Path
from typing import Any

from longrope.reading import is_number, show_value
from longrope.runs.files import read_json_of_run, refuse_reading

LARGEST = 1e100  # of a number that a page draws: an axis takes none beyond
MEASURED = "a number or null"
NUMBER, POSITIVE, COUNT, TEXT, PLAIN = "a number", "a number above 0", "a whole number", "a text", "a plain value"
OPTIONAL, OTHERS = "?", "*"  # after a key that may be missing; in the place of all keys that are not named

ROPE = {
    "trained_window": COUNT,
    "target_window": COUNT,
    "pairs_that_turn_fully": COUNT,
    "fingerprint": TEXT,
    "methods?": [{"method": TEXT, "formula": TEXT, "attention_factor": NUMBER}],
    "pairs": [{"wavelength_tokens": POSITIVE, OTHERS: POSITIVE, "pair?": COUNT}],
    OTHERS: PLAIN,
}
COSTS = [{"method": TEXT, "stage?": TEXT, OTHERS: PLAIN}]
SCAN = {
    "edges": [TEXT],
    **dict.fromkeys(("passes", "budget"), COUNT),
    **dict.fromkeys(("theta", "exponent", "attention_factor"), NUMBER),
}
EXPORT = {
    "transformers": TEXT,
    "switch_tokens": COUNT,
    **dict.fromkeys(("difference_short", "difference_long"), NUMBER),
    "short_tokens?": COUNT,
    "factor_sets?": TEXT,
    **dict.fromkeys(("perplexity_original?", "perplexity_single?", "perplexity_two?"), MEASURED),
    OTHERS: PLAIN,
}
SESSIONS = [{OTHERS: PLAIN}]
STAGE = {
    "stage?": TEXT,
    "factors?": TEXT,
    "weights?": TEXT,
    "seconds?": NUMBER,
    "inputs?": {"before?": TEXT, OTHERS: PLAIN},
    OTHERS: PLAIN,
}


def read_shaped(path: Path, shape: Any) -> Any:
    """What a JSON file of a run holds, None where there is none.

    Raises:
        RunError: naming the file, and the key whose value is another than a page needs.
    """
    content = read_json_of_run(path, type(shape))
    if content is not None:
        try:
            _check(content, shape, "")
        except (ValueError, RecursionError) as error:
            raise refuse_reading(path)(str(error)) from None
    return content


def _check(content: Any, shape: Any, place: str) -> None:
    if isinstance(shape, dict):
        _check_table(content, shape, place)
    elif isinstance(shape, list):
        if not isinstance(content, list):
            raise ValueError(f"{place} is {show_value(content)}, not a list")  # noqa: TRY004  # as all that is wrong
        for i, item in enumerate(content):
            _check(item, shape[0], f"{place}[{i}]")
    elif not _fits(content, shape):
        raise ValueError(f"{place} is {show_value(content)}, not {shape}")


def _check_table(content: Any, shape: dict[str, Any], place: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{place} is {show_value(content)}, not a table")  # noqa: TRY004  # as above
    named = {key.rstrip(OPTIONAL): kind for key, kind in shape.items()}
    if missing := [key for key in shape if key != OTHERS and not key.endswith(OPTIONAL) and key not in content]:
        raise ValueError(f"{place}.{missing[0]} is missing".lstrip("."))
    for key, value in content.items():
        kind = named.get(key, shape.get(OTHERS))
        if kind is not None:
            _check(value, kind, f"{place}.{key}".lstrip("."))


def _fits(value: Any, kind: str) -> bool:
    if kind == TEXT:
        return isinstance(value, str)
    if kind == COUNT:
        return is_number(value) and isinstance(value, int) and value >= 0
    if kind == MEASURED:
        return value is None or _fits(value, NUMBER)
    if kind in (NUMBER, POSITIVE):
        return is_number(value) and math.isfinite(value) and abs(value) <= LARGEST and (value > 0 or kind == NUMBER)
    plain = value is None or isinstance(value, str | bool) or is_number(value)
    items = value.values() if isinstance(value, dict) else value
    return plain or (isinstance(value, list | dict) and all(_fits(item, PLAIN) for item in items))
