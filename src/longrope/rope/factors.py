"""Rescale factors: what a search finds, a model is run with, and a checkpoint carries."""

import hashlib
import json
import math
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from longrope.errors import FactorsError
from longrope.labels import Source
from longrope.lengths import counted
from longrope.reading import LARGEST_WHOLE, is_number, read_json, show_value
from longrope.rope.geometry import RopeSpec
from longrope.rope.scaling import Lambdas

FORMAT, WITH_TABLE = "longrope-factors/1", "longrope-factors/2"  # the second names the rotary table


@dataclass(frozen=True)
class RescaleFactors:
    """One set of factors (LongRoPE, arXiv 2402.13753, equation 2).

    Pair i turns by ``n * f_i / lambdas[i]`` from position ``start_tokens`` on and by ``n * f_i`` before it; cos and sin
    are multiplied by ``attention_factor``. Everything is relative to the model's own frequencies f, so all-ones is the
    original model, also when the model carries a scaling of its own. Where that scaling depends on the length of the
    sequence, f are the frequencies for sequences of ``target_window`` tokens.

    Attributes:
        lambdas: [P] rescale factors, finite, at least 1 and non-decreasing unless ``relaxed``.
        target_window: the longest sequence in tokens that these factors are meant for.
        spec_fingerprint: the geometry they were made for.
        start_tokens: how many first positions keep the plain angle (n-hat).
        attention_factor: multiplies cos and sin, so attention logits by its square.
        method: where they come from: a baseline of the registry, ``scan`` (the start that the gradient search scans
            for), or the search that made them, ``longrope-gradient``, ``longrope-evolution``, ``longrope-cma`` or
            ``longrope-recovered``. Composed factors name all that they are made of (``longrope-gradient+scan``), so do
            those of a formula with another attention factor (``yarn+attention factor 1``); extrapolated ones keep the
            name of what they were extrapolated from.
        chosen_by: the search that selected them; empty for a baseline that nobody searched.
        relaxed: whether lambdas below 1 or decreasing ones are meant.
        table: the rotary table that they are for, where it was named; empty for that of the layers that see the whole
            window.
        searched: a sketch of the text that they were searched on (see ``data.sketch``), so that nobody measures on it.
    """

    lambdas: tuple[float, ...]
    target_window: int
    spec_fingerprint: str
    start_tokens: int = 0
    attention_factor: float = 1.0
    method: str = "none"
    relaxed: bool = False
    searched: tuple[int, ...] = ()
    chosen_by: str = ""
    table: str = ""

    def __post_init__(self) -> None:
        """Refuse malformed factors (raises FactorsError naming the first bad entry)."""
        self._check_types()
        object.__setattr__(self, "lambdas", tuple(float(x) for x in self.lambdas))
        object.__setattr__(self, "attention_factor", float(self.attention_factor))
        object.__setattr__(self, "searched", tuple(self.searched))
        if not self.lambdas or self.target_window < 1 or self.start_tokens < 0:
            self._refuse(
                f"{len(self.lambdas)} factors, target_window {self.target_window}, start_tokens {self.start_tokens}"
            )
        for i, value in enumerate(self.lambdas):
            if not math.isfinite(value) or value <= 0:
                self._refuse(f"lambdas[{i}] = {value}")
            if not self.relaxed and value < 1:
                self._refuse(f"lambdas[{i}] = {value} (below 1)")
            if not self.relaxed and i and value < self.lambdas[i - 1]:
                self._refuse(f"lambdas[{i}] = {value} after {self.lambdas[i - 1]} (decreasing)")
        if not math.isfinite(self.attention_factor) or self.attention_factor <= 0:
            self._refuse(f"attention_factor = {self.attention_factor}")

    def _check_types(self) -> None:
        numbers: dict[str, object] = {"attention_factor": self.attention_factor}
        lists: dict[str, object] = {"lambdas": self.lambdas, "searched": self.searched}
        for name, values in lists.items():
            if not isinstance(values, list | tuple):
                self._refuse(f"{name} = {show_value(values)}")
            numbers |= {f"{name}[{i}]": value for i, value in enumerate(values)}
        for name, number in numbers.items():
            hashed = name.startswith("searched")
            if not (isinstance(number, int) and 0 <= number < 2**64 if hashed else is_number(number)):
                self._refuse(f"{name} = {show_value(number)}")
        kinds = {"target_window": int, "start_tokens": int, "relaxed": bool}
        for name, kind in {**kinds, **dict.fromkeys(("method", "chosen_by", "spec_fingerprint", "table"), str)}.items():
            value = getattr(self, name)
            if type(value) is not kind or (isinstance(value, int) and not 0 <= value <= LARGEST_WHOLE):
                self._refuse(f"{name} = {show_value(value)}")

    @staticmethod
    def _refuse(found: str) -> NoReturn:
        raise FactorsError(
            f"The rescale factors hold {found}.",
            "Lambdas must be finite numbers, at least 1 and non-decreasing unless relaxed is true; the attention "
            "factor a positive number; windows and start tokens whole numbers.",
            "Search again with `longrope search`, or mend the file.",
        )

    @property
    def is_identity(self) -> bool:
        """Whether they change nothing: the model's own frequencies and attention factor."""
        return all(x == 1 for x in self.lambdas) and self.attention_factor == 1

    @property
    def array(self) -> Lambdas:
        """[P] lambdas as float64."""
        return np.asarray(self.lambdas, dtype=np.float64)

    @property
    def source(self) -> Source:
        """Where they come from and which search chose them, for labels."""
        return Source(self.method, self.chosen_by)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that name what these factors do to a model (not how they were found)."""
        acting = [self.lambdas, self.start_tokens, self.attention_factor, self.target_window, self.spec_fingerprint]
        acting += [self.table] if self.table else []
        return hashlib.sha256(json.dumps(acting).encode()).hexdigest()[:16]

    def check_table(self, name: str) -> None:
        """Raise FactorsError if these factors were made for a named rotary table, and this is another one."""
        if self.table and self.table != name:
            raise FactorsError(
                f"These factors are for the rotary table {self.table!r}.",
                f"The table {name!r} was to be rescaled.",
                f"Load the model with --rope-table {self.table}.",
            )

    def check_spec(self, spec: RopeSpec) -> None:
        """Raise FactorsError unless these factors were made for this geometry."""
        growth = spec.native.growth if spec.native else 0
        if growth and self.spec_fingerprint == replace(spec, native=None).fingerprint:
            raise FactorsError(
                f"These factors are for plain RoPE (geometry {self.spec_fingerprint}).",
                f"The model carries dynamic NTK (factor {growth:g}), which earlier versions read as plain RoPE. "
                "Factors are now relative to it at their target window, so the same numbers would mean other angles.",
                "Run `longrope search` again; or set the rope_type in config.json to 'default', by which these factors "
                "mean what they meant.",
            )
        if spec.native and self.spec_fingerprint != spec.fingerprint and spec.native.lambdas == self.lambdas:
            raise FactorsError(
                f"The model carries these {counted(len(self.lambdas), 'lambda')} itself, as an exported folder does.",
                "Factors are relative to the scaling that a model carries, so they would act twice.",
                "Leave the factors out; or give the model that they were searched for.",
            )
        if len(self.lambdas) != spec.num_pairs or self.spec_fingerprint != spec.fingerprint:
            raise FactorsError(
                f"These factors hold {counted(len(self.lambdas), 'lambda')} for the rotary geometry "
                f"{self.spec_fingerprint}.",
                f"The model has {spec.num_pairs} pairs and the geometry {spec.fingerprint} (theta {spec.theta:g}, "
                f"trained window {spec.trained_window}).",
                "Use the factors that were searched for this model, with --trained-window and --rope-table as in their "
                "search, or run `longrope search` on it.",
            )


@dataclass(frozen=True)
class FactorTable:
    """Sets of factors by window. A sequence takes the smallest factor set that holds its planned total length."""

    factor_sets: tuple[RescaleFactors, ...]

    def __post_init__(self) -> None:
        """Sort the factor sets and refuse an empty table, two of one window, or mixed geometries."""
        factor_sets = tuple(sorted(self.factor_sets, key=lambda factor_set: factor_set.target_window))
        windows = [factor_set.target_window for factor_set in factor_sets]
        if not factor_sets or len(set(windows)) < len(windows) or len({t.spec_fingerprint for t in factor_sets}) > 1:
            raise FactorsError(
                f"The factor table has factor sets for the windows {windows}.",
                "It needs at least one factor set, one per window, and one rotary geometry for all.",
                "Mend the file, or save one factor set alone.",
            )
        object.__setattr__(self, "factor_sets", factor_sets)

    def choose(self, tokens: int) -> RescaleFactors:
        """Return the smallest factor set whose window holds ``tokens``; raise FactorsError if none does."""
        for factor_set in self.factor_sets:
            if tokens <= factor_set.target_window:
                return factor_set
        raise FactorsError(
            f"A sequence of {tokens} tokens was asked for.",
            f"The longest window of these factors is {self.factor_sets[-1].target_window} tokens.",
            f"Search factors for it with `longrope search --to {tokens}`.",
        )

    def check_spec(self, spec: RopeSpec) -> None:
        """Raise FactorsError unless every factor set was made for this geometry."""
        for factor_set in reversed(self.factor_sets):  # the longest may be what the model carries
            factor_set.check_spec(spec)

    @property
    def fingerprint(self) -> str:
        """One factor set's own fingerprint, or sixteen hex digits over all factor sets."""
        names = [factor_set.fingerprint for factor_set in self.factor_sets]
        return names[0] if len(names) == 1 else hashlib.sha256("".join(names).encode()).hexdigest()[:16]


