"""RULER and needles by ``measure`` and by the command line, interrupted and refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measuring import answer_prompts
from ruler_prompts import hub_rows, measure_ruler, squad, text_of
from typer.testing import CliRunner

from longrope.cli import app
from longrope.cli.options import overridden
from longrope.data import TokenText
from longrope.errors import RecipeError, TextsError
from longrope.evaluation import answers, measure
from longrope.evaluation.answers import Answer
from longrope.evaluation.prompts.prompt import Prompt
from longrope.metrics import RULER_TASKS
from longrope.models import LanguageModel, load_model
from longrope.recipe import MeasureRecipe, Recipe
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir

SETTINGS = MeasureRecipe(lengths=(1600,), metrics=("needle", "ruler"), windows=2, needles=10, ruler_prompts=2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answers are right by turns, without a model; the list grows by one for each prompt that is answered."""
    answered: list[str] = []

    def answer(_: object, prompt: Prompt) -> list[Answer]:
        answered.append(str(len(prompt.text)))
        return [Answer("", float((len(answered) + i) % 3 == 0), 30) for i in range(len(prompt.questions))]

    answer_prompts(monkeypatch, answer)
    return answered


def test_measuring_gives_every_task_their_mean_and_the_map(
    model: LanguageModel, quick: list[str], tmp_path: Path
) -> None:
    text, run = text_of(model.tokenizer, 3200), RunDir(tmp_path)
    settings = replace(SETTINGS, lengths=(3200, 1600))
    scores = measure(model, None, text, settings=settings, run=run, seed=2)
    tasks = [f"ruler-{task}" for task in RULER_TASKS if task != "qa"]
    depths = [f"needle-depth-0.{5 + 10 * i:02}" for i in range(10)]
    expected = ["needle", *depths, *tasks, "ruler"]
    assert [(s.context_tokens, s.metric) for s in scores] == [(n, m) for n in (1600, 3200) for m in expected]
    for length in (1600, 3200):
        own = {score.metric: score for score in scores if score.context_tokens == length}
        assert own["ruler"].value == pytest.approx(np.mean([own[task].value for task in tasks]))
        assert own["needle"].value == pytest.approx(np.mean([own[depth].value for depth in depths]))
    assert sorted(map(repr, read_records(run.scores, Score))) == sorted(map(repr, scores))
    count = len(quick)
    assert measure(model, None, text, settings=settings, run=run, seed=2) == scores
    assert len(quick) == count
    measure(model, None, text, settings=settings, run=run, seed=3)
    assert len(quick) == 2 * count


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({"ruler_prompts": 3}, 33),
        ({"needles": 11}, 2),
        ({"windows": 3}, 22),  # the first window stays, and ten needles stand in that one
        ({"lengths": (1601,)}, 23),
        ({"metrics": ("ruler-vt", "needle", "ruler")}, 0),
    ],
)
def test_what_other_settings_would_ask_is_asked(
    change: dict[str, Any], asked: int, model: LanguageModel, quick: list[str], tmp_path: Path
) -> None:
    """Only what stays the same is taken from the run."""
    text, run = text_of(model.tokenizer, 3200), RunDir(tmp_path)
    measure(model, None, text, settings=SETTINGS, run=run)
    assert len(quick) == 23
    assert len(measure(model, None, text, settings=replace(SETTINGS, **change), run=run)) == 23
    assert len(quick) == 23 + asked


