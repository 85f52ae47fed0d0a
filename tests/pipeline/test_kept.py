"""What a run says it has kept when it is started again, and what its estimate counts of the original model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pico
import pytest
from outcomes import TARGET, Countdown, InterruptError, leave_unopened

from longrope.data import load_texts
from longrope.evaluation import Evaluation
from longrope.evaluation.metric import Reading, Subject
from longrope.pipeline import Callbacks, comparison_costs, extend, search
from longrope.pipeline.comparison_costs import Measured, estimate_methods
from longrope.pipeline.session import Session
from longrope.recipe import MeasureRecipe, Recipe, SearchRecipe, Stage, TuneRecipe
from longrope.runs.run_dir import RunDir


def started(run: Callable[..., object], recipe: Recipe, folder: Path, callbacks: Callbacks | None = None) -> list[str]:
    """The lines about what is kept, of a start that may be interrupted."""
    lines: list[str] = []
    given = replace(callbacks or Callbacks(), on_step=lines.append)
    try:
        run(recipe, RunDir(folder), given)
    except InterruptError:
        lines.append("interrupted")
    return [line for line in lines if line.startswith(("kept", "interrupted"))]


def test_trials_of_an_interrupted_search_are_counted(recipe: Recipe, tmp_path: Path) -> None:
    first = started(search, recipe, tmp_path, Callbacks(on_trial=Countdown(7)))
    assert first == ["interrupted"]
    assert started(search, recipe, tmp_path)[0] == "kept from an earlier start: 7 trials"


def test_steps_of_an_interrupted_training_and_scores_are_counted(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_unopened(monkeypatch)
    small = replace(
        recipe,
        search=SearchRecipe(method="critical", validation_windows=1),
        stages=(Stage(search=TARGET), Stage(tune=TARGET), Stage(short=64)),
        tune=TuneRecipe(steps=5, batch_windows=1, warmup_steps=1, checkpoint_every=1),
        measure=MeasureRecipe(
            lengths=(64, TARGET), windows=1, metrics=("perplexity",), tail_tokens=0, original_tokens=64
        ),
    )
    assert started(extend, small, tmp_path, Callbacks(on_train=Countdown(3))) == ["interrupted"]
    assert started(extend, small, tmp_path) == [
        f"kept from an earlier start: search {TARGET} (done); tune {TARGET}: 3 of 5 steps; original model at 64"
    ]
    [again] = started(extend, small, tmp_path)
    assert f"tune {TARGET} (done); short-context search 64 (done); original model at 64; " in again


def test_an_original_that_is_measured_in_part_is_estimated_so(
    recipe: Recipe, text_folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the original the passes up to its limit, of the others all; by a limit the estimate of others stays."""
    model = pico.make_model()
    texts = load_texts((), model.tokenizer, measure=[text_folders[1]])
    session = Session(recipe, RunDir(tmp_path), model, texts)
    taken: list[list[Sequence[Reading]]] = []

    def note(*_: object, methods: Sequence[Measured], **__: object) -> list[object]:
        taken.append([method.readings for method in methods])
        return []

    monkeypatch.setattr(comparison_costs, "estimate_comparison", note)
    for limit in (0, 64):
        settings = MeasureRecipe(lengths=(64, 256), windows=1, metrics=("perplexity",), original_tokens=limit)
        evaluation = Evaluation(texts.measure, settings, Subject(model, None, "none"))
        estimate_methods(session, evaluation, ["none", "yarn"], ())
    whole = [Reading("losses", 64, 4, beside=4), Reading("losses", 256, 1)]
    assert taken == [[whole, whole], [whole[:1], whole]]
