"""One protocol of callbacks: what is called when, several together, logging by default, and a tracker."""

import json
import logging
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

import longrope
from longrope.errors import RecipeError
from longrope.pipeline import extend, together, tracking
from longrope.pipeline.callbacks import Callbacks
from longrope.recipe import MeasureRecipe, Recipe
from longrope.runs.records import Score, TrainStep, Trial, read_records
from longrope.runs.run_dir import RunDir

STEP = TrainStep(4, 2.5, 64, 320, 1e-4, 0.5, 1.0, 64.0, 0.0, 0.0, "abc")


@pytest.fixture
def short(recipe: Recipe) -> Recipe:
    """Three steps of a search, and one window measured."""
    search = replace(recipe.search, gradient=replace(recipe.search.gradient, steps=2, validate_every=2))
    measure = MeasureRecipe(metrics=("perplexity",), windows=1, tail_tokens=0, baselines=("yarn",))
    return replace(recipe, search=search, measure=measure)


@pytest.mark.usefixtures("unopened")
def test_every_trial_and_score_is_passed_on(short: Recipe, tmp_path: Path) -> None:
    """To each of several, in their order, and equal to the records of the run."""
    trials, scores, order = list[Trial](), list[Score](), list[str]()
    first = Callbacks(lambda _: order.append("first"), lambda _: None, lambda _: None, scores.extend)
    second = Callbacks(trials.append, lambda _: None, lambda _: None, lambda _: order.append("second"))
    run = RunDir(tmp_path / "run")
    returned = extend(short, run, together((first, second)))
    assert trials == read_records(run.trials, Trial)
    assert scores == returned
    assert order.count("first") == len(trials) > 0
    assert order.count("second") == 4  # the original, YaRN, what was found, and its comparison with YaRN


@pytest.mark.usefixtures("unopened")
def test_without_callbacks_the_standard_library_logs(
    short: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages at INFO, numbers at DEBUG, under the name of the package."""
    with caplog.at_level(logging.DEBUG, "longrope"):
        scores = extend(short, RunDir(tmp_path / "run"))
    lines = {(record.levelname, record.getMessage()) for record in caplog.records if record.name == "longrope"}
    assert ("INFO", f"load {short.model}") in lines
    assert any(level == "DEBUG" and "step 0, loss" in text for level, text in lines)
    found = [f"{x.source.label} {x.metric} at {x.context_tokens} tokens: {x.value:.6g}" for x in scores]
    assert {("DEBUG", text) for text in found} <= lines


def test_now_and_then_a_search_and_a_training_are_heard_of_at_the_usual_level(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a notebook that shows INFO sees that they go on; here with no time between two lines."""
    trial = Trial("yarn", "m", "t", 1, "search", "yarn", (1.0,), 0, 1.0, 3.5, 8, 8, 0.1)
    with caplog.at_level(logging.INFO, "longrope"):
        soon = Callbacks()
        soon.on_trial(trial)
        soon.on_train(STEP)
        assert caplog.messages == []
        monkeypatch.setattr("longrope.pipeline.progress.QUIET_SECONDS", 0.0)
        soon.on_trial(trial)
        soon.on_train(STEP)
    assert caplog.messages == ["yarn: step 1, loss 3.5000 nats", "training: step 5, loss 2.5000 nats"]


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(RecipeError, match="trackio"), tracking("trackoi", "project", {}):
        pass


def test_callbacks_are_public() -> None:
    assert longrope.Callbacks is Callbacks


def test_trackio_keeps_the_numbers_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read back from its database; nothing is printed where results go."""
    pytest.importorskip("trackio")
    utils = pytest.importorskip("trackio.sqlite_storage")
    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trial = Trial("yarn", "m", "t", 1, "search", "yarn", (1.0,), 0, 1.0, 3.5, 8, 8, 0.1)
    with tracking("trackio", "pico", {"seed": 7}) as callbacks:
        callbacks.on_trial(trial)
        callbacks.on_train(STEP)
    assert capsys.readouterr().out == ""
    (database,) = tmp_path.glob("**/*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select metrics from metrics order by id").fetchall()
        (settings,) = connection.execute("select config from configs").fetchall()
    logged = [json.loads(row[0]) for row in rows]
    assert logged[0] == {"search/yarn/search/loss_nats": 3.5}
    assert logged[1]["training/loss_nats"] == 2.5
    assert logged[1]["training/tokens_seen"] == 320
    assert json.loads(settings[0])["seed"] == 7
