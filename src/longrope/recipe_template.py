"""All settings of a recipe with their defaults and what they mean, from the classes that hold them."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any, get_args, get_origin

import tomli_w

from longrope.reading import is_required
from longrope.recipe import Recipe
from longrope.schedule import Stage
from longrope.settings import Settings, hints_of

REQUIRED = {"model": "OWNER/NAME", "target_tokens": "64k", "data": ["books/"]}  # with examples
WIDTH = 120
HEAD = """# All settings of a recipe. Those that are commented out show their defaults; tokens may be written as "64k".
# --recipe FILE reads a recipe on the command line; options complete and override it, and --set KEY=VALUE sets any key.
"""


def template() -> str:
    """The text of a recipe: what is required with examples, and all other settings as comments."""
    parts = [HEAD]
    for table, kind in _tables(Recipe):
        if table:
            parts += ["", *_comment(_sentences(kind)[0]), f"[{table}]"]
        for one, meaning in _settings(kind):
            parts += ["", *_comment(meaning)]
            for name, text in _of_stages(one):
                parts += _comment(f"{name}: {text}", "#   ")
            key = one.name
            parts.append(_toml(key, REQUIRED[key]) if key in REQUIRED else f"#{_toml(key, _default(one))}")
    return "\n".join(parts) + "\n"


def _comment(text: str, margin: str = "# ") -> list[str]:
    return textwrap.wrap(text.replace("`", ""), WIDTH, initial_indent=margin, subsequent_indent=margin)


def markdown() -> str:
    """The same as the page docs/recipe.md: a table for each part of a recipe."""
    lines = [
        "# Recipes",
        "",
        "A recipe is a TOML file with the settings of a run: `longrope extend --recipe FILE`. It may leave out",
        "settings that the command line gives. Options override the recipe, and `--set search.gradient.steps=40` sets",
        "any key. `longrope recipe` prints all settings as a file to start from. Tokens may be written as `64k`.",
        "This page is written by `longrope recipe --markdown`.",
    ]
    for table, kind in _tables(Recipe):
        title = f"## `[{table}]`" if table else "## The run"
        lines += ["", title, "", " ".join(_sentences(kind)), *_rows(_settings(kind))]
    lines += ["", "## A stage of `stages`", "", " ".join(_sentences(Stage)), *_rows(_settings(Stage))]
    return "\n".join(lines) + "\n"


def _rows(settings: Iterator[tuple[Field[Any], str]]) -> list[str]:
    rows = [
        f"| `{one.name}` | {'required' if is_required(one) else f'`{_value(_default(one))}`'} | {_marked(meaning)} |"
        for one, meaning in settings
    ]
    return ["", "| key | default | meaning |", "|---|---|---|", *rows]


def _tables(kind: type, table: str = "") -> Iterator[tuple[str, type]]:
    """Every table of a recipe with its class, the outer ones first."""
    yield table, kind
    for name, hint in hints_of(kind).items():
        if isinstance(hint, type) and issubclass(hint, Settings):
            yield from _tables(hint, f"{table}.{name}" if table else name)


def _settings(kind: type) -> Iterator[tuple[Field[Any], str]]:
    """The settings of a class that are no tables, with their meaning."""
    meanings, hints = describe_fields(kind), hints_of(kind)
    for one in fields(kind):
        if not (isinstance(hints[one.name], type) and issubclass(hints[one.name], Settings)):
            yield one, meanings[one.name]


def _of_stages(one: Field[Any]) -> Iterator[tuple[str, str]]:
    """The keys of a stage, below the setting that lists stages."""
    item = get_args(one.type)[:1] if get_origin(one.type) is tuple else ()
    if item == (Stage,):
        yield from describe_fields(Stage).items()


def describe_fields(kind: type) -> dict[str, str]:
    """What each setting of a class means, by the section "Attributes" of its docstring."""
    _, _, listed = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    meanings: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", listed.rstrip()):
        names, _, text = entry.strip().partition(": ")
        meanings |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return meanings


def _sentences(kind: type) -> list[str]:
    """The docstring of a class before its attributes, one paragraph an item."""
    before = (inspect.getdoc(kind) or "").partition("Attributes:")[0]
    return [_marked(" ".join(part.split())) for part in before.split("\n\n") if part.strip()]


def _default(one: Field[Any]) -> Any:
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    return list(value) if isinstance(value, tuple) else value


def _toml(key: str, value: Any) -> str:
    return f"{key} = {_value(value)}"


def _value(value: Any) -> str:
    """A value as TOML writes it, in one line."""
    line = " ".join(tomli_w.dumps({"x": value}).removeprefix("x = ").split())
    return re.sub(r"^\[ (.*), \]$", r"[\1]", line)


def _marked(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")
