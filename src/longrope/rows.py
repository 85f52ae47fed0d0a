"""What a row of the registry says of a method, a metric or a format."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Method:
    """A way to read beyond the trained window.

    Attributes:
        name: in records, factors files and recipes.
        label: in tables, figures and model cards.
        source: paper and section; empty if it is this project's own.
        kind: what it changes: rescale factors, attention, or weights.
        make: the function that makes it, as ``package.module:function``. A formula takes the geometry, the target
            window and the lengths that will be measured, and returns a table of factors. A baseline of another kind
            takes the model and a number of tokens: one that changes attention, the length of the sequences that are
            read, and returns a context manager within which the model reads them; one that changes weights, the target
            window, and returns another model, with a name of its own.
        colours: in figures, on a light and on a dark page; empty takes a spare one.
        dash: SVG dash pattern of its line; empty is solid.
        marker: of its points.
        formula: its factors come from a formula alone, without a search.
        attention: its attention factor as a formula of s and L, or who chooses it; empty where nothing is rescaled.
        baseline: it is measured beside what a search finds, by ``compare`` and where ``measure.baselines`` lists it.
            One of factors without a formula is made as ``longrope.search.scan.scan_base`` is, from a model and a text.
        by_length: its formula gives a set of factors for each length that is read.
        start: a search starts from it; it has one set of factors for all lengths.
        search: its name in ``search.method``, where others have their own; empty if it is no search of factors for a
            long window.
    """

    name: str
    label: str
    source: str = ""
    kind: Literal["factors", "attention", "weights"] = "factors"
    make: str = ""
    colours: tuple[str, str] | tuple[()] = ()
    dash: str = ""
    marker: str = "circle"
    formula: bool = False
    attention: str = ""
    baseline: bool = False
    by_length: bool = False
    start: bool = False
    search: str = ""


@dataclass(frozen=True)
class Metric:
    """Something that is measured, or all metrics whose names in records begin with the same words.

    Attributes:
        name: in recipes and on the command line.
        label: in tables, figures and model cards; ``{}`` is what follows the row's name in records.
        format: of a value: ``number``, ``share`` (percent), ``benchmark`` (percent with a decimal, unless it is outside
            of [-1, 2]), ``difference`` (signed percent) or ``tokens`` (a whole number).
        section: of the report.
        log: whether a figure shows logarithms.
        hub: its name in a model card's metadata; empty: its name in records.
        measure: a subclass of ``longrope.evaluation.metric.Metric``, as ``package.module:class``; it is made with the
            name. Empty: it comes out of the passes of another metric.
        record: its name in records, where it is another; one that ends with ``-`` or ``:`` begins all their names.
    """

    name: str
    label: str
    format: Literal["number", "share", "benchmark", "difference", "tokens"] = "number"
    section: str = "other"
    log: bool = False
    hub: str = ""
    measure: str = ""
    record: str = ""

    @property
    def recorded_as(self) -> str:
        """Its name in records."""
        return self.record or self.name


@dataclass(frozen=True)
class Format:
    """A form of a checkpoint.

    Attributes:
        name: on the command line.
        label: in messages and reports.
        write: the function that writes and checks it, as ``package.module:function``. It takes the model, its factors
            and a path, with the export's settings, measuring windows and origin by name, and returns a report.
        file: where it goes, below a run directory.
        check: the function that raises LongRopeError where a model's factors cannot be written so, as a dotted path.
            It takes the model and factors, and writes nothing that stays. Without it, writing shows.
    """

    name: str
    label: str
    write: str
    file: str
    check: str = ""


def by_name(*rows: Any) -> dict[str, Any]:
    """Rows by their names."""
    return {row.name: row for row in rows}
