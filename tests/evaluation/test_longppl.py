"""LongPPL: the published arithmetic, key tokens by a loop over single tokens, and one evaluator for all methods."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from measuring import brute_losses, compared, make_context, no_passes, scores_of

from longrope.data import TokenText
from longrope.errors import ModelError, RecipeError, TextsError
from longrope.evaluation import find_metric
from longrope.evaluation.longppl import key_tokens, near_losses
from longrope.evaluation.metric import Context, Subject
from longrope.evaluation.samples import Identity, SampleCache, Samples
from longrope.labels import Source, compared_with, metric_label
from longrope.models import LanguageModel, load_model
from longrope.recipe import MeasureRecipe
from longrope.rope import as_table, baseline_factors, dump_factors, load_factors

LENGTH, NEAR = 160, 64
IDENTITY = Identity(Source("ours"), LENGTH, 0, "model", "texts", "")


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return pico.make_model(num_hidden_layers=1)


def samples_of(whole: list[float], near: list[float], losses: list[float]) -> Samples:
    arrays = {"whole": np.array([whole]), "near": np.array([near]), "losses": np.array([losses])}
    documents = np.arange(len(whole))[None]
    return Samples(IDENTITY, arrays | {"documents": documents, "evaluator": np.asarray("big")}, 1.0)


def test_the_arithmetic_is_that_of_the_authors_code() -> None:
    """Of three tokens the first alone is key: the second is too unlikely with the whole text, and so is the third."""
    whole, near = [0.5, 2.2, 2.5], [3.0, 2.6, 5.0]
    assert key_tokens(np.array(whole), np.array(near)).tolist() == [True, False, False]
    (score,) = find_metric("longppl").scores(samples_of(whole, near, whole), MeasureRecipe())
    assert (score.metric, score.num_tokens) == ("longppl-by-big", 1)
    assert score.value == pytest.approx(1.64872, abs=1e-5)
    assert math.exp(np.mean(whole)) == pytest.approx(5.65949, abs=1e-5)  # the perplexity of all


def test_both_borders_are_strict() -> None:
    assert key_tokens(np.array([1.0, 2.0, 1.0]), np.array([3.0, 9.0, 3.0 + 1e-9])).tolist() == [False, False, True]


def test_without_key_tokens_there_is_no_score() -> None:
    samples = samples_of([0.5, 0.5], [1.0, 1.0], [1.0, 1.0])
    for work in (
        lambda: find_metric("longppl").scores(samples, MeasureRecipe()),
        lambda: find_metric("longppl").compare(samples, samples),
    ):
        with pytest.raises(TextsError, match="none of 2 tokens is key"):
            work()


def context_of(model: LanguageModel, bos: int | None = None, length: int = LENGTH, **settings: Any) -> Context:
    """Six windows of one document each, the evaluator the model itself."""
    size = length - (bos is not None)
    tokens = np.random.default_rng(1).integers(1, 300, 6 * size).astype(np.int32)
    text = TokenText(tokens, "measure", bos, np.arange(6) * size)
    given: dict[str, Any] = {"evaluator": model.name, "longppl_near": NEAR} | settings
    context = make_context(model, None, text.windows(length, 6), text=text, **given)
    return replace(context, documents=text.numbered().windows(length, 6))


@pytest.mark.parametrize("bos", [None, 7])
@pytest.mark.parametrize("length", [160, 165])
def test_near_context_is_that_of_windows_which_begin_at_each_quarter(
    bos: int | None, length: int, model: LanguageModel
) -> None:
    """Token by token: the context of each is 64 tokens and the rest of its quarter, opened as every text is."""
    context = context_of(model, bos, length)
    found, _ = near_losses(context, NEAR)
    opening = [] if bos is None else [bos]
    body = context.windows[:2, len(opening) :]
    assert found.shape == (6, body.shape[1] - NEAR)
    last_start = body.shape[1] - NEAR - NEAR // 4
    for row in range(2):
        for t in range(NEAR, body.shape[1], 7):
            start = min((t - NEAR) // 16 * 16, last_start)
            read = [*opening, *body[row, start : t + 1]]
            assert found[row, t - NEAR] == pytest.approx(brute_losses(model, None, [read])[0, -1], rel=1e-4)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Every ninth token from the last one is key, whatever the evaluator says."""
    keys = np.zeros((6, LENGTH - NEAR), bool)
    keys[:, ::-9] = True

    def chosen(whole: np.ndarray, near: np.ndarray) -> np.ndarray:
        assert whole.shape == near.shape
        return keys[:, keys.shape[1] - near.shape[1] :]

    monkeypatch.setattr("longrope.evaluation.longppl.key_tokens", chosen)
    return keys


