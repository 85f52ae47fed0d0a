"""What there is: one row for each method and format, with its labels and colours; ``metrics`` has those of metrics.

A row names what does the work by a dotted path, which is imported when it is first used, so this module knows no other.
To add a method, a metric or a format, write its function in a file and add a row:

    metrics.METRICS["my-metric"] = rows.Metric("my-metric", "My metric", measure="my_package.my_module:MyMetric")
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from longrope.errors import RecipeError
from longrope.rows import Format, Method, by_name

ORIGINAL = "none"  # the method of the original model, in records
TUNED = "longrope-tuned"  # that of trained weights with the factors that they were trained with
# Makers of rows that have much in common.
_formula = partial(Method, formula=True, baseline=True)
_attention = partial(Method, kind="attention", baseline=True)
_search = partial(Method, make="longrope.search:find_factors")

METHODS: dict[str, Method] = by_name(
    Method(
        ORIGINAL,
        label="original model",
        make="longrope.rope.factors:unscaled",
        colours=("#7a808a", "#9aa1ab"),
        dash="1.5 4",
        marker="cross",
    ),
    _formula(
        "pi",
        label="PI",
        source="arXiv 2306.15595, section 3",
        make="longrope.rope.baselines:pi_table",
        colours=("#b0746a", "#d6a297"),
        dash="8 4",
        marker="down",
        attention="1",
        start=True,
    ),
    _formula(
        "ntk",
        label="NTK",
        source="NTK-aware scaling",
        make="longrope.rope.baselines:ntk_table",
        colours=("#c98500", "#f0b440"),
        dash="6 3",
        marker="square",
        attention="1",
        start=True,
    ),
    _formula(
        "ntk-critical",
        label="NTK by critical dimension",
        source="arXiv 2310.05209",
        make="longrope.rope.baselines:ntk_critical_table",
        colours=("#6b7a12", "#bccb4a"),
        dash="4 2 1 2",
        marker="diamond",
        attention="1",
    ),
    _formula(
        "dynamic-ntk",
        label="dynamic NTK",
        source="NTK-aware scaling by the current length",
        make="longrope.rope.baselines:dynamic_ntk_table",
        colours=("#a8480f", "#e8864c"),
        dash="8 3 1.5 3",
        marker="plus",
        attention="1",
        by_length=True,
    ),
    _formula(
        "yarn",
        label="YaRN",
        source="arXiv 2309.00071, section 3.2",
        make="longrope.rope.baselines:yarn_table",
        colours=("#2b6cd4", "#74a8ff"),
        dash="5 3",
        marker="up",
        attention="0.1 ln s + 1",
        start=True,
    ),
    _formula(
        "critical",
        label="critical-pair rule",
        source="arXiv 2502.20082, section 3.2",
        make="longrope.rope.baselines:critical_table",
        colours=("#0b7285", "#4fc3d6"),
        dash="2 3",
        marker="square",
        attention="sqrt(1 + ln s / ln L)",
        start=True,
    ),
    _formula(
        "critical-real",
        label="critical-pair rule, from ten turns",
        source="arXiv 2502.20082, section 3.2",
        make="longrope.rope.baselines:real_critical_table",
        colours=("#5c3d99", "#b39ddb"),
        dash="2 3 6 3",
        marker="square",
        attention="sqrt(1 + ln s / ln L)",
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
    Method(
        "longrope2",
        label="LongRoPE2's search",
        source="arXiv 2502.20082, section 3.2",
        make="longrope.search.longrope2:search_longrope2",
        colours=("#8a6d1a", "#d9c077"),
        dash="12 3 2 3",
        marker="down",
        attention="sqrt(1 + ln s / ln L)",
        baseline=True,
    ),
    _attention(
        "dca",
        label="DCA",
        source="dual chunk attention, arXiv 2402.17463",
        make="longrope.engine.near_exact:dca",
        colours=("#5f3dc4", "#a993f5"),
        dash="3 2",
        marker="cross",
        attention="0.05 ln s + 1",
    ),
    _attention(
        "self-extend",
        label="Self-Extend",
        source="arXiv 2401.01325",
        make="longrope.engine.near_exact:self_extend",
        colours=("#2f7a1e", "#86cf6f"),
        dash="9 2 2 2",
        marker="plus",
        attention="1",
    ),
    _attention(
        "jet-long",
        label="Jet-Long",
        source="arXiv 2607.07740",
        make="longrope.engine.near_exact:jet_long",
        colours=("#84501c", "#d9a066"),
        dash="1 2 4 2",
        marker="down",
        attention="1",
    ),
    _search("scan", label="critical-pair family, scanned", attention="scanned"),
    _search(
        "longrope-gradient",
        label="LongRoPE, gradient",
        colours=("#12805c", "#3ccb98"),
        attention="searched",
        search="gradient",
    ),
    _search(
        "longrope-evolution",
        label="LongRoPE, evolution",
        source="arXiv 2402.13753, section 3.2",
        colours=("#7b2d8b", "#cf8be0"),
        dash="10 5",
        marker="diamond",
        attention="sqrt(1 + ln s / ln L)",
        search="evolution",
    ),
    _search(
        "longrope-cma",
        label="LongRoPE, CMA-ES over knots",
        source="CMA-ES: arXiv 1604.00772",
        attention="searched",
        search="cma",
    ),
    Method(
        "longrope-recovered",
        label="LongRoPE, short context",
        source="arXiv 2402.13753, section 3.3",
        make="longrope.search:search_short_window",
    ),
    Method(
        TUNED,
        label="LongRoPE, tuned",
        source="arXiv 2402.13753, section 3.3",
        kind="weights",
        make="longrope.tuning:fine_tune",
        colours=("#c2255c", "#f783ac"),
    ),
)
FORMATS: dict[str, Format] = by_name(
    Format("hf", "Hugging Face checkpoint", "longrope.exports:export_hf", "hf", "longrope.exports.hf:check_stated"),
    Format(
        "gguf",
        "GGUF file for llama.cpp",
        "longrope.exports:write_gguf",
        "gguf/model.gguf",
        "longrope.exports.gguf:check_stated",
    ),
)


def formulas() -> tuple[str, ...]:
    """The methods whose factors come from a formula alone."""
    return tuple(row.name for row in METHODS.values() if row.formula)


def one_set_formulas() -> tuple[str, ...]:
    """The formulas that give one set of factors for all lengths, and so can stand in the place of a search."""
    return tuple(row.name for row in METHODS.values() if row.formula and not row.by_length)


def baselines() -> tuple[str, ...]:
    """The methods that what was found is measured against."""
    return tuple(row.name for row in METHODS.values() if row.baseline)


def starts() -> tuple[str, ...]:
    """The methods that a search may start from."""
    return tuple(row.name for row in METHODS.values() if row.start)


def scans() -> tuple[str, ...]:
    """The baselines whose factors are scanned on a text; they are of weights that nobody has tuned."""
    return tuple(row.name for row in METHODS.values() if row.baseline and row.kind == "factors" and not row.formula)


def describe_measured_alone() -> str:
    """A sentence on the methods that no checkpoint carries."""
    names = " and ".join(row.name for row in METHODS.values() if row.kind == "attention" and row.baseline)
    return f"Measured, not exportable: {names}, since no format of checkpoints states how attention is changed."


def factor_methods() -> tuple[str, ...]:
    """What ``search.method`` may be: a search, or a baseline that gives one set of factors in place of one."""
    return (*searches(), *one_set_formulas(), *scans())


def searches() -> dict[str, str]:
    """The searches, by their names in ``search.method``: the method that each of them is."""
    return {row.search: row.name for row in METHODS.values() if row.search}


def resolve(path: str) -> Callable[..., Any]:
    """The function that a dotted path ``package.module:function`` names; raise RecipeError if there is none."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)  # type: ignore[no-any-return]  # a row says what it is
    except (ImportError, AttributeError) as error:
        raise RecipeError(
            f"The registry names {path!r} ({error}).", "A path package.module:function is needed.", "Correct the row."
        ) from None
