"""What a finished run holds, to compare an interrupted run with a whole one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from longrope.exports import hf
from longrope.pipeline import export_costs, exporting
from longrope.recipe import Recipe
from longrope.rope import RescaleFactors, dump_factors
from longrope.runs.records import Score, Trial, read_records
from longrope.runs.run_dir import RunDir

METHODS = ("gradient", "evolution")
FORMULAS = ("pi", "ntk", "ntk-critical", "dynamic-ntk", "yarn", "critical", "critical-real")
SCAN, LONGROPE2, GRADIENT = "ntk-scan", "longrope2", "longrope-gradient"
TARGET = 256


class InterruptError(Exception):
    """What stands in for a killed process."""


@dataclass
class Countdown:
    """Raise at the call of this number."""

    calls_left: int
    counts: Callable[..., bool] = lambda *_, **__: True

    def __call__(self, *args: Any, **options: Any) -> None:
        """Count down, raise at nought."""
        self.calls_left -= self.counts(*args, **options)
        if self.calls_left == 0:
            raise InterruptError


def appends_scores(_path: Path, records: Sequence[object]) -> bool:
    """Whether a call of ``append_records`` is of scores, for a countdown."""
    return isinstance(records[0], Score)


def by_method(recipe: Recipe, method: str) -> Recipe:
    """The recipe with this search."""
    return replace(recipe, search=replace(recipe.search, method=method))


@dataclass(frozen=True)
class Outcome:
    """What a finished run holds, without its wall clock."""

    factors: bytes
    trials: list[Trial]
    scores: set[str]
    report: dict[str, Any]
    config: dict[str, Any]


def outcome(run: RunDir) -> Outcome:
    """Read a finished run."""
    assert not list(run.path.glob("*.partial"))
    return Outcome(
        run.factors().read_bytes(),
        [replace(trial, seconds=0.0) for trial in read_records(run.trials, Trial)],
        written_scores(read_records(run.scores, Score)),
        json.loads(run.export_report.read_text()),
        json.loads((run.checkpoint / "config.json").read_text()),
    )


def written_scores(scores: list[Score]) -> set[str]:
    """Every distinct score as it is printed, without its wall clock."""
    return {json.dumps(asdict(replace(score, seconds=0.0))) for score in scores}


def leave_unopened(patch: pytest.MonkeyPatch) -> None:
    """Let checkpoints be written without being opened in processes of their own, which takes seconds."""
    patch.setattr(hf, "compare_logits", lambda *_: [(0.0, 0.0), (0.0, 0.0)])
    patch.setattr(exporting, "verify_export", lambda *_: [])
    patch.setattr(export_costs, "quick_clients", lambda *_: ())


def keep_search(run: RunDir, recipe: Recipe, found: RescaleFactors) -> None:
    """Let a run hold what its gradient search has found, as a search that was made before leaves it."""
    run.bind(recipe)
    run.write_text(run.factors(GRADIENT), dump_factors(found))


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a file that somebody else is writing."""
    return path.read_bytes().split(b"\n")[:-1] if path.exists() else []