def as_table(factors: RescaleFactors | FactorTable) -> FactorTable:
    """One factor set as a table of one (raises FactorsError for what is neither)."""
    if not isinstance(factors, RescaleFactors | FactorTable):
        raise FactorsError(
            f"A {type(factors).__name__} was given as factors.",
            "RescaleFactors or a FactorTable is needed.",
            "Read a file of factors with longrope.load_factors.",
        )
    return factors if isinstance(factors, FactorTable) else FactorTable((factors,))


def as_one(factors: "RescaleFactors | FactorTable") -> RescaleFactors:
    """The only factor set of a table, as a file of factors holds it (raises FactorsError for several)."""
    sets = as_table(factors).factor_sets
    if len(sets) > 1:
        raise FactorsError(
            f"{len(sets)} factor sets were given, for {', '.join(f'{one.target_window:,}' for one in sets)} tokens.",
            "One is needed here.",
            "Choose it by the tokens that are read: table.choose(tokens).",
        )
    return sets[0]


def unscaled(spec: RopeSpec, tokens: int | None = None) -> RescaleFactors:
    """The factors that change nothing: inside other factors they bring back the model's own.

    Args:
        spec: of the model.
        tokens: the planned length of the sequences, which decides where the model's own scaling depends on it; the
            trained window if left out.
    """
    return RescaleFactors((1.0,) * spec.num_pairs, tokens or spec.trained_window, spec.fingerprint)


