"""The section of rescale factors: of each pair beside the baselines, and the wavelengths beside the windows."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from longrope import registry
from longrope.labels import Source, label_of
from longrope.report.charts.axes import linear_axis, log_axis
from longrope.report.charts.lines import LineChart, Point, Rule, Series
from longrope.report.contents import Contents
from longrope.report.parts import Figure, Section, draw_one, make_figure, merged, titled
from longrope.report.tables import ScoreTable, number


def factor_section(runs: Sequence[Contents]) -> Section:
    """Rescale factors against the pair index beside the baselines, and the wavelengths against the windows."""
    figures = []
    if any(run.factors for run in runs):
        figures.append(_lambda_figure(runs))
    if any(run.rope for run in runs):
        figures.append(_wavelength_figure(runs))
    words = tuple(titled(runs, run, _tell_factors(run)) for run in runs if run.factors)
    words += tuple(titled(runs, run, _tell_scan(run.scan)) for run in runs if run.scan)
    tables = tuple(_attention_table(runs, run) for run in runs if run.factors or run.rope)
    return Section("factors", "Rescale factors", "factors need `longrope search`", words, tuple(figures), tables)


def _tell_factors(run: Contents) -> str:
    words = [
        f"{found.source.label}: attention factor {found.attention_factor:.4f}, start tokens: "
        f"{found.start_tokens}, fingerprint {found.fingerprint}."
        for found in run.factors
    ]
    return " ".join(words)


def _tell_scan(scan: dict[str, Any]) -> str:
    """The two numbers of the scan, its cost, and whether it ended on the edge of its grid."""
    edges = " and the ".join(scan["edges"])
    return (
        f"The scan of base and attention factor took {scan['passes']} window passes of a budget of {scan['budget']}: "
        f"base {scan['theta']:,.0f} (theta times s to the power of {scan['exponent']:.4g}), attention factor "
        f"{scan['attention_factor']:.4f}."
        + (f" It is unfinished: the best {edges} lies on the edge of the grid." if edges else "")
    )


def _attention_table(runs: Sequence[Contents], run: Contents) -> ScoreTable:
    """The attention factor of each method: how it is chosen, and its value at the target window."""
    named = {row["method"]: (row["formula"], row["attention_factor"]) for row in (run.rope or {}).get("methods", ())}
    rows = [(label_of(name), formula, number(value)) for name, (formula, value) in named.items()]
    for found in run.factors:
        row = registry.METHODS.get(found.method)
        rows.append((found.source.label, row.attention if row else "", number(found.attention_factor)))
    header = ("method", "attention factor", f"at {run.rope['target_window']:,} tokens" if run.rope else "value")
    return ScoreTable(titled(runs, run, "Attention factors"), header, tuple(rows))


def _lambda_figure(runs: Sequence[Contents]) -> Figure:
    found: list[tuple[int, Source, tuple[float, ...]]] = []
    for i, run in enumerate(runs):
        pairs = run.rope["pairs"] if run.rope else []
        known = [name for name in registry.formulas() if pairs and all(name in pair for pair in pairs)]
        curves: dict[tuple[float, ...], str] = {}  # of equal ones, such as NTK and dynamic NTK here, the first
        for name in known:
            curves.setdefault(tuple(pair[name] for pair in pairs), name)
        found += [(i, Source(name), curve) for curve, name in curves.items()]
        found += [(i, factors.source, factors.lambdas) for factors in run.factors]
    note = "The angles of a pair are divided by its factor: 1 leaves them unchanged."
    ropes = [run.rope for run in runs if run.rope]
    if ropes:
        note += " From the critical pair on, pairs do not complete a rotation within the trained window."
    if len(ropes) < len(runs):
        note += " Where a run directory has no rope.json, the baselines are not shown."
    turning = dict.fromkeys(r["pairs_that_turn_fully"] for r in ropes if r["pairs_that_turn_fully"] < len(r["pairs"]))
    rules = tuple(Rule("x", pair, "critical pair") for pair in turning)
    return _pairs_figure(runs, "Rescale factor of each pair", note, found, "rescale factor λ", rules)


def _wavelength_figure(runs: Sequence[Contents]) -> Figure:
    ropes = [(i, run.rope) for i, run in enumerate(runs) if run.rope]
    reached = (max(run.rope["target_window"], run.reached_tokens) for run in runs if run.rope)
    found = [(i, Source("none"), tuple(pair["wavelength_tokens"] for pair in rope["pairs"])) for i, rope in ropes]
    windows = dict.fromkeys(("trained window", rope["trained_window"]) for _, rope in ropes)
    windows |= dict.fromkeys(("window reached", tokens) for tokens in reached)
    rules = tuple(Rule("y", tokens, f"{name}, {tokens:,} tokens") for name, tokens in windows)
    note = "A pair above the line of the trained window has not completed a rotation in training."
    return _pairs_figure(runs, "Wavelength of each pair", note, found, "tokens per rotation", rules)


def _pairs_figure(
    runs: Sequence[Contents],
    title: str,
    note: str,
    found: Sequence[tuple[int, Source, tuple[float, ...]]],
    label: str,
    rules: tuple[Rule, ...],
) -> Figure:
    """One value for each pair, of each method."""
    series: list[Series] = []
    data: list[tuple[object, ...]] = []
    for name, style, values in merged(runs, found):
        points = tuple(Point(i, value, len(data) + i) for i, value in enumerate(values))
        series.append(Series(name, style, points))
        data += [(name, i, value) for i, value in enumerate(values)]
    ends = [*(value for *_, values in found for value in values), *(rule.value for rule in rules if rule.axis == "y")]
    x = linear_axis(range(max(len(values) for *_, values in found)), "pair, the fastest first", tight=True, whole=True)
    chart = LineChart(x, log_axis(ends, label), tuple(series), rules)
    return make_figure(title, title, note, partial(draw_one, chart), (("method", "pair", label), data))
