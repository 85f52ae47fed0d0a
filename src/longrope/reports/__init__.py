"""The report of a run directory: one HTML page that needs nothing else. It shows what the records say."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from longrope.factors import RescaleFactors, load_factors
from longrope.records import Score, read_records
from longrope.rundir import RunDir


@dataclass(frozen=True)
class ScoreTable:
    """One metric of several methods: a column for each context window, or for each depth of a needle."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def score_tables(scores: Sequence[Score]) -> list[ScoreTable]:
    """A table for each metric, with a row for each method and an interval in each cell."""
    metrics = dict.fromkeys(score.metric for score in scores if "depth" not in score.metric)
    tables = []
    for metric in metrics:
        own = [score for score in scores if score.metric == metric]
        lengths = sorted({score.context_tokens for score in own})
        cells = {(score.method, score.context_tokens): _cell(score) for score in own}
        header = ("method", *(f"{length:,} tokens" for length in lengths))
        tables.append(ScoreTable(f"{metric} (95 % interval)", header, _rows(own, cells, lengths)))
    return tables + _depth_tables(scores)


def _depth_tables(scores: Sequence[Score]) -> list[ScoreTable]:
    """For the longest context window, the share of passkeys, and of needles, found at each depth."""
    tables = []
    for kind in ("passkey", "needle"):
        keys = [score for score in scores if score.metric.startswith(f"{kind}-depth-")]
        longest = max((score.context_tokens for score in keys), default=0)
        keys = [score for score in keys if score.context_tokens == longest]
        depths = sorted({score.metric for score in keys})
        cells = {(score.method, score.metric): f"{score.value:.0%}" for score in keys}
        header = ("method", *(depth.removeprefix(f"{kind}-depth-") for depth in depths))
        if keys:
            tables.append(ScoreTable(f"{kind} at {longest:,} tokens, by depth", header, _rows(keys, cells, depths)))
    return tables


def _rows(scores: Sequence[Score], cells: dict, columns: Sequence) -> tuple[tuple[str, ...], ...]:  # type: ignore[type-arg]
    methods = dict.fromkeys(score.method for score in scores)
    return tuple((method, *(cells.get((method, column), "") for column in columns)) for method in methods)


def _cell(score: Score) -> str:
    if score.metric.startswith(("passkey", "needle", "ruler")):
        return f"{score.value:.0%} ({score.low:.0%}-{score.high:.0%})"
    if score.metric.startswith("difference-to-"):
        return f"{score.value:+.0%} ({score.low:+.0%} to {score.high:+.0%})"
    return f"{score.value:.4g} ({score.low:.4g}-{score.high:.4g})"


def write_report(run: RunDir) -> Path:
    """Write ``report.html`` from what the run directory holds so far, and return its path."""
    recipe = run.recipe()
    path = run.path / "report.html"
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    run.write_text(
        path,
        page.render(
            recipe=recipe,
            recipe_text=(run.path / "recipe.toml").read_text(encoding="utf-8"),
            tables=score_tables(read_records(run.scores, Score)),
            factors=_found(run),
            export=json.loads(run.export_report.read_text(encoding="utf-8")) if run.export_report.exists() else None,
        ),
    )
    return path


def _found(run: RunDir) -> list[RescaleFactors]:
    """The factors that each search of the run has found."""
    return [load_factors(path).tiers[0] for path in sorted(run.path.glob("factors-*.json"))]
