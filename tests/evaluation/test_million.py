"""What few passes over windows of millions of tokens give: loss by position, tails, passkeys that share a text."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pico
import pytest
from measuring import Passes, brute_losses, compared, make_context, scores_of
from ruler_prompts import TOKENIZERS, every_tokenizer

from longrope.data import TokenText
from longrope.engine.passes import greedy_answers
from longrope.errors import RecipeError, TextsError
from longrope.evaluation import find_metric, measure
from longrope.evaluation.metric import Context
from longrope.evaluation.prompts.many_passkeys import COLOURS, MOST, THINGS, build_many_passkeys
from longrope.labels import metric_label
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.rope import baseline_factors

LENGTH = 900


@pytest.fixture(scope="module")
def small() -> LanguageModel:
    """A pico model of one layer."""
    return pico.make_model(num_hidden_layers=1)


# Positions and tails


def test_loss_by_position_is_that_of_one_pass(model: LanguageModel, text: TokenText, passes: Passes) -> None:
    """Lengths that double: every token of the longest window from 16 on is scored once, by the pass of the prefixes."""
    settings = MeasureRecipe(lengths=(32, 64, 128), windows=3, metrics=("prefix-perplexity", "position-perplexity"))
    scores = measure(model, None, text, settings=settings)
    assert passes.tokens == 3 * 128
    losses = brute_losses(model, None, text.windows(128, 3))  # entry n is that of token n + 1
    found = [score for score in scores if score.metric == "position-perplexity"]
    for score, length in zip(found, (32, 64, 128), strict=True):
        own = losses[:, length // 2 - 1 : length - 1]
        assert (score.context_tokens, score.num_tokens) == (length, own.size)
        assert score.value == pytest.approx(math.exp(own.mean()), rel=1e-5)


def test_tails_beside_the_tail(model: LanguageModel, text: TokenText) -> None:
    settings = MeasureRecipe(lengths=(128,), windows=3, tail_tokens=20, tails=(50, 5, 127), metrics=("perplexity",))
    scores = {score.metric: score for score in measure(model, None, text, settings=settings)}
    assert set(scores) == {"perplexity", *(f"perplexity-last-{tail}" for tail in (20, 50, 5))}
    losses = brute_losses(model, None, text.windows(128, 3))
    for tail in (20, 50, 5):
        expected = math.exp(losses[:, -tail:].mean())
        assert scores[f"perplexity-last-{tail}"].value == pytest.approx(expected, rel=1e-5)


def test_the_last_tokens_are_compared_with_the_original_over_tails(small: LanguageModel) -> None:
    """With near context alone: by the original model, and by the model with factors."""
    tokens = np.random.default_rng(5).integers(1, 300, 6 * 160).astype(np.int32)
    windows = tokens.reshape(6, 160)
    table = baseline_factors(small.spec, "yarn", 160)
    context = make_context(small, table, windows, tail_tokens=10, tails=(30, 4), method="yarn")
    found = {score.metric: score for score in scores_of("far-context", context)}
    assert tuple(found) == find_metric("far-context").names(context)
    far, near = (brute_losses(small, table.choose(n), windows[:, -n:])[:, -63:] for n in (160, 64))
    original = brute_losses(small, None, windows[:, -64:])
    for tail in (30, 4):
        for name, other in {"far-context": near, "far-context-original": original}.items():
            expected = math.exp((far - other)[:, -tail:].mean())
            assert found[f"{name}-last-{tail}"].value == pytest.approx(expected, rel=1e-5)
    assert "far-context-original-last-10" not in found
    assert metric_label("far-context-original-last-4096").startswith("The same over the last 4,096 tokens, relative")


# Passkeys that share a text


@every_tokenizer
def test_every_passkey_stands_in_its_text_at_its_depth(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    texts = build_many_passkeys(tokenizer, 2 * LENGTH, 12, seed=3, per_text=5)
    assert [len(text.needles) for text in texts] == [5, 5, 2]
    depths = [needle.depth for text in texts for needle in text.needles]
    assert depths == pytest.approx([(i % 10 + 0.5) / 10 for i in range(12)])
    for text in texts:
        assert len(text.tokens) + max(len(needle.tokens) for needle in text.needles) == 2 * LENGTH
        whole = [str(tokenizer.decode([token])) for token in text.tokens]
        answers = ["".join(map(str, needle.tokens[-needle.answer_tokens :])) for needle in text.needles]
        assert len(set(answers)) == len(answers)
        for needle in text.needles:
            key = [str(tokenizer.decode([token])) for token in needle.tokens[-needle.answer_tokens :]]
            places = [i for i in range(len(whole)) if whole[i : i + len(key)] == key]
            assert len(places) == 2, "a sentence says it twice"
            assert places[0] / len(whole) == pytest.approx(needle.depth, abs=0.2)  # other keys stand before it


def test_a_hundred_fit_into_one_text_and_each_is_of_its_own() -> None:
    (text,) = build_many_passkeys(TOKENIZERS["byte-level"], 12000, MOST, seed=0, per_text=MOST)
    asked = {bytes(needle.tokens[: -needle.answer_tokens]) for needle in text.needles}
    assert len(asked) == MOST == len(COLOURS) * len(THINGS)


def test_a_length_that_does_not_hold_them_is_refused() -> None:
    with pytest.raises(TextsError, match="5 passkeys in one text were asked for at 300 tokens"):
        build_many_passkeys(TOKENIZERS["byte-level"], 300, 5, seed=0, per_text=5)
    with pytest.raises(RecipeError, match="passkeys_per_text"):
        MeasureRecipe(passkeys_per_text=101)


def context_of(model: LanguageModel, **settings: Any) -> Context:
    return make_context(model, None, np.zeros((1, LENGTH), np.int32), **{"passkeys": 6, **settings})


def test_answers_are_those_of_passes_of_their_own(small: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is read once; each answer is as if text and question were read together, right or wrong."""
    monkeypatch.setattr("longrope.evaluation.prompts.many_passkeys.KEY_DIGITS", 1)
    context = context_of(small, passkeys_per_text=3)
    scores = scores_of("many-passkeys", context)
    texts = build_many_passkeys(small.tokenizer, LENGTH, 6, 0, 3)
    expected = [
        bool(greedy_answers(small, np.concatenate([text.tokens, needle.tokens])[None], needle.answer_tokens)[0])
        for text in texts
        for needle in text.needles
    ]
    assert scores[0].value == pytest.approx(np.mean(expected))
    assert [score.metric for score in scores] == list(find_metric("many-passkeys").names(context))
    assert [score.metric for score in scores[1:3]] == ["many-passkeys-depth-0.05", "many-passkeys-depth-0.15"]
    (reading,) = find_metric("many-passkeys").readings(context)
    assert (reading.tokens, reading.passes, reading.written) == (LENGTH, 2, 2)


def test_how_many_share_a_text_makes_another_measurement(small: LanguageModel) -> None:
    metric = find_metric("many-passkeys")
    some, others = context_of(small, passkeys_per_text=3), context_of(small, passkeys_per_text=2)
    assert not metric.identity(some).is_same(metric.identity(others))
    assert metric.identity(some).is_same(metric.identity(replace(some, cache=others.cache)))


def test_two_methods_are_compared_on_the_same_passkeys(small: LanguageModel) -> None:
    ours, theirs = context_of(small), context_of(small)
    theirs = theirs.of(replace(ours.subject, method="pi"))
    score = compared("many-passkeys", ours, theirs)
    assert (score.metric, score.value) == ("many-passkeys-difference-to-pi", 0)
    assert metric_label(score.metric) == "Passkeys found, several in a text, difference from PI"