@pytest.mark.parametrize("before", [0, 1, 5, 22])
def test_an_interruption_loses_the_task_in_hand_at_most(
    before: int, model: LanguageModel, quick: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, run = text_of(model.tokenizer, 3200), RunDir(tmp_path)
    settings, right = replace(SETTINGS, metrics=("ruler",)), answers.answer_prompt

    def interrupted(*given: Any) -> list[Answer]:
        if len(quick) == before:
            raise KeyboardInterrupt
        return right(*given)

    answer_prompts(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt) if before < 22 else pytest.MonkeyPatch.context():
        measure(model, None, text, settings=settings, run=run)
    answer_prompts(monkeypatch, right)
    measure(model, None, text, settings=settings, run=run)
    assert len(quick) == 22 + before % 2
    written = [score.metric for score in read_records(run.scores, Score)]
    assert sorted(written) == sorted(["ruler", *(f"ruler-{task}" for task in RULER_TASKS if task != "qa")])


def test_a_file_of_questions_adds_their_task(model: LanguageModel, quick: list[str], tmp_path: Path) -> None:
    path, text, run = tmp_path / "squad.json", text_of(model.tokenizer, 3200), RunDir(tmp_path / "run")
    path.write_text(json.dumps(squad()))
    settings = replace(SETTINGS, metrics=("ruler",), qa_data=str(path))
    assert [score.metric for score in measure(model, None, text, settings=settings, run=run)][-2:] == [
        "ruler-qa",
        "ruler",
    ]
    before = len(quick)
    path.write_text(json.dumps(squad()).replace("Ulla", "Olla"))
    measure(model, None, text, settings=settings, run=run)
    assert len(quick) == before + 2
    with pytest.raises(RecipeError, match="qa_data"):
        replace(settings, metrics=("ruler-qa",), qa_data="")


def test_a_length_that_is_too_short_is_refused_before_anything_is_asked(
    model: LanguageModel, quick: list[str], tmp_path: Path
) -> None:
    text = text_of(model.tokenizer, 3200)
    for metric in ("needle", "ruler-cwe"):
        settings = replace(SETTINGS, lengths=(40,), metrics=(metric,))
        with pytest.raises(TextsError, match=f"A prompt of 40 tokens was asked for {metric}"):
            measure(model, None, text, settings=settings)
    assert quick == []


def test_the_command_measures_needles_and_tasks(
    pico_folder: Path, text_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """By a random model, which finds nothing, with factors' own lengths and a file of questions."""
    (tmp_path / "squad.json").write_text(json.dumps([*hub_rows() * 4]))
    given = ["measure", str(pico_folder), "--data", str(text_folders[0]), "--lengths", "600", "--json"]
    asked = ["--metrics", "needle,ruler-niah_single_1,ruler-qa", "--qa-data", str(tmp_path / "squad.json")]
    done = CliRunner().invoke(app, given + asked)
    assert done.exit_code == 0, done.output
    scores = [Score(**line) for line in json.loads(done.stdout)]
    assert [score.metric for score in scores if "depth" not in score.metric] == asked[1].split(",")
    assert {score.value for score in scores} == {0.0}
    assert {(score.num_windows) for score in scores if "depth" not in score.metric} == {20}


def test_questions_that_no_metric_asks_are_refused(pico_folder: Path, text_folders: tuple[Path, Path]) -> None:
    """By the command; a recipe that has them can be run for other metrics."""
    given = ["measure", str(pico_folder), "--data", str(text_folders[0]), "--lengths", "600", "--qa-data", "squad.json"]
    done = CliRunner().invoke(app, [*given, "--metrics", "needle"])
    assert isinstance(done.exception, RecipeError)
    assert "None of these metrics asks its questions" in str(done.exception)
    asked = MeasureRecipe(metrics=("ruler",), qa_data="squad.json")
    before = Recipe("nano", 512, ("texts",), measure=asked)
    assert overridden(before, {"metrics": "needle"}).measure == replace(asked, metrics=("needle",))


def test_the_nano_model_finds_single_needles_inside_its_window() -> None:
    """20 of 20 in repeated lines, as measured; it has seen none of these sentences."""
    nano = load_model("nano", device="cpu", dtype="float32")
    text = TokenText(np.zeros(1000, np.int32), "measure")
    score = measure_ruler(nano, text, text.windows(256, 1), "niah_single_1", 256, MeasureRecipe())
    assert score.num_windows == 20
    assert score.value >= 0.9