def dump_factors(factors: RescaleFactors | FactorTable) -> str:
    """The JSON text of factors, factor sets in order; floats survive exactly."""
    factor_sets = as_table(factors).factor_sets
    named = any(factor_set.table for factor_set in factor_sets)
    kept = [{k: v for k, v in asdict(t).items() if named or k != "table"} for t in factor_sets]
    return json.dumps({"format": WITH_TABLE if named else FORMAT, "tiers": kept}, indent=1) + "\n"


def load_factors(path: str | Path) -> FactorTable:
    """Read a factors file; raise FactorsError naming the file and the field at fault."""
    refuse = partial(_unreadable, path)
    content = read_json(path, refuse, bounded=False)
    sets = content.get("tiers") if isinstance(content, dict) else None
    if not isinstance(sets, list) or not all(isinstance(factor_set, dict) for factor_set in sets):
        raise refuse("no list of factor sets")
    if content.get("format") not in (FORMAT, WITH_TABLE):
        raise refuse(f"format {show_value(content.get('format'))}")
    required = {field.name for field in fields(RescaleFactors) if field.default is MISSING}
    known = {field.name for field in fields(RescaleFactors)}
    for factor_set in sets:
        if unknown := (factor_set.keys() - known) | (required - factor_set.keys()):
            raise refuse(f"unknown field {min(unknown)!r}" if min(unknown) not in known else f"no {min(unknown)}")
    try:
        return FactorTable(tuple(RescaleFactors(**factor_set) for factor_set in sets))
    except FactorsError as error:
        raise FactorsError(f"{path}: {error.found}", error.needed, error.remedy) from None


def _unreadable(path: str | Path, reason: str) -> FactorsError:
    return FactorsError(
        f"{path} cannot be read as rescale factors ({reason}).",
        f"A JSON file of the format {FORMAT} is needed.",
        "Make one with `longrope search MODEL --to 64k --data PATH`.",
    )
