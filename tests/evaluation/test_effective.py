"""Accuracy and effective length: published examples, and shares that are written out here."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pico
import pytest
from measuring import answer_prompts, find_prose_needles
from ruler_prompts import TOKENIZERS, essay_of

from longrope.data import TokenText
from longrope.errors import RecipeError
from longrope.evaluation import Evaluation, find_metric, measure
from longrope.evaluation.answers import Answer
from longrope.evaluation.effective import effective_length, harmonic_mean, length_area
from longrope.evaluation.metric import Subject
from longrope.evaluation.prompts.prompt import Prompt
from longrope.evaluation.prompts.prose import ProseText
from longrope.evaluation.samples import Identity, Samples
from longrope.evaluation.statistics import difference_interval, wilson_interval
from longrope.labels import Source, write_value
from longrope.metrics import SUBSET_TASKS
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.runs.records import Score

K = 1024
IDENTITY = Identity(Source("other"), 2 * K, 0, "model", "texts", "")


@pytest.mark.parametrize(
    ("first", "scores", "least", "length"),
    [
        (4 * K, [96.6, 96.3, 95.2, 93.2, 87.0, 81.2], 85.6, 64 * K),  # RULER's table: a model that passes up to 64k
        (4 * K, [88.1, 85.5, 84.0, 80.0], 85.6, 4 * K),
        (K, [98.1, 98.0, 95.7, 89.2, 81.6], 0.85 * 99.3, 8 * K),  # NoLiMa's
        (K, [74.7, 61.8], 0.85 * 87.4, K),
        (K, [80.0, 90.0], 85.0, 0),  # not even the shortest
        (K, [90.0, 70.0, 90.0], 85.0, K),  # a later success does not count
        (K, [85.0, 84.9], 85.0, K),  # as high as needed is enough
    ],
)
def test_the_effective_length_is_that_of_published_tables(
    first: int, scores: list[float], least: float, length: int
) -> None:
    assert effective_length({first * 2**i: score for i, score in enumerate(scores)}, least) == length


def test_a_length_at_which_nothing_is_found_does_not_pass() -> None:
    """Also where the original finds nothing, so that the least score that passes is 0."""
    assert effective_length({256: 0.0, 512: 0.0}, 0.0) == 0
    assert effective_length({256: 0.5, 512: 0.0, 1024: 0.5}, 0.0) == 256


def test_the_area_is_taken_over_the_logarithm_of_the_length() -> None:
    scores = {8 * K: 100.0, 16 * K: 90.0, 32 * K: 60.0, 64 * K: 20.0}
    assert length_area(scores) == pytest.approx(70)
    linear = np.trapezoid(list(scores.values()), list(scores)) / (56 * K)
    assert linear == pytest.approx(57.857, abs=1e-3)  # which it is not
    assert harmonic_mean([70, 35]) == pytest.approx(46.667, abs=1e-3)
    assert harmonic_mean([70, 0]) == 0


LENGTHS, COUNT = (2000, 4000), 10


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, bool], tuple[float, float]]], None]:
    """Let a function of a model's name and of whether a text is long say the shares of needles and of tasks."""

    def make(judge: Callable[[str, bool], tuple[float, float]]) -> None:
        def needles(model: LanguageModel, text: ProseText) -> list[bool]:
            share, _ = judge(model.name, len(text.tokens) > 3000)
            return [i < share * len(text.needles) for i in range(len(text.needles))]

        def answer(model: LanguageModel, prompt: Prompt) -> list[Answer]:
            _, share = judge(model.name, len(prompt.text) > 3000)
            return [Answer("", share, 1)]

        find_prose_needles(monkeypatch, needles)
        answer_prompts(monkeypatch, answer)

    return make


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    network = pico.make_model(num_hidden_layers=1, max_position_embeddings=LENGTHS[0])
    return replace(network, tokenizer=TOKENIZERS["byte-level"])


def evaluation(model: LanguageModel, *metrics: str) -> Evaluation:
    """Ten needles in one text and one prompt a task, at two lengths."""
    settings = MeasureRecipe(LENGTHS, metrics, windows=1, needles=COUNT, ruler_prompts=1)
    text = TokenText(essay_of(model.tokenizer, LENGTHS[1]), "measure")
    return Evaluation(text, settings, Subject(model, None, "none"))


