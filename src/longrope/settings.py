"""What every class of settings shares: values are checked against their annotations, and are read from TOML or text.

    @dataclass(frozen=True)
    class GradientRecipe(Settings, section="search.gradient"):
        steps: Annotated[int, at_least(1)] = 24

``GradientRecipe(steps=0)`` then raises RecipeError: "search.gradient.steps = 0. At least 1 is needed."
"""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from longrope.errors import RecipeError
from longrope.lengths import parse_tokens
from longrope.reading import LARGEST_WHOLE, is_number, is_required, show_value

RENAMED = {  # keys of earlier versions
    "measure.rivals": "measure.baselines",
    "export.tiers": "export.factor_sets",
    "stages.carry": "stages.extrapolate",
    "stages.recover": "stages.short",
}


@dataclass(frozen=True)
class Bound:
    """What an annotation asks of a value beside its type.

    Attributes:
        holds: whether a value of the right type is allowed; NaN never is.
        needed: what is allowed, as the second part of an error.
    """

    holds: Callable[[Any], bool]
    needed: Callable[[], str]


def at_least(least: float, *, or_zero: bool = False) -> Bound:
    """A finite number from ``least`` on; with ``or_zero`` 0 is allowed, too."""
    return Bound(
        lambda value: least <= value < math.inf or (or_zero and value == 0),
        lambda: f"At least {least:g}{' or 0' * or_zero} is needed.",
    )


def above(low: float, most: float) -> Bound:
    """A number above ``low``, up to ``most`` and including it."""
    return Bound(lambda value: low < value <= most, lambda: f"A number above {low:g} and up to {most:g} is needed.")


def between(least: float, most: float) -> Bound:
    """A number from ``least`` to ``most``, both included."""
    return Bound(lambda value: least <= value <= most, lambda: f"A number from {least:g} to {most:g} is needed.")


def one_of(*names: str) -> Bound:
    """One of these names."""
    return listed(lambda: names)


def listed(names: Callable[[], Sequence[str]], note: Callable[[], str] | None = None) -> Bound:
    """One of the names that a function gives, so that it may look at the registry when it is asked.

    A name that ends in ``:TASK`` allows every text that begins with what stands before ``TASK`` and goes on. The note
    is a sentence for an error, on names that are missing. Names that go on from another one, as ``ruler-vt`` from
    ``ruler``, stand in an error as ``ruler-...``.
    """

    def holds(value: str) -> bool:
        prefixes = tuple(name.removesuffix("TASK") for name in names() if name.endswith(":TASK"))
        return value in names() or (value.startswith(prefixes) and value not in prefixes)

    def shown() -> str:
        known = names()
        begins = [next((f"{short}-..." for short in known if name.startswith(f"{short}-")), name) for name in known]
        return ", ".join(dict.fromkeys(begins))

    return Bound(holds, lambda: f"One of {shown()} is needed.{f' {note()}' if note else ''}")


FILLED = Bound(lambda value: bool(value.strip()), lambda: "A name or a path that is not empty is needed.")
HUB_NAME = Bound(
    lambda value: len(value) <= 96 and re.fullmatch(r"|\w[\w.-]*(/\w[\w.-]*)?", value, re.ASCII) is not None,
    lambda: "A name on the hub is needed, such as OWNER/NAME, or none.",
)
FILE_SIZE = Bound(
    lambda value: re.fullmatch(r"0*[1-9][0-9]*[KMGT]i?B", value) is not None,
    lambda: "A whole number with a unit is needed, such as 2GB, 500MB or 4GiB.",
)
Count = Annotated[int, at_least(1)]
CountOrZero = Annotated[int, at_least(0)]


class Settings:
    """Base of all classes of settings, which are frozen dataclasses."""

    _section = ""
    _by_option = False

    def __init_subclass__(cls, section: str = "", *, by_option: bool = False) -> None:
        """Name a class.

        Args:
            section: the table of a recipe that it stands for, which errors name.
            by_option: its fields are options of a command, which errors name as the remedy.
        """
        cls._section, cls._by_option = f"{section}." if section else "", by_option

    def __post_init__(self) -> None:
        """Check every field, then what must go together (raises RecipeError naming the key)."""
        for name, hint in hints_of(type(self)).items():
            remedy = f"Change --{name.replace('_', '-')}." if self._by_option else "Correct it."
            value = checked(hint, getattr(self, name), self._section + name, remedy)
            object.__setattr__(self, name, value)  # a whole number given for a real one, a list for a tuple
        self.check()

    def check(self) -> None:
        """Refuse fields that do not go together; there is nothing of that kind unless a class says so."""


def hints_of(kind: type) -> dict[str, Any]:
    """The annotation of each field of a class of settings."""
    hints = _all_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


@cache
def _all_hints(kind: Hashable) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def checked(hint: Any, value: Any, key: str, remedy: str = "Correct it.") -> Any:
    """A value of the type that an annotation names; raise RecipeError where it is another or out of bounds."""
    plain, bounds = _split(hint)
    if get_origin(plain) is tuple and isinstance(value, list | tuple):
        item = get_args(plain)[0]
        return tuple(checked(item, one, f"{key}[{i}]", remedy) for i, one in enumerate(value))
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise RecipeError(f"{key} = {show_value(value)}.", "A number up to 2^53 is needed.", remedy)
    if plain is float and is_number(value):
        value = float(value)
    if get_origin(plain) is not None or type(value) is not plain:
        raise RecipeError(f"{key} = {show_value(value)}.", f"A value of the type {_name(plain)} is needed.", remedy)
    for bound in bounds:
        if not bound.holds(value):
            raise RecipeError(f"{key} = {show_value(value)}.", bound.needed(), remedy)
    return value


