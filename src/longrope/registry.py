"""What there is: one row for each method, metric and format. All labels, colours and lists of names come from here.

A row names what does the work by a dotted path, which is imported when it is first used, so this module knows no other.
To add a method, a metric or a format, write its function in a file and add a row:

    METRICS["my-metric"] = Metric("my-metric", "My metric", measure="my_package.my_module:MyMetric")
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from longrope.errors import RecipeError

RULER_TASKS = (  # of the benchmark (arXiv 2404.06654), by its names
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa"),
)
HARNESS = "harness:"  # begins the name of a benchmark of lm-evaluation-harness, or the path of its task file
BENCHMARK = f"{HARNESS}TASK"
ORIGINAL = "none"  # the method of the original model, in records


@dataclass(frozen=True)
class Method:
    """A way to read beyond the trained window.

    Attributes:
        name: in records, factors files and recipes.
        label: in tables, figures and model cards.
        source: paper and section; empty if it is this project's own.
        kind: what it changes: rescale factors, attention, or weights.
        make: the function that makes it, as ``package.module:function``. A formula takes the geometry, the target
            window and the lengths that will be measured, and returns a table of factors.
        colours: in figures, on a light and on a dark page; empty takes a spare one.
        dash: SVG dash pattern of its line; empty is solid.
        marker: of its points.
        formula: its factors come from a formula alone, without a search.
        attention: its attention factor as a formula of s and L, or who chooses it; empty where nothing is rescaled.
        baseline: it is measured beside what a search has found, by ``compare`` and where ``measure.rivals`` names it.
            One without a formula is made as ``longrope.search.scan.scan_base`` is, from a model and a text.
        start: a search may start from it, so it has one set of factors for all lengths.
        search: its name in ``search.method``; empty if it is no search of factors for a long window.
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
    start: bool = False
    search: str = ""


