"""Runs whose factors a formula gives, as the method of the search or of a stage: what they found are its scores."""

from dataclasses import replace
from pathlib import Path

import pytest

from longrope.recipe import Recipe, SearchRecipe, Stage
from longrope.report import describe_outcome
from longrope.report.contents import read_run
from longrope.runs.records import Score, append_records
from longrope.runs.run_dir import RunDir

SCORE = Score("perplexity", 5.0, 4.9, 5.1, "ntk", 256, 100, 3, 0, "pico", "texts", "f", 1.0)
SCORES = [SCORE, replace(SCORE, method="yarn", value=6.0, low=5.9, high=6.1)]


@pytest.mark.parametrize(
    "asked",
    [{"search": SearchRecipe(method="ntk")}, {"stages": (Stage(search=256, method="ntk"),)}],
    ids=["search", "stage"],
)
def test_the_verdict_is_of_the_formula(asked: dict[str, object], tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.bind(Recipe("m", 256, ("d",), **asked))  # type: ignore[arg-type]
    append_records(run.scores, SCORES)
    contents = read_run(run)
    assert contents.by_formula == (SCORE,)
    assert "At 256 tokens, NTK against the best baseline, YaRN: NTK is ahead" in describe_outcome(run)
    trained = replace(contents, tuned=True)
    assert trained.by_formula is None, "what a training made has a name of its own"