@pytest.mark.parametrize("bos", [None, 7])
def test_a_method_is_scored_on_the_evaluators_tokens(
    bos: int | None, model: LanguageModel, planted: np.ndarray
) -> None:
    """And two methods on the same ones."""
    context, planted = context_of(model, bos), planted[:, int(bos is not None) :]
    table = baseline_factors(model.spec, "pi", LENGTH)
    ours = replace(context, subject=Subject(model, table, "pi"))
    losses = {
        name: brute_losses(model, factors, context.windows)[:, -planted.shape[1] :][planted]
        for name, factors in (("pi", table.choose(LENGTH)), ("none", None))
    }
    (score,) = scores_of("longppl", ours)
    assert score.value == pytest.approx(math.exp(losses["pi"].mean()), rel=1e-5)
    assert (score.num_tokens, score.num_windows, score.resampled) == (planted.sum(), 6, "documents")
    assert score.low < score.value < score.high
    assert metric_label(score.metric) == "LongPPL, key tokens by pico-llama"
    ratio = compared("longppl", ours, context)
    assert ratio.value == pytest.approx(math.exp((losses["pi"] - losses["none"]).mean()), rel=1e-5)
    assert (ratio.metric, compared_with(ratio.metric)) == ("longppl-ratio-to-none", "none")


def test_the_evaluator_reads_once_for_all_methods(model: LanguageModel, planted: np.ndarray, tmp_path: Path) -> None:
    """Its factors are in the name; with others it is another score, and nothing is read twice."""
    del planted
    path = tmp_path / "factors.json"
    table = as_table(baseline_factors(model.spec, "yarn", LENGTH))
    path.write_text(dump_factors(table))
    context = replace(context_of(model, evaluator_factors=str(path)), cache=SampleCache())
    (first,) = scores_of("longppl", context)
    assert first.metric == f"longppl-by-pico-llama+{table.fingerprint}"
    with no_passes():
        (same,) = scores_of("longppl", replace(context, subject=Subject(model, table, "yarn")))
    assert same.metric == first.metric
    metric = find_metric("longppl")
    assert not metric.identity(context).is_same(metric.identity(context_of(model)))


def test_an_evaluator_with_another_vocabulary_is_refused(model: LanguageModel, pico_folder: Path) -> None:
    """The pico folder has the same one, and reads by its own weights."""
    context = context_of(model, evaluator=str(pico_folder))
    metric = find_metric("longppl")
    assert (metric.samples(context).arrays["whole"] != metric.samples(context_of(model)).arrays["whole"]).any()
    other = replace(model, tokenizer=pico.make_unigram(["the river turns the mill"] * 9, 40))
    with pytest.raises(ModelError, match="another vocabulary"):
        metric.samples(replace(context, subject=Subject(other, None, "none")))


def test_it_is_scored_at_the_longest_length_alone_and_needs_an_evaluator(model: LanguageModel) -> None:
    metric, context = find_metric("longppl"), context_of(model)
    assert metric.names(replace(context, lengths=(80, LENGTH), length=80)) == ()
    assert metric.names(context_of(model, longppl_near=LENGTH)) == ()
    with pytest.raises(RecipeError, match=r"measure\.evaluator"):
        MeasureRecipe(metrics=("longppl",))


def test_the_evaluator_of_a_tuned_model_serves_the_window_that_was_stated(pico_folder: Path, tmp_path: Path) -> None:
    """Its factors are for that window, and those of the config's are refused."""
    original = load_model(pico_folder, device="cpu", dtype="float32", trained_window=80)
    path = tmp_path / "factors.json"
    path.write_text(dump_factors(as_table(baseline_factors(original.spec, "yarn", LENGTH))))
    tuned = replace(original, name=f"{original.name}, tuned 0")
    context = context_of(tuned, evaluator=original.name, evaluator_factors=str(path))
    context = replace(context, original=Subject(original, None, "none", at_hand=False))
    whole = find_metric("longppl").samples(context).arrays["whole"]
    expected = brute_losses(original, as_table(load_factors(path)).choose(LENGTH), context.windows)
    assert np.allclose(whole, expected[:, -whole.shape[1] :], rtol=1e-4)


@pytest.mark.parametrize("length", [NEAR + 2, NEAR + 5, NEAR + NEAR // 4, NEAR + NEAR // 4 + 1, NEAR + 30])
def test_texts_little_longer_than_the_near_context(length: int, model: LanguageModel, text: TokenText) -> None:
    """Each token has the near context before it, or up to a quarter more."""
    windows = text.windows(length, 2)
    losses, _ = near_losses(make_context(model, None, windows, method="none"), NEAR)
    assert losses.shape == (2, length - NEAR)
    step = min(NEAR // 4, length - NEAR)
    last = brute_losses(model, None, windows[:, -NEAR - step :])[:, -step:]
    np.testing.assert_allclose(
        losses[:, -min(step, (length - NEAR) % step or step) :],
        last[:, -min(step, (length - NEAR) % step or step) :],
        rtol=1e-4,
        atol=1e-5,
    )
