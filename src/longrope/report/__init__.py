"""The report of a run directory, or of several beside each other: one HTML page that needs nothing else.

It shows what the records say: every number on it stands in the run directory. The one sum that it makes is how many
tokens a search has pushed up to each of its trials.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from longrope.errors import printable
from longrope.report.contents import Contents, read_run
from longrope.report.palette import figure_style
from longrope.report.sections import all_sections, facts_of, tell_run
from longrope.report.tables import ScoreTable, score_tables
from longrope.runs.files import make_folder
from longrope.runs.run_dir import RunDir
from longrope.verdict import conclude, describe_verdict

__all__ = ["ScoreTable", "describe_outcome", "score_tables", "write_comparison", "write_report"]

DIRECTIONS = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # marks that turn round what follows


def describe_outcome(run: RunDir) -> str:
    """The verdict of a run in one sentence, which its page begins with; empty where nothing can be compared."""
    return _describe(read_run(run)) if run.scores.exists() else ""


def _describe(contents: Contents) -> str:
    verdict = conclude(contents.scores, contents.export, own=contents.by_formula)
    return describe_verdict(verdict) if verdict else ""


def write_report(run: RunDir, path: str | Path | None = None) -> Path:
    """Write the page of a run from what its directory holds so far.

    Args:
        run: the run directory (raises RunError if it holds no run).
        path: where to; by default ``report.html`` in the directory.

    Returns:
        The path of the page.
    """
    return _write(run, Path(path or run.path / "report.html"), [read_run(run)])


def write_comparison(runs: Sequence[RunDir], path: str | Path | None = None) -> Path:
    """Write one page of several runs, the same figures with all of them.

    Args:
        runs: the run directories (raises RunError if one holds no run).
        path: where to; by default ``comparison.html`` in the current directory.

    Returns:
        The path of the page.
    """
    contents = [read_run(run) for run in runs]
    if len({each.name for each in contents}) < len(contents):
        contents = [replace(each, name=os.fspath(run.path)) for each, run in zip(contents, runs, strict=True)]
    return _write(runs[0], Path(path or "comparison.html"), contents)


def _write(run: RunDir, path: Path, contents: Sequence[Contents]) -> Path:
    make_folder(path.parent, linked=True)
    run.write_text(path, DIRECTIONS.sub(lambda mark: printable(mark[0]), _render(contents)))
    return path


def _render(runs: Sequence[Contents]) -> str:
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        _asset("page.html.j2")
    )
    sections = all_sections(runs)
    return page.render(
        runs=[(run, _describe(run), tell_run(run, named=len(runs) > 1), facts_of(run)) for run in runs],
        sections=[section for section in sections if not section.is_empty],
        missing=[section.needs for section in sections if section.is_empty and section.needs],
        style=Markup(figure_style() + _asset("page.css")),  # noqa: S704  # our own files
        script=Markup(_asset("page.js")),  # noqa: S704
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
