"""Trained weights have a name of their own: what is known of the weights before is not taken for theirs."""

from dataclasses import replace
from pathlib import Path

import pico
import pytest
import sweep
from trainings import QUICK, TEXT, make_factors

from longrope.data import TokenText
from longrope.evaluation import measure
from longrope.exports import export_hf
from longrope.recipe import GradientRecipe, MeasureRecipe, SearchRecipe
from longrope.runs.run_dir import RunDir
from longrope.search import find_factors
from longrope.tuning import fine_tune

OTHER = TokenText(TEXT.tokens[::-1].copy(), "measure")


def test_scores_and_trials_of_the_weights_before_are_not_those_of_trained_ones(tmp_path: Path) -> None:
    run, model = RunDir(tmp_path / "run"), pico.make_model()
    factors, settings = make_factors(model), MeasureRecipe(lengths=(64,), metrics=("perplexity",), windows=2)
    search = SearchRecipe(gradient=GradientRecipe(steps=1, scan_windows=1), validation_windows=1, needle_weight=0.0)
    (before,) = measure(model, factors, OTHER, settings=settings, run=run)
    find_factors(model, replace(TEXT, name="search"), 256, run=run, settings=search)
    tuned = fine_tune(model, factors, TEXT, settings=QUICK)
    (after,) = measure(tuned, factors, OTHER, settings=settings, run=run)
    assert (after,) == tuple(
        replace(one, seconds=after.seconds) for one in measure(tuned, factors, OTHER, settings=settings)
    )
    assert after.value != before.value
    with pytest.raises(Exception, match="another search"):
        find_factors(tuned, replace(TEXT, name="search"), 256, run=run, settings=search)
    short = replace(factors, start_tokens=0)
    export_hf(tuned, short, tmp_path / "hf", reopen=sweep.reopen_here)
    assert "trained further on long texts" in (tmp_path / "hf" / "README.md").read_text()


def test_the_name_is_decided_by_the_training() -> None:
    names = [fine_tune(pico.make_model(), None, TEXT, settings=QUICK, seed=seed).name for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert {name.partition(",")[0] for name in names} == {pico.make_model().name}
