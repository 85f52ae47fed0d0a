"""The whole progressive run on the bundled model, to 64 times its window or, without LONGROPE_FULL=1, to 16 times."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from intervals import block_interval, perplexity

from longrope.data import load_texts
from longrope.evaluation import measure
from longrope.evaluation.statistics import Losses
from longrope.models import load_model
from longrope.pipeline import extend
from longrope.recipe import Recipe, load_recipe
from longrope.rope import load_factors
from longrope.runs.records import Score, TrainStep, read_records
from longrope.runs.run_dir import RunDir

RECIPE = Path(__file__).parent.parent / "recipes" / "nano-16k.toml"
SHORTER, FEWER_STEPS = 4096, 6


def make_smaller(recipe: Recipe) -> Recipe:
    """A run of a minute: a quarter of the window, six steps of each training, short searches."""
    stages = tuple(replace(stage, steps=FEWER_STEPS) if stage.tune else stage for stage in recipe.stages)
    stages = tuple(replace(stage, extrapolate=SHORTER) if stage.extrapolate else stage for stage in stages)
    search = replace(recipe.search, validation_windows=1, gradient=replace(recipe.search.gradient, steps=4))
    measure = replace(recipe.measure, lengths=(256, SHORTER), windows=2)
    return replace(recipe, target_tokens=SHORTER, stages=stages, search=search, measure=measure)


def losses_of(run: RunDir, score: Score) -> Losses:
    """The losses in nats [W, N - 1] that a run has kept of a perplexity."""
    kept = [np.load(path)["losses"].astype(np.float64) for path in run.path.rglob("losses-*.npz")]
    (found,) = [x for x in kept if x.size == score.num_tokens and perplexity(x) == pytest.approx(score.value, rel=1e-9)]
    return np.asarray(found)


def differences(far: Losses, short: Losses) -> Losses:
    """How much more a token costs in a long window than in a short one, of tokens that are scored in both."""
    windows, length = len(far), short.shape[1] + 1
    whole = np.concatenate([np.full((windows, 1), np.nan), far], axis=1)
    return (whole.reshape(windows, -1, length)[:, :, 1:] - short.reshape(windows, -1, length - 1)).reshape(windows, -1)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_the_bundled_model_reaches_many_times_its_window(tmp_path: Path) -> None:
    """There it reads like the original at 256 tokens, where the original is lost; at 256 it has lost little."""
    run, recipe = RunDir(tmp_path / "run"), load_recipe(RECIPE)
    full = os.environ.get("LONGROPE_FULL") == "1"
    recipe = recipe if full else make_smaller(recipe)
    target = recipe.target_tokens
    scores = extend(recipe, run)
    values = {(score.metric, score.method, score.context_tokens): score for score in scores}
    start, end = values["perplexity", "none", 256], values["perplexity", "longrope-tuned", target]
    more = differences(losses_of(run, end), losses_of(run, start))
    assert perplexity(more) == pytest.approx(end.value / start.value, rel=0.01)  # but for the first token of windows
    low, high = block_interval(more, seed=0)
    assert high <= (1 if full else 1.25), (
        f"{low:.3f} to {high:.3f} of the original's perplexity at 256, paired by token"
    )
    assert values["perplexity", "none", target].value > 10 * start.value  # where the original is lost
    assert values["ratio-to-none", "longrope-tuned", 256].value < (1.01 if full else 1.03)
    assert [factors.target_window for factors in load_factors(run.factors()).factor_sets] == [256, target]
    folders = sorted(run.stages.iterdir())
    assert [path.name.split("-")[1] for path in folders] == [stage.recorded_kind for stage in recipe.stages]
    for stage, folder in zip(recipe.stages, folders, strict=True):
        losses = [step.loss_nats for step in read_records(folder / "train.jsonl", TrainStep)]
        assert len(losses) == stage.steps
        if full:  # windows of a few steps differ more than the steps change
            assert sum(losses[-4:]) <= sum(losses[:4])
    original = load_model("nano", device="cpu")
    text = load_texts(recipe.data, original.tokenizer).measure
    settings = replace(recipe.measure, lengths=(target,), metrics=("perplexity",), tail_tokens=0)
    (untrained,) = measure(original, load_factors(run.factors()), text, settings=settings)
    assert untrained.texts_fingerprint == end.texts_fingerprint
    assert end.value < untrained.value  # what the trainings bring, by the same factors on the same tokens
