"""The sections of what a search tried and of how a training went, and their figures."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, compress

from longrope.labels import Source
from longrope.report.charts.axes import linear_axis, log_axis
from longrope.report.charts.lines import LineChart, Point, Series
from longrope.report.charts.style import Style
from longrope.report.contents import Contents
from longrope.report.parts import Data, Figure, Section, draw_one, make_figure, merged, thinned
from longrope.runs.records import TrainStep, Trial, made_by_search

KINDS = {"search": ("trials", "small"), "gradient": ("steps", "thin"), "validation": ("held out", "ring")}
TOKENS = "tokens pushed through the model so far"
TRIAL_HEADER = (
    *("search", "kind", "origin", "step", "loss, nats"),
    *(TOKENS, "start tokens", "attention factor", "seconds"),
)
Pushed = Sequence[tuple[Trial, int]]


def search_section(runs: Sequence[Contents]) -> Section:
    """Every trial of every search, and the held-out losses of what it found."""
    trials = [run.trials for run in runs]
    figures = []
    if any(trials):
        figures.append(trials_figure(runs, "Every trial", trials))
    if any(any(made_by_search([trial for trial, _ in pushed])) for _, _, pushed in _searches(runs, trials)):
        figures.append(_validation_figure(runs, "What was found, on held-out windows", trials))
    words = ("What is minimised, against the tokens that a search has pushed through the model. Lower is better.",)
    shown = any(stage.trials for run in runs for stage in run.stages)
    needs = "" if shown else "the search needs trials.jsonl: `longrope search`"
    return Section("search", "Search", needs, words, tuple(figures))


def _searches(runs: Sequence[Contents], trials: Sequence[Sequence[Trial]]) -> Iterator[tuple[str, Style, Pushed]]:
    """Each search of each run: its trials with the tokens that it has pushed when they end."""
    found = [
        (i, Source(method), tuple(trial for trial in own if trial.method == method))
        for i, own in enumerate(trials)
        for method in dict.fromkeys(trial.method for trial in own)
    ]
    for label, style, own in merged(runs, found):
        yield label, style, list(zip(own, accumulate(trial.token_passes for trial in own), strict=True))


def trials_figure(runs: Sequence[Contents], title: str, trials: Sequence[Sequence[Trial]]) -> Figure:
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
        shown = list(compress(pushed, made_by_search([trial for trial, _ in pushed])))
        points = tuple(Point(at, trial.loss_nats, i) for i, (trial, at) in enumerate(shown, len(data)))
        series += [Series(label, style, points)] if points else []
        data += _trial_rows(label, shown)
    note = "The same held-out trials alone, without the baselines that a search starts from."
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
        "If answers about needles have a weight, the loss includes them.",
    )
    trained = [run.train for run in runs]
    figures = (train_figure(runs, "Training", trained),) if any(trained) else ()
    needs = "" if any(run.is_trained for run in runs) else "training needs train.jsonl: `longrope tune`"
    return Section("training", "Training", needs, words, figures)


def train_figure(runs: Sequence[Contents], title: str, trained: Sequence[tuple[TrainStep, ...]]) -> Figure:
    """The loss of each step of one training for each run, empty where a run has none."""
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