@dataclass(frozen=True)
class Metric:
    """Something that is measured.

    Attributes:
        name: in recipes and on the command line.
        label: in tables, figures and model cards.
        unit: of its value; empty for a share or a ratio.
        format: how its value is written.
        measure: a subclass of ``longrope.evaluation.metric.Metric``, as ``package.module:class``; it is made with the
            name.
        record: its name in records, where it is another.
    """

    name: str
    label: str
    unit: str = ""
    format: str = ".4g"
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
    """

    name: str
    label: str
    write: str
    file: str


def _by_name(*rows: Any) -> dict[str, Any]:
    return {row.name: row for row in rows}


METHODS: dict[str, Method] = _by_name(
    Method(
        ORIGINAL,
        label="original model",
        make="longrope.factors:unscaled",
        colours=("#7a808a", "#9aa1ab"),
        dash="1.5 4",
        marker="cross",
    ),
    Method(
        "pi",
        label="PI",
        source="arXiv 2306.15595, section 3",
        make="longrope.factors:pi_table",
        colours=("#b0746a", "#d6a297"),
        dash="8 4",
        marker="down",
        formula=True,
        attention="1",
        baseline=True,
        start=True,
    ),
    Method(
        "ntk",
        label="NTK",
        source="NTK-aware scaling",
        make="longrope.factors:ntk_table",
        colours=("#c98500", "#f0b440"),
        dash="6 3",
        marker="square",
        formula=True,
        attention="1",
        baseline=True,
        start=True,
    ),
    Method(
        "ntk-critical",
        label="NTK by critical dimension",
        source="arXiv 2310.05209",
        make="longrope.factors:ntk_critical_table",
        colours=("#6b7a12", "#bccb4a"),
        dash="4 2 1 2",
        marker="diamond",
        formula=True,
        attention="1",
        baseline=True,
    ),
    Method(
        "dynamic-ntk",
        label="dynamic NTK",
        source="NTK-aware scaling by the current length",
        make="longrope.factors:dynamic_ntk_table",
        colours=("#a8480f", "#e8864c"),
        dash="8 3 1.5 3",
        marker="plus",
        formula=True,
        attention="1",
        baseline=True,
    ),
    Method(
        "yarn",
        label="YaRN",
        source="arXiv 2309.00071, section 3.2",
        make="longrope.factors:yarn_table",
        colours=("#2b6cd4", "#74a8ff"),
        dash="5 3",
        marker="up",
        formula=True,
        attention="0.1 ln s + 1",
        baseline=True,
        start=True,
    ),
    Method(
        "critical",
        label="critical-pair rule",
        source="arXiv 2502.20082, section 3.2",
        make="longrope.factors:critical_table",
        colours=("#0b7285", "#4fc3d6"),
        dash="2 3",
        marker="square",
        formula=True,
        attention="sqrt(1 + ln s / ln L)",
        baseline=True,
        start=True,
    ),
    Method(
        "ntk-scan",
        label="NTK, scanned base and attention factor",
        make="longrope.search.scan:scan_base",
        colours=("#4a5b8c", "#a3b3e6"),
        dash="1 3",
        marker="up",
        attention="scanned",
        baseline=True,
    ),
    Method("scan", label="scan of curves", make="longrope.search:find_factors", attention="scanned"),
    Method(
        "longrope-gradient",
        label="LongRoPE, gradient",
        make="longrope.search:find_factors",
        colours=("#12805c", "#3ccb98"),
        attention="searched",
        search="gradient",
    ),
    Method(
        "longrope-evolution",
        label="LongRoPE, evolution",
        source="arXiv 2402.13753, section 3.2",
        make="longrope.search:find_factors",
        colours=("#7b2d8b", "#cf8be0"),
        dash="10 5",
        marker="diamond",
        attention="sqrt(1 + ln s / ln L)",
        search="evolution",
    ),
    Method(
        "longrope-recovered",
        label="LongRoPE, short window",
        source="arXiv 2402.13753, section 3.3",
        make="longrope.search:recover_window",
    ),
    Method(
        "longrope-tuned",
        label="LongRoPE, tuned",
        source="arXiv 2402.13753, section 3.3",
        kind="weights",
        make="longrope.tuning:fine_tune",
        colours=("#c2255c", "#f783ac"),
    ),
)
METRICS: dict[str, Metric] = _by_name(
    Metric("perplexity", "Perplexity", measure="longrope.evaluation.perplexity:Perplexity"),
    Metric("passkey", "Passkeys found", format=".0%", measure="longrope.evaluation.passkey:PasskeyRetrieval"),
    Metric(
        "prefix-perplexity",
        "Perplexity of the first tokens of longer windows",
        measure="longrope.evaluation.perplexity:PrefixPerplexity",
    ),
    Metric(
        "retention",
        "Perplexity as a share of the original's",
        measure="longrope.evaluation.retention:Retention",
        record="ratio-to-none",
    ),
    Metric("needle", "Needles found", format=".0%", measure="longrope.evaluation.needles:Needles"),
    Metric("ruler", "RULER", format=".0%", measure="longrope.evaluation.ruler:RulerMean"),
    *(
        Metric(f"ruler-{task}", f"RULER {task}", format=".0%", measure="longrope.evaluation.ruler:RulerTask")
        for task in RULER_TASKS
    ),
    Metric(
        BENCHMARK,
        "Benchmark of lm-evaluation-harness",
        measure="longrope.evaluation.lm_eval:Benchmark",
    ),
)
FORMATS: dict[str, Format] = _by_name(
    Format("hf", "Hugging Face checkpoint", "longrope.exports:export_hf", "hf"),
    Format("gguf", "GGUF file for llama.cpp", "longrope.exports:export_gguf", "gguf/model.gguf"),
)


def formulas() -> tuple[str, ...]:
    """The methods whose factors come from a formula alone."""
    return tuple(row.name for row in METHODS.values() if row.formula)


def baselines() -> tuple[str, ...]:
    """The methods that what was found is measured against."""
    return tuple(row.name for row in METHODS.values() if row.baseline)


def starts() -> tuple[str, ...]:
    """The methods that a search may start from."""
    return tuple(row.name for row in METHODS.values() if row.start)


def searches() -> dict[str, str]:
    """The searches, by their names in ``search.method``: the method that each of them is."""
    return {row.search: row.name for row in METHODS.values() if row.search}


def metrics() -> tuple[str, ...]:
    """The names of all metrics; the last one stands for every benchmark."""
    return tuple(METRICS)


def format_of(record: str) -> str:
    """How a value is written: as the metric says whose name the record has or begins with, else by four digits."""
    own = [row for row in METRICS.values() if record == row.recorded_as or record.startswith(f"{row.recorded_as}-")]
    return max(own, key=lambda row: len(row.recorded_as)).format if own else ".4g"


def label_of(method: str) -> str:
    """What a method is called in tables and figures; one without a row keeps its name."""
    return METHODS[method].label if method in METHODS else method


def resolve(path: str) -> Callable[..., Any]:
    """The function that a dotted path ``package.module:function`` names; raise RecipeError if there is none."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)  # type: ignore[no-any-return]  # a row says what it is
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"The registry names {path!r} ({error}).", "A path package.module:function is needed.", "Correct the row."
        ) from None