def test_accuracy_is_the_mean_of_needles_and_tasks(model: LanguageModel, judged: Any) -> None:
    """Whatever their numbers are."""
    judged(lambda _, is_long: (0.8, 0.25) if is_long else (1.0, 0.5))
    made = evaluation(model, "accuracy")
    scores = {(s.metric, s.context_tokens): s for s in made.measure(made.original)}
    assert scores["accuracy", 2000].value == pytest.approx(0.75)
    last = scores["accuracy", 4000]
    assert last.value == pytest.approx((0.8 + 0.25) / 2)
    (low, high), (least, most) = wilson_interval(8, 10), wilson_interval(1.5, 6)
    below, above = math.sqrt((0.8 - low) ** 2 + (0.25 - least) ** 2), math.sqrt((high - 0.8) ** 2 + (most - 0.25) ** 2)
    assert (last.low, last.high) == pytest.approx((last.value - below / 2, last.value + above / 2))
    assert last.num_windows == 10 + 6
    assert scores["ruler-subset", 4000].value == 0.25
    assert {name for name, _ in scores} >= {"prose-needle", *(f"ruler-{task}" for task in SUBSET_TASKS)}


def test_two_methods_are_compared_by_prompt() -> None:
    """Of ten needles the first has two more and one less, of each of two tasks it solves half a prompt of five more."""
    needles = [np.array([[0.0, 1, 1, 1, 0, 0, 0, 0, 0, 1]]), np.array([[1.0, 0, 0, 1, 0, 0, 0, 0, 0, 1]])]
    ruler = [np.tile([1.0, 0, 0, 0, 0], (2, 1)), np.tile([0.5, 0, 0, 0, 0], (2, 1))]
    ours, theirs = (
        Samples(IDENTITY, {"needles": a, "ruler": b, "tokens": np.asarray(7)}, 1.0)
        for a, b in zip(needles, ruler, strict=True)
    )
    score = find_metric("accuracy").compare(ours, theirs)
    assert score.metric == "accuracy-difference-to-other"
    assert score.value == pytest.approx((0.1 + 0.1) / 2)
    (low, high), (least, most) = difference_interval(2, 1, 10), difference_interval(1, 0, 10)
    below, above = math.sqrt((0.1 - low) ** 2 + (0.1 - least) ** 2), math.sqrt((high - 0.1) ** 2 + (most - 0.1) ** 2)
    assert (score.low, score.high) == pytest.approx((0.1 - below / 2, 0.1 + above / 2))
    assert (score.num_windows, score.num_tokens, score.seconds) == (20, 7, 2.0)


@pytest.mark.parametrize(("needles", "length"), [(0.9, 4000), (0.5, 2000)])
def test_the_effective_length_is_measured_against_the_original_model(
    needles: float, length: int, model: LanguageModel, judged: Any
) -> None:
    """By 85 % of its accuracy at the shortest length: 0.85 here, and the means are 0.95 and 0.75."""
    shares = {("ours", True): (needles, 1.0)}
    judged(lambda name, is_long: shares.get((name, is_long), (1.0, 1.0)))
    made = evaluation(model, "effective-length")
    subject = Subject(replace(model, name="ours"), None, "other")
    scores = {(s.metric, s.context_tokens): s for s in made.measure(subject)}
    score = scores["effective-length", 4000]
    assert (score.value, score.resampled) == (length, "prompts")
    assert score.low <= score.value <= score.high
    assert scores["length-area", 4000].value == pytest.approx(
        2 / (2 / (1 + needles) + 1)
    )  # the harmonic mean of (1 + needles) / 2 and 1
    assert ("accuracy", 2000) in scores
    assert write_value(score.metric, score.value) == f"{length:,}"


def scored(short: float, long: float, original: float) -> Score:
    """The effective length by shares of needles, where every task of RULER has the same, of a hundred prompts each."""
    shares = {str(K): short, str(2 * K): long, "original": original}
    first = np.arange(100)[None] / 100 + 1e-6
    arrays = {f"needles-{name}": (first < share).astype(float) for name, share in shares.items()}
    arrays |= {f"ruler-{name}": np.repeat(first < share, 6, axis=0).astype(float) for name, share in shares.items()}
    metric = find_metric("effective-length")
    return metric.scores(Samples(IDENTITY, arrays | {"tokens-1024": np.asarray(1)}, 1.0), MeasureRecipe())[0]


def test_a_better_original_makes_the_effective_length_shorter() -> None:
    """The same answers of the method, which are 60 % of what the original finds, or all of it."""
    assert scored(0.6, 0.6, original=1.0).value == 0
    assert scored(0.6, 0.6, original=0.6).value == 2 * K


def test_the_interval_is_that_of_other_prompts() -> None:
    """Where the threshold of 85 % is far away the length is sure, where it is near it is not."""
    for long, interval in ((0.98, (2 * K, 2 * K)), (0.85, (K, 2 * K)), (0.6, (K, K))):
        score = scored(1.0, long, original=1.0)
        assert (score.low, score.high) == interval


def test_lengths_without_a_short_one_are_refused(model: LanguageModel) -> None:
    text = TokenText(essay_of(model.tokenizer, 5000), "measure")
    for lengths in ((4000, 5000), (2000,)):
        with pytest.raises(RecipeError, match="effective-length was asked for at"):
            measure(model, None, text, settings=MeasureRecipe(lengths, ("effective-length",), windows=1))
