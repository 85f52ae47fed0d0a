"""Small files from anywhere, read whole: regular files alone, of bounded size, every value checked.

Whatever is wrong with a file becomes one error that names the file and the reason. A pipe or a device is refused before
it is read, so that nothing waits for it.
"""

import json
import os
import re
import stat
import tomllib
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from longrope.errors import LongRopeError, describe_error

LARGEST_BYTES = 2**28  # of a file that is read whole: the records of a search of days have less than a tenth of it
LARGEST_WHOLE = 2**53  # every whole number up to it is a float, too
SHOWN_VALUE = 60  # characters of a value in an error
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # of a surrogate pair, as JSON may write a character

T = TypeVar("T")
Refuse = Callable[[str], LongRopeError]  # makes the error from the reason: "cannot be read (...)"


class NoRegularFileError(ValueError):
    """What a path names is a folder, a pipe, a device or too large a file; says which."""


def read_bytes(path: str | Path, largest: int = LARGEST_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: it is missing, or the system does not let it be read.
        NoRegularFileError: it is no regular file, or has more bytes than ``largest``.
        ValueError: the path holds a null character.
    """
    place = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = os.fstat(place).st_mode
    if not stat.S_ISREG(kind):
        os.close(place)
        raise NoRegularFileError("a folder" if stat.S_ISDIR(kind) else "no regular file")
    with os.fdopen(place, "rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise NoRegularFileError(f"more than {largest:,} bytes")
    return content


def read_json(path: str | Path, refuse: Refuse, *, bounded: bool = True) -> Any:
    """What a JSON file holds, its whole numbers up to 2^53 if ``bounded``; raise what ``refuse`` makes of a reason."""

    def parse() -> Any:
        content = parse_json(read_bytes(path))
        if bounded:
            check_bounds(content)
        return content

    return _parsed(parse, refuse)


def parse_json(text: bytes | str) -> Any:
    """What JSON holds; half a surrogate pair is no text, and no file or page can hold it (raises ValueError)."""
    read = text if isinstance(text, str) else text.decode(json.detect_encoding(text))
    content = json.loads(read)
    if HALF.search(read):
        json.dumps(content, ensure_ascii=False).encode()
    return content


def read_toml(path: str | Path, refuse: Refuse) -> dict[str, Any]:
    """What a TOML file holds, its whole numbers up to 2^53; raise what ``refuse`` makes of a reason."""

    def parse() -> dict[str, Any]:
        content = tomllib.loads(read_bytes(path).decode())
        check_bounds(content)
        return content

    return _parsed(parse, refuse)


def _parsed(read: Callable[[], T], refuse: Refuse) -> T:
    try:
        return read()
    except (OSError, ValueError, RecursionError) as error:  # of a wrong letter, syntax, nesting, 5,000 digits
        raise refuse(describe_error(error)) from error


def show_value(value: object) -> str:
    """A value as Python writes it, cut where it is long; safe for numbers of thousands of digits."""
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        return f"a whole number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= SHOWN_VALUE else f"{text[:SHOWN_VALUE]}..."


def is_number(value: object) -> bool:
    """Whether a value is an int or float that a calculation can hold: no bool, no int beyond 2^53."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= LARGEST_WHOLE
    return isinstance(value, float)


def record_of(kind: type[T], content: object) -> T:
    """A record (a dataclass) from what a line or a file of JSON holds; lists become tuples.

    Raises:
        ValueError: naming the first field that is missing, unknown, of another type, or out of bounds.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{show_value(content)} is no table")  # noqa: TRY004  # as all that is wrong with a file
    hints, required = _fields(kind)  # type: ignore[arg-type]  # a class can be hashed
    if wrong := (content.keys() - hints.keys()) | (required - content.keys()):
        raise ValueError(f"fields {sorted(wrong)}")
    return kind(**{name: _value(hints[name], value, name) for name, value in content.items()})


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The annotations of a dataclass by field, and the fields without a default."""
    hints = get_type_hints(kind)
    required = frozenset(field.name for field in fields(kind) if is_required(field))
    return {field.name: hints[field.name] for field in fields(kind)}, required


def is_required(field: Field[Any]) -> bool:
    """Whether a field of a dataclass has no default."""
    return field.default is MISSING and field.default_factory is MISSING


def _value(hint: Any, value: object, name: str) -> Any:
    if get_origin(hint) is UnionType:
        kinds = get_args(hint)
        if value is None and NoneType in kinds:
            return None
        hint = next(kind for kind in kinds if kind is not NoneType)
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_value(get_args(hint)[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    fits = {
        bool: lambda: isinstance(value, bool),
        str: lambda: isinstance(value, str),
        int: lambda: is_number(value) and isinstance(value, int) and value >= 0,
        float: lambda: is_number(value),
    }
    if not fits.get(hint, lambda: False)():
        raise ValueError(f"{name} is {show_value(value)}, not {_named(hint)}")
    return value


def _named(hint: Any) -> str:
    names = {bool: "true or false", str: "a text", int: "a whole number from 0 to 2^53", float: "a number"}
    return names.get(hint, "a list")


def check_bounds(content: object, place: str = "") -> None:
    """Raise ValueError naming the first whole number, in whatever depth of lists and tables, that is beyond 2^53."""
    if isinstance(content, dict):
        for key, value in content.items():
            check_bounds(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list):
        for i, value in enumerate(content):
            check_bounds(value, f"{place}[{i}]")
    elif isinstance(content, int) and abs(content) > LARGEST_WHOLE:
        raise ValueError(f"{place} is {show_value(content)}")
