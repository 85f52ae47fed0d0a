"""The same last tokens with near, far, shuffled and replaced context: by hand from whole logits, paired by token."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pico
import pytest
from intervals import document_interval
from measuring import brute_losses, compared, make_context, no_passes, scores_of

from longrope.data import TokenText
from longrope.errors import RecipeError, TextsError
from longrope.evaluation import Evaluation, find_metric, measure
from longrope.evaluation.far_context import replaced, shuffled
from longrope.evaluation.metric import Context, Subject
from longrope.labels import compared_with, metric_label
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.report import score_tables
from longrope.rope import baseline_factors

WINDOW, LONG = pico.WINDOW, 160


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """A pico model of one layer with a window of 64 tokens."""
    return pico.make_model(num_hidden_layers=1)


def twelve(bos: int | None) -> TokenText:
    """Twelve documents of random tokens, each as long as a window of 160 without the opening token."""
    size = LONG - (bos is not None)
    tokens = np.random.default_rng(5).integers(1, 300, 12 * size).astype(np.int32)
    return TokenText(tokens, "measure", bos, np.arange(12) * size)


def context_of(model: LanguageModel, bos: int | None = None, length: int = LONG, **settings: Any) -> Context:
    """The original model on the twelve windows, each of them one document."""
    text = twelve(bos)
    context = make_context(model, None, text.windows(LONG, 12), length, text=text, **settings)
    return replace(context, documents=text.numbered().windows(LONG, 12))


@pytest.mark.parametrize("bos", [None, 7])
def test_the_same_tokens_are_scored_with_each_context(bos: int | None, model: LanguageModel) -> None:
    """The window of 64 that ends each text, 96 and all 160, opened alike; ratios are paired by document."""
    text = twelve(bos)
    opening = [] if bos is None else [bos]
    body = text.tokens.reshape(12, -1)
    losses = {
        n: brute_losses(model, None, [[*opening, *row[len(row) - n + len(opening) :]] for row in body])[:, -63:]
        for n in (WINDOW, 96, LONG)
    }
    for length in (96, LONG):
        found = {s.metric: s for s in scores_of("far-context", context_of(model, bos, length, tail_tokens=10))}
        assert list(found) == ["last-tokens-63", "far-context", "far-context-last-10", "far-context-original"]
        far, near = losses[length], losses[WINDOW]
        documents = np.repeat(np.arange(12)[:, None], 63, 1)
        assert found["last-tokens-63"].value == pytest.approx(math.exp(far.mean()), rel=1e-5)
        for metric, cut in {"far-context": 63, "far-context-original": 63, "far-context-last-10": 10}.items():
            difference = (far - near)[:, -cut:]
            assert found[metric].value == pytest.approx(math.exp(difference.mean()), rel=1e-5)
            ends = document_interval(difference, documents[:, -cut:], 0)
            assert (found[metric].low, found[metric].high) == pytest.approx(ends, rel=1e-5)
            assert (found[metric].resampled, found[metric].num_tokens) == ("documents", 12 * cut)


def test_within_the_trained_window_there_is_no_far_context(model: LanguageModel) -> None:
    """At the window itself the near perplexity alone, below it nothing."""
    metric = find_metric("far-context")
    assert metric.names(context_of(model, length=WINDOW)) == ("last-tokens-63",)
    assert metric.names(context_of(model, length=32)) == ()
    (score,) = scores_of("far-context", context_of(model, length=WINDOW))
    near = brute_losses(model, None, twelve(None).tokens.reshape(12, -1)[:, -WINDOW:])
    assert score.value == pytest.approx(math.exp(near.mean()), rel=1e-5)


def test_fewer_tokens_are_scored_where_asked(model: LanguageModel) -> None:
    """They are another measurement, with a name and an identity of its own."""
    context = context_of(model, last_tokens=20)
    first, *_ = scores_of("far-context", context)
    assert (first.metric, first.num_tokens) == ("last-tokens-20", 240)
    metric = find_metric("far-context")
    assert not metric.identity(context).is_same(metric.identity(context_of(model)))


def test_the_original_models_near_reading_is_compared_with(model: LanguageModel) -> None:
    """Factors change both readings of the method, and not that of the original."""
    table = baseline_factors(model.spec, "pi", LONG)
    context = replace(context_of(model), subject=Subject(model, table, "pi"))
    found = {score.metric: score.value for score in scores_of("far-context", context)}
    body = twelve(None).tokens.reshape(12, -1)
    far = brute_losses(model, table.choose(LONG), body)[:, -63:].mean()
    near = brute_losses(model, table.choose(WINDOW), body[:, -WINDOW:]).mean()
    before = brute_losses(model, None, body[:, -WINDOW:]).mean()
    assert found["far-context"] == pytest.approx(math.exp(far - near), rel=1e-5)
    assert found["far-context-original"] == pytest.approx(math.exp(far - before), rel=1e-5)


def test_two_methods_are_compared_on_the_last_tokens(model: LanguageModel) -> None:
    text = twelve(None)
    settings = MeasureRecipe(lengths=(WINDOW, LONG), metrics=("far-context",), windows=12, tail_tokens=0)
    evaluation = Evaluation(text, settings, Subject(model, None, "none"))
    table = baseline_factors(model.spec, "pi", LONG)
    (score,) = evaluation.compare(Subject(model, table, "pi"), evaluation.original)
    body = text.tokens.reshape(12, -1)
    difference = (brute_losses(model, table.choose(LONG), body) - brute_losses(model, None, body))[:, -63:]
    assert (score.metric, compared_with(score.metric)) == ("last-tokens-ratio-to-none", "none")
    assert score.value == pytest.approx(math.exp(difference.mean()), rel=1e-5)
    assert metric_label(score.metric) == "Perplexity of the last tokens relative to original model"
    context = context_of(model)
    assert compared("far-context", replace(context, subject=Subject(model, table, "pi")), context).value == score.value


@pytest.mark.parametrize("bos", [None, 7])
def test_shuffling_keeps_the_near_context_and_every_token_of_the_far(bos: int | None) -> None:
    """Pieces of an eighth, or of 512 tokens, each found whole and elsewhere; the opening token stays."""
    opening = int(bos is not None)
    for length, near, size in ((LONG, 64, 12), (6000, 64, 512)):
        windows = np.arange(2 * length, dtype=np.int32).reshape(2, length)
        changed = shuffled(windows, windows, near, opening=bool(opening), seed=3)
        last = length - near + opening
        assert (changed[:, :opening] == windows[:, :opening]).all()
        assert (changed[:, last:] == windows[:, last:]).all()
        assert (np.sort(changed, axis=1) == windows).all()
        breaks = (np.diff(changed[:, opening:last]) != 1).sum(1)
        pieces = -(-(last - opening) // size)
        assert (breaks >= pieces // 2).all()
        assert (breaks < pieces).all()
        assert (changed[0] + length != changed[1]).any()  # each window in an order of its own
        assert (shuffled(windows, windows, near, opening=bool(opening), seed=3) == changed).all()


@pytest.mark.parametrize("opening", [False, True])
def test_far_context_is_replaced_by_that_of_another_document(opening: bool) -> None:
    windows = np.arange(4 * LONG, dtype=np.int32).reshape(4, LONG)
    documents = np.repeat([[0], [0], [1], [1]], LONG, axis=1)
    documents[:, 0] = 0  # an opening token counts to document 0
    if not opening:
        documents[:, 0] = documents[:, 1]
    changed = replaced(windows, documents, 64, opening=opening, seed=0)
    last = LONG - 64 + opening
    assert (changed[:, last:] == windows[:, last:]).all()
    assert (changed[:, :last] == windows[[2, 2, 0, 0], :last]).all()
    documents[1, -1] = 1  # a window of both
    for shared in (np.zeros_like(documents), documents):
        with pytest.raises(TextsError, match="shares a document with every other"):
            replaced(windows, shared, 64, opening=opening, seed=0)
    with pytest.raises(TextsError, match="window 1 of 1"):
        replaced(windows[:1], documents[:1], 64, opening=opening, seed=0)


def test_windows_of_one_document_are_refused_by_an_estimate_before_anything_is_read(model: LanguageModel) -> None:
    """And shuffled far context of them is measured."""
    context = replace(context_of(model), documents=np.zeros((12, LONG), np.int32))
    with no_passes(), pytest.raises(TextsError, match="shares a document"):
        find_metric("far-replaced").readings(context)
    assert len(find_metric("far-shuffled").readings(context)) == 2


@pytest.mark.parametrize("name", ["far-shuffled", "far-replaced"])
def test_a_control_is_the_ratio_to_another_far_context(name: str, model: LanguageModel) -> None:
    context = context_of(model)
    ratio, perplexity = scores_of(name, context)
    change = shuffled if name == "far-shuffled" else replaced
    changed = change(context.windows, context.documents, WINDOW, opening=False, seed=0)
    own, other = (brute_losses(model, None, tokens)[:, -63:] for tokens in (context.windows, changed))
    assert (ratio.metric, perplexity.metric) == (name, f"{name}-perplexity")
    assert ratio.value == pytest.approx(math.exp((own - other).mean()), rel=1e-5)
    assert perplexity.value == pytest.approx(math.exp(other.mean()), rel=1e-5)
    assert ratio.low <= ratio.value <= ratio.high
    assert find_metric(name).names(context_of(model, length=WINDOW)) == ()


def test_lengths_within_the_trained_window_are_refused(model: LanguageModel) -> None:
    settings = MeasureRecipe(lengths=(32, WINDOW), metrics=("far-shuffled",))
    with pytest.raises(RecipeError, match="beyond the model's own window of 64"):
        measure(model, None, twelve(None), settings=settings)


def test_a_pass_over_whole_windows_is_shared_with_perplexity(model: LanguageModel) -> None:
    """The four metrics together push the windows three times, and the near context once; tables show all."""
    names = ("perplexity", "far-context", "far-shuffled", "far-replaced")
    settings = MeasureRecipe(lengths=(LONG,), metrics=names, windows=12, tail_tokens=0)
    pushed = []
    hook = model.network.get_input_embeddings().register_forward_pre_hook(lambda _, x: pushed.append(x[0].numel()))
    scores = measure(model, None, twelve(None), settings=settings)
    hook.remove()
    assert sum(pushed) == 12 * (3 * LONG + WINDOW)
    assert len(score_tables(scores)) == len(scores) == 1 + 3 + 2 + 2