def _split(hint: Any) -> tuple[Any, tuple[Bound, ...]]:
    """The type of an annotation, and what else it asks."""
    if get_origin(hint) is Annotated:
        plain, *bounds = get_args(hint)
        return plain, tuple(bounds)
    return hint, ()


def _name(plain: Any) -> str:
    if get_origin(plain) is tuple:
        return f"list of {_name(_split(get_args(plain)[0])[0])}"
    return str(plain.__name__)


Node = TypeVar("Node")


def build(kind: type[Node], content: Mapping[str, Any], prefix: str = "") -> Node:
    """Settings from a table of TOML; raise RecipeError naming an unknown key and the one that was probably meant.

    Keys of earlier versions are read, too. Tables become settings, lists tuples, and where a whole number is needed a
    text like ``64k`` is read as tokens.
    """
    hints, content = hints_of(kind), _renamed(content, prefix)
    for key in content:
        if key not in hints:
            raise RecipeError(
                f"The recipe has an unknown key {prefix + key!r}.",
                _nearest(prefix + key, [*(prefix + name for name in hints), *dict(keys_of(kind, prefix))]),
                f"Known here: {', '.join(hints)}.",
            )
    for field in fields(kind):  # type: ignore[arg-type]  # every class of settings is a dataclass
        if field.name not in content and is_required(field):
            raise RecipeError(f"The recipe has no {prefix + field.name!r}.", "It is required.", "Add it.")
    return kind(**{key: _from_toml(hints[key], value, prefix + key) for key, value in content.items()})


def _nearest(key: str, known: Iterable[str]) -> str:
    """Name the known key that was probably meant: of the same name in another table, or spelt alike."""
    names = {one: one.rpartition(".")[2] for one in known}
    own = key.rpartition(".")[2]
    alike = difflib.get_close_matches(own, names.values(), n=1)
    meant = [one for one, name in names.items() if name in alike]
    if not meant:
        return "It resembles none of the known ones."
    if own not in alike:
        meant = difflib.get_close_matches(key, meant, n=1, cutoff=0.0)
    return f"The nearest known one is {' or '.join(map(repr, meant))}."


def _renamed(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A table with today's keys in place of those of earlier versions (raises RecipeError where both are there)."""
    renamed: dict[str, Any] = {}
    table = re.sub(r"\[\d+\]", "", prefix)  # of any item of a list
    for key, value in content.items():
        name = RENAMED.get(table + key, table + key).removeprefix(table)
        if name != key and name in content:
            raise RecipeError(
                f"The recipe has {prefix + key!r} and {prefix + name!r}.",
                "They are names of one setting.",
                f"Keep {prefix + name!r}.",
            )
        renamed[name] = value
    return renamed


def _from_toml(hint: Any, value: Any, key: str) -> Any:
    plain, _ = _split(hint)
    if isinstance(plain, type) and issubclass(plain, Settings) and isinstance(value, Mapping):
        return build(plain, value, key + ".")
    if get_origin(plain) is tuple and isinstance(value, list | tuple):
        return tuple(_from_toml(get_args(plain)[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    return parse_tokens(value) if plain is int and isinstance(value, str) else value


def keys_of(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a class and of the classes in it: its dotted key and its annotation."""
    for name, hint in hints_of(kind).items():
        if isinstance(hint, type) and issubclass(hint, Settings):
            yield from keys_of(hint, f"{prefix}{name}.")
        else:
            yield prefix + name, hint


def assign(kind: type, content: dict[str, Any], assignments: Sequence[str]) -> None:
    """Put ``key=value`` texts into a nested table of settings.

    Args:
        kind: the class of settings that the table is of.
        content: the table, as ``dataclasses.asdict`` gives it; changed in place.
        assignments: dotted keys and values: ``search.gradient.steps=40``, ``measure.lengths=8k,64k``.

    Raises:
        RecipeError: a text is none of these, its key is unknown (one that resembles it is named), or its value is not
            of the type that the setting has.
    """
    known = dict(keys_of(kind))
    for text in assignments:
        key, equals, value = text.partition("=")
        key = RENAMED.get(key.strip(), key.strip())
        if not equals:
            raise RecipeError(
                f"--set {text!r}.", "A key and a value are needed.", "Write --set search.gradient.steps=40."
            )
        if key not in known:
            remedy = "`longrope recipe` prints all settings."
            raise RecipeError(f"--set names an unknown key {key!r}.", _nearest(key, known), remedy)
        *tables, name = key.split(".")
        place = content
        for table in tables:
            place = place[table]
        place[name] = read_text(known[key], value.strip(), key)


def read_text(hint: Any, text: str, key: str) -> Any:
    """The value that a text stands for, by an annotation: items of a list are separated by commas, tables are TOML."""
    plain, _ = _split(hint)
    if get_origin(plain) is tuple:
        item = get_args(plain)[0]
        if isinstance(item, type) and issubclass(item, Settings):
            return _read_toml(text, key)
        return tuple(read_text(item, one.strip(), key) for one in text.split(",") if one.strip())
    readers: dict[type, Callable[[str], Any]] = {bool: _read_bool, int: _read_int, float: float, str: str}
    try:
        return readers[plain](text)
    except ValueError:
        needed = f"A value of the type {_name(plain)} is needed."
        raise RecipeError(f"{key} = {text!r}.", needed, "Correct it.") from None


def _read_toml(text: str, key: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        needed = 'A list of tables is needed, as TOML writes it: [{ search = "64k" }].'
        raise RecipeError(f"{key} = {text!r}.", needed, "Correct it.") from None


def _read_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _read_int(text: str) -> int:
    return int(text) if text.removeprefix("-").isdecimal() else parse_tokens(text)
