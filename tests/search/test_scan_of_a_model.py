"""The scan of base and attention factor, on a pico model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from longrope.data import TokenText
from longrope.errors import FactorsError
from longrope.models import LanguageModel
from longrope.recipe import GradientRecipe, SearchRecipe
from longrope.rope import load_factors
from longrope.runs.records import Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.search import find_factors, scan_base
from longrope.search.longrope2 import search_longrope2


@pytest.mark.parametrize("steps", [GradientRecipe().steps, 40])
def test_a_scan_costs_about_what_the_gradient_search_costs(steps: int, model: LanguageModel, text: TokenText) -> None:
    """By the tokens of the trials of both, within a third."""
    passes, settings = list[float](), SearchRecipe(gradient=GradientRecipe(steps=steps))
    for search in (find_factors, scan_base):
        made: list[Trial] = []
        search(model, text, 128, settings=settings, on_trial=made.append)
        passes.append(sum(trial.token_passes for trial in made) / 128)
    assert passes[1] == pytest.approx(passes[0], rel=1 / 3)


def test_a_scan_of_a_model_leaves_its_factors_trials_and_cost(
    model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    run, lines = RunDir(tmp_path), list[str]()
    settings = SearchRecipe(validation_windows=1)
    given: dict[str, Any] = {"run": run, "settings": settings, "seed": 3, "passes": 90, "on_message": lines.append}
    found = scan_base(model, text, 256, **given)
    assert load_factors(run.factors("ntk-scan")).factor_sets == (found,)
    assert found.chosen_by == "ntk-scan"
    assert found.searched
    found.check_spec(model.spec)
    trials = read_records(run.trials, Trial)
    assert {trial.origin for trial in trials} == {"ntk", "ntk-critical", "grid", "refined", "finalist"}
    held_out = {trial.loss_nats: trial for trial in trials if trial.kind == "validation"}
    best = held_out[min(held_out)]
    assert (best.lambdas, best.attention_factor) == (found.lambdas, found.attention_factor)
    messages = json.loads(run.scan.read_text())
    counted = [trial.token_passes for trial in trials if trial.kind not in ("tail", "tail-alone", "needles")]
    assert messages["passes"] == sum(counted) / 256 <= messages["budget"] == 90
    assert (messages["factors"], messages["attention_factor"]) == (found.fingerprint, found.attention_factor)
    last = model.spec.num_pairs - 1
    ratio = 256 / model.spec.trained_window
    assert found.lambdas[last] == pytest.approx(ratio ** (messages["exponent"] * last / model.spec.num_pairs))
    assert len(lines) == 1
    assert f"{messages['passes']} window passes of a budget of 90" in lines[0]
    assert scan_base(model, text, 256, **given) == found
    assert len(read_records(run.trials, Trial)) == len(trials)


def test_a_window_within_the_trained_one_is_refused(model: LanguageModel, text: TokenText) -> None:
    with pytest.raises(FactorsError, match="longer target"):
        scan_base(model, text, model.spec.trained_window)


@pytest.mark.parametrize("search", [scan_base, search_longrope2])
def test_factors_keep_the_name_of_the_rotary_table(search: Any, model: LanguageModel, text: TokenText) -> None:
    (table,) = model.tables
    named = replace(model, rope_table=table.name)
    settings = SearchRecipe(validation_windows=1, gradient=GradientRecipe(steps=2), method="yarn", attention_factor=1.1)
    assert search(named, text, 128, settings=settings).table == table.name


def test_a_scan_reads_as_many_windows_as_are_asked_for_whatever_the_steps(
    model: LanguageModel, text: TokenText
) -> None:
    settings, made = SearchRecipe(gradient=GradientRecipe(steps=2, scan_windows=8)), list[Trial]()
    find_factors(model, text, 128, settings=settings, on_trial=made.append)
    assert {trial.token_passes // 128 for trial in made if trial.origin == "scan" and trial.kind == "search"} == {8}
