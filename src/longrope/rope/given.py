"""Rescale factors from elsewhere: lists in a JSON file, or a config.json with longrope's lists, as factors of a model.

Such lists divide the frequencies of plain RoPE. A scaling that the model itself carries is divided out of them, so that
the table makes the model turn by the frequencies that the file states.

Shape legend: P = rotary_dim / 2 pairs, fastest first.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from longrope import registry
from longrope.errors import FactorsError
from longrope.lengths import counted
from longrope.reading import LARGEST_WHOLE, read_json, show_value
from longrope.rope.factors import FactorTable, RescaleFactors, load_factors
from longrope.rope.geometry import RopeSpec
from longrope.rope.hf_legacy import LEGACY_BASES
from longrope.rope.scaling import su_attention_factor

LONG, SHORT = ("long", "long_factor", "factors"), ("short", "short_factor")  # keys of one list each
FORMS = (
    'a JSON list of numbers; {"long": [...], "short": [...], "attention_factor": number} with the last two left out or '
    "not; a config.json whose rope_scaling or rope_parameters are of the type longrope; or a factors.json of ours"
)


@dataclass(frozen=True)
class GivenFactors:
    """Factors that were read from a file.

    Attributes:
        name: of the method that they are measured as: that of the file.
        table: the factor sets, relative to the model.
        attention: the attention factor in words, and whether the file states it.
    """

    name: str
    table: FactorTable
    attention: str

    def __str__(self) -> str:
        """As one line."""
        windows = ", ".join(f"{factor_set.target_window:,}" for factor_set in self.table.factor_sets)
        return f"{self.name}: factors for windows of {windows} tokens, attention factor {self.attention}"


def read_given(paths: Iterable[str | Path], spec: RopeSpec, target_tokens: int) -> list[GivenFactors]:
    """Read files of factors for a model and a window, each with a name of its own.

    Args:
        paths: files; of a folder its ``factors.json``, or else its ``config.json``.
        spec: the model's geometry.
        target_tokens: the window that lists without one are taken for.

    Raises:
        FactorsError: a file cannot be read, is for another geometry, holds numbers that cannot be factors, or is given
            twice.
    """
    files = [_file_of(Path(path)) for path in paths]
    names = [_name_of(file) for file in files]
    names = [_name_of(file, 2) if names.count(name) > 1 else name for file, name in zip(files, names, strict=True)]
    if twice := next((name for name in names if names.count(name) > 1 or name in registry.METHODS), None):
        raise FactorsError(
            f"The factors given have the name {twice} twice, or that of a method.",
            "They are measured by the names of their files and folders.",
            "Give each file once, and rename one of two.",
        )
    return [_read(file, name, spec, target_tokens) for file, name in zip(files, names, strict=True)]


def _file_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    own = path / "factors.json"
    return own if own.exists() else path / "config.json"


def _name_of(path: Path, parts: int = 1) -> str:
    """The last parts of a path, in letters that every table and file can hold."""
    return re.sub(r"[^\w./-]", "-", "/".join(path.absolute().parts[-parts:]))


def _read(path: Path, name: str, spec: RopeSpec, target_tokens: int) -> GivenFactors:
    content = read_json(path, partial(_unreadable, path), bounded=False)
    if isinstance(content, dict) and "tiers" in content:
        table = load_factors(path)
        table.check_spec(spec)
        return GivenFactors(name, table, f"{table.factor_sets[-1].attention_factor:.4f}, of the file")
    stated = {"long": content} if isinstance(content, list) else _entries(path, content, spec)
    long, short = _list_of(path, stated, LONG, spec), _list_of(path, stated, SHORT, spec)
    if long is None:
        raise _unreadable(path, "no list of long factors")
    switch = _whole(path, stated, "original_max_position_embeddings") or spec.trained_window
    factor, words = _attention(path, stated, switch, target_tokens)
    if short is not None and switch >= target_tokens:
        raise FactorsError(
            f"{path} takes its short factors up to {switch:,} tokens, and the target is {target_tokens:,}.",
            "A target beyond that is needed for the long factors to be measured.",
            f"Ask for more with --to, or leave the short list out of {path}.",
        )
    sets = [_relative(long, factor, spec, target_tokens, name)]
    if short is not None:
        short_factor = _positive(path, stated, "short_mscale") if "attention_factor" not in stated else None
        sets.append(_relative(short, short_factor or factor, spec, switch, name))
    return GivenFactors(name, FactorTable(tuple(sets)), words)


def _unreadable(path: Path, reason: str) -> FactorsError:
    return FactorsError(
        f"{path} cannot be read as rescale factors ({reason}).", f"Needed is {FORMS}.", "Give such a file."
    )


def _entries(path: Path, content: Any, spec: RopeSpec) -> dict[str, Any]:
    """What a dict states about its lists, those of a config beside the entries at its top."""
    if not isinstance(content, dict):
        raise _unreadable(path, f"a {type(content).__name__}")
    scaling = content.get("rope_parameters") or content.get("rope_scaling")
    if scaling is None:
        return content
    kind = (scaling.get("rope_type") or scaling.get("type")) if isinstance(scaling, dict) else None
    if kind not in ("longrope", "su"):
        raise _unreadable(path, f"its RoPE scaling is of the type {kind!r}")
    top = (*LEGACY_BASES, "max_position_embeddings", "original_max_position_embeddings")
    stated = {**scaling, **{key: content[key] for key in top if content.get(key) is not None}}
    theta = next((base for key in LEGACY_BASES if (base := _positive(path, stated, key))), spec.theta)
    if not math.isclose(theta, spec.theta, rel_tol=1e-6):
        raise FactorsError(
            f"{path} states factors for the base {theta:,g}.",
            f"The model has the base {spec.theta:,g}, with which these factors would give other angles.",
            "Give the config of an extended form of this model.",
        )
    return stated


def _list_of(path: Path, stated: Mapping[str, Any], keys: tuple[str, ...], spec: RopeSpec) -> list[float] | None:
    """[P] the numbers of a list, None if it is not there."""
    key = next((key for key in keys if stated.get(key) is not None), None)
    if key is None:
        return None
    values = stated[key]
    if not isinstance(values, list):
        raise _unreadable(path, f"{key} is no list")
    if len(values) != spec.num_pairs:
        raise FactorsError(
            f"{path} holds {counted(len(values), 'factor')} ({key}).",
            f"The model has {spec.num_pairs} rotary pairs: one factor for each is needed, the fastest pair first.",
            "Give a file that was made for this model with --factors.",
        )
    return [_number(path, f"{key}[{i}]", value) for i, value in enumerate(values)]


def _number(path: Path, name: str, value: Any) -> float:
    """A finite number above 0."""
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not 0 < number < math.inf:
        raise FactorsError(
            f"{path} holds {name} = {show_value(value)}.",
            "A finite number above 0 is needed.",
            "Correct the file, or give another one with --factors.",
        )
    return number


def _positive(path: Path, stated: Mapping[str, Any], key: str) -> float | None:
    """A positive number that may be missing."""
    return None if stated.get(key) is None else _number(path, key, stated[key])


def _whole(path: Path, stated: Mapping[str, Any], key: str) -> int:
    """A whole number of tokens, 0 if it is missing."""
    number = round(_positive(path, stated, key) or 0)
    if number == 1 or number > LARGEST_WHOLE:
        raise _unreadable(path, f"{key} is {show_value(number)}")
    return number


def _attention(path: Path, stated: Mapping[str, Any], switch: int, target_tokens: int) -> tuple[float, str]:
    """The attention factor of the long list, and in words where it comes from.

    Where a file states none, it is LongRoPE's by the windows of the file, as transformers derives it, or by those of
    the run.
    """
    for key in ("attention_factor", "long_mscale"):
        if (value := _positive(path, stated, key)) is not None:
            return value, f"{value:.4f}, of the file"
    reach = _whole(path, stated, "max_position_embeddings")
    ratio = _positive(path, stated, "factor") or (reach or target_tokens) / switch
    value = su_attention_factor(ratio, switch)
    return value, f"{value:.4f}, which the file does not state: sqrt(1 + ln s / ln L) at s = {ratio:g}, L = {switch:,}"


def _relative(
    stated: list[float], attention_factor: float, spec: RopeSpec, window_tokens: int, name: str
) -> RescaleFactors:
    """Factors of plain RoPE as factors relative to what the model does in a window."""
    lambdas = [value / own for value, own in zip(stated, spec.lambdas_at(window_tokens), strict=True)]
    made = RescaleFactors(
        tuple(lambdas),
        window_tokens,
        spec.fingerprint,
        attention_factor=attention_factor / spec.attention_factor,
        method=name,
        relaxed=True,
    )
    ordinary = lambdas[0] >= 1 and all(a <= b for a, b in pairwise(lambdas))
    return replace(made, relaxed=not ordinary)
