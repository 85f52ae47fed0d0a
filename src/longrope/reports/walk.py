"""The sections of how a run came about: its factors, its searches, its training, its stages, cost, and provenance."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

from longrope import registry
from longrope.labels import Source, label_of
from longrope.records import TrainStep, Trial
from longrope.reports.contents import Contents, Stage
from longrope.reports.lines import LineChart, Point, Rule, Series
from longrope.reports.palette import Style, style_of
from longrope.reports.parts import Data, Figure, Section, draw_one, make_figure, merged, thinned, titled
from longrope.reports.rows import Row, RowChart, draw_rows
from longrope.reports.svg import linear_axis, log_axis
from longrope.reports.tables import ScoreTable, number

KINDS = {"search": ("trials", "small"), "gradient": ("steps", "thin"), "validation": ("held out", "ring")}
NAMED_ELSEWHERE = ("stage", "kind", "window", "settings")  # in a stage's name, and in the recipe
TOKENS = "tokens pushed through the model so far"
TRIAL_HEADER = (
    *("search", "kind", "origin", "step", "loss, nats"),
    *(TOKENS, "start tokens", "attention factor", "seconds"),
)
Pushed = Sequence[tuple[Trial, int]]


def stage_section(runs: Sequence[Contents]) -> Section:
    """The stages of a staged run: how long each took, and its own curves."""
    figures: list[Figure] = []
    for run in runs:
        done = [stage for stage in run.stages if stage.marker]
        if done:
            figures.append(_stage_bars(runs, run, done))
        for stage in run.stages:
            figures += _stage_curves(runs, run, stage)
    tables = [_stage_table(runs, run) for run in runs if run.stages]
    words = ("The run went up in stages; each began with what the one before it left.",)
    return Section("stages", "Stages", "stages come with a staged run", words, tuple(figures), tuple(tables))


def _stage_bars(runs: Sequence[Contents], run: Contents, stages: Sequence[Stage]) -> Figure:
    made = [(_stage_name(stage), (stage.marker or {}).get("seconds", 0.0)) for stage in stages]
    styles = [style_of("longrope-tuned" if stage.train else "longrope-gradient") for stage in stages]
    rows = [
        Row(name, style, seconds, i, f"{number(round(seconds, 1))} s")
        for i, ((name, seconds), style) in enumerate(zip(made, styles, strict=True))
    ]
    chart = RowChart(linear_axis([0.0, *(row.value for row in rows)], "seconds", tight=True), tuple(rows))
    title = titled(runs, run, "Seconds of each stage")
    return make_figure(title, title, "", partial(draw_rows, chart, description=title), (("stage", "seconds"), made))


def _stage_curves(runs: Sequence[Contents], run: Contents, stage: Stage) -> Iterator[Figure]:
    name = titled(runs, run, _stage_name(stage))
    if stage.trials:
        yield _trials_figure([run], f"{name}: the search", [stage.trials])
    if stage.train:
        yield _train_figure([run], f"{name}: the training", [stage.train])


def _stage_table(runs: Sequence[Contents], run: Contents) -> ScoreTable:
    rows = []
    for stage in run.stages:
        marker = stage.marker or {}
        told = {name: value for name, value in marker.get("inputs", {}).items() if name not in NAMED_ELSEWHERE}
        inputs = ", ".join(f"{name} {value}" for name, value in told.items())
        seconds = number(marker["seconds"]) if "seconds" in marker else "not finished"
        made = [str(marker.get(name) or "as before") if marker else "" for name in ("factors", "weights")]
        rows.append((_stage_name(stage), seconds, *made, inputs))
    return ScoreTable(titled(runs, run, "The stages"), ("stage", "seconds", "factors", "weights", "from"), tuple(rows))


def _stage_name(stage: Stage) -> str:
    return str((stage.marker or {}).get("stage", stage.name))


def factor_section(runs: Sequence[Contents]) -> Section:
    """Rescale factors against the pair index beside the closed forms, and the wavelengths against the windows."""
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
    told = [
        f"{found.source.label}: attention factor {found.attention_factor:.4f}, start tokens left alone: "
        f"{found.start_tokens}, fingerprint {found.fingerprint}."
        for found in run.factors
    ]
    return " ".join(told)


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
        known = [name for name in registry.formulas() if pairs and name in pairs[0]]
        curves: dict[tuple[float, ...], str] = {}  # of equal ones, such as NTK and dynamic NTK here, the first
        for name in known:
            curves.setdefault(tuple(pair[name] for pair in pairs), name)
        found += [(i, Source(name), curve) for curve, name in curves.items()]
        found += [(i, factors.source, factors.lambdas) for factors in run.factors]
    note = "The angles of a pair are divided by its factor: 1 leaves it as it is."
    ropes = [run.rope for run in runs if run.rope]
    if ropes:
        note += " From the critical pair on, pairs never make a whole turn within the trained window."
    if len(ropes) < len(runs):
        note += " Where a run directory has no rope.json, the closed forms are not shown."
    turning = dict.fromkeys(r["pairs_that_turn_fully"] for r in ropes if r["pairs_that_turn_fully"] < len(r["pairs"]))
    rules = tuple(Rule("x", pair, "critical pair") for pair in turning)
    return _pairs_figure(runs, "Rescale factor of each pair", note, found, "rescale factor λ", rules)


def _wavelength_figure(runs: Sequence[Contents]) -> Figure:
    ropes = [(i, run.rope) for i, run in enumerate(runs) if run.rope]
    found = [(i, Source("none"), tuple(pair["wavelength_tokens"] for pair in rope["pairs"])) for i, rope in ropes]
    windows = dict.fromkeys(("trained window", rope["trained_window"]) for _, rope in ropes)
    windows |= dict.fromkeys(("window reached", rope["target_window"]) for _, rope in ropes)
    rules = tuple(Rule("y", tokens, f"{name}, {tokens:,} tokens") for name, tokens in windows)
    note = "A pair above the trained window's line has never made a whole turn in training."
    return _pairs_figure(runs, "Wavelength of each pair", note, found, "tokens of one whole turn", rules)


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
    x = linear_axis(range(max(len(values) for *_, values in found)), "pair, the fastest first", tight=True)
    chart = LineChart(x, log_axis(ends, label), tuple(series), rules)
    return make_figure(title, title, note, partial(draw_one, chart), (("method", "pair", label), data))


def search_section(runs: Sequence[Contents]) -> Section:
    """Every trial of every search, and the held-out losses of what it found."""
    trials = [run.trials for run in runs]
    figures = []
    if any(trials):
        figures.append(_trials_figure(runs, "Every trial", trials))
    if any(_is_found(trial) for own in trials for trial in own):
        figures.append(_validation_figure(runs, "What was found, on held-out windows", trials))
    words = ("What is minimised, against the tokens that a search has pushed through the model. Lower is better.",)
    shown = any(stage.trials for run in runs for stage in run.stages)
    needs = "" if shown else "the search needs trials.jsonl: `longrope search`"
    return Section("search", "Search", needs, words, tuple(figures))


def _is_found(trial: Trial) -> bool:
    return trial.kind == "validation" and trial.origin not in (*registry.formulas(), "start-tokens")


def _searches(runs: Sequence[Contents], trials: Sequence[Sequence[Trial]]) -> Iterator[tuple[str, Style, Pushed]]:
    """Each search of each run: its trials with the tokens that it has pushed when they end."""
    found = [
        (i, Source(method), tuple(trial for trial in own if trial.method == method))
        for i, own in enumerate(trials)
        for method in dict.fromkeys(trial.method for trial in own)
    ]
    for label, style, own in merged(runs, found):
        yield label, style, list(zip(own, accumulate(trial.token_passes for trial in own), strict=True))


def _trials_figure(runs: Sequence[Contents], title: str, trials: Sequence[Sequence[Trial]]) -> Figure:
    """Search trials faint, the steps of a descent as a line, held-out trials outstanding."""
    note = "Rings are trials on held-out windows, which choose the best; the starting points are among them."
    series: list[Series] = []
    data: list[tuple[object, ...]] = []
    for label, style, pushed in _searches(runs, trials):
        shown, left_out = thinned(pushed)
        note += left_out
        for kind, (name, drawn) in KINDS.items():
            own = enumerate(shown, len(data))
            points = tuple(Point(at, trial.loss_nats, i) for i, (trial, at) in own if trial.kind == kind)
            if points:
                series.append(Series(f"{label}: {name}", replace(style, dash=""), points, drawn))
        data += _trial_rows(label, shown)
    return _losses_figure(title, note, series, (TRIAL_HEADER, data))


def _validation_figure(runs: Sequence[Contents], title: str, trials: Sequence[Sequence[Trial]]) -> Figure:
    series: list[Series] = []
    data: list[tuple[object, ...]] = []
    for label, style, pushed in _searches(runs, trials):
        shown = [(trial, at) for trial, at in pushed if _is_found(trial)]
        points = tuple(Point(at, trial.loss_nats, i) for i, (trial, at) in enumerate(shown, len(data)))
        series += [Series(label, style, points)] if points else []
        data += _trial_rows(label, shown)
    note = "The same held-out trials alone, without the closed forms that a search starts from."
    return _losses_figure(title, note, series, (TRIAL_HEADER, data))


def _trial_rows(label: str, shown: Pushed) -> list[tuple[object, ...]]:
    return [
        (label, t.kind, t.origin, t.step, t.loss_nats, at, t.start_tokens, t.attention_factor, t.seconds)
        for t, at in shown
    ]


def _losses_figure(title: str, note: str, series: Sequence[Series], data: Data, x_label: str = TOKENS) -> Figure:
    points = [point for one in series for point in one.points]
    x = linear_axis([0, *(point.x for point in points)], x_label, tight=True)
    chart = LineChart(x, log_axis((point.y for point in points), "loss in nats per token"), tuple(series))
    return make_figure(title, title, note, partial(draw_one, chart), data)


def training_section(runs: Sequence[Contents]) -> Section:
    """The loss of every training step."""
    words = (
        "The mean loss per token of each step's batch, by the weights before the step.",
        "Where answers about needles have a weight, they are in it.",
    )
    trained = [run.train for run in runs]
    figures = (_train_figure(runs, "Training", trained),) if any(trained) else ()
    needs = "" if any(run.is_trained for run in runs) else "training needs train.jsonl: `longrope tune`"
    return Section("training", "Training", needs, words, figures)


def _train_figure(runs: Sequence[Contents], title: str, trained: Sequence[tuple[TrainStep, ...]]) -> Figure:
    series: list[Series] = []
    data: list[tuple[object, ...]] = []
    note = ""
    for label, style, steps in merged(runs, [(i, Source("training"), own) for i, own in enumerate(trained) if own]):
        shown, left_out = thinned(steps)
        note += left_out
        points = tuple(Point(step.tokens_seen, step.loss_nats, i) for i, step in enumerate(shown, len(data)))
        series.append(Series(label, style, points))
        data += [
            (label, s.step, s.loss_nats, s.tokens_seen, s.learning_rate, s.gradient_norm, s.seconds) for s in shown
        ]
    header = ("", "step", "loss, nats", "tokens seen", "learning rate", "gradient norm", "seconds")
    return _losses_figure(title, note.strip(), series, (header, data), "tokens seen")
