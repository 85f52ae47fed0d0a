"""What an extension costs at the original lengths: the ratio to the original model, by hand and paired by token."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from intervals import block_interval
from measuring import Passes, make_context, scores_of

from longrope.data import TokenText, fingerprint
from longrope.errors import RecipeError
from longrope.evaluation import Evaluation, measure, name_subject
from longrope.evaluation.metric import Subject
from longrope.evaluation.samples import SampleCache
from longrope.models import LanguageModel, rescaled
from longrope.recipe import MeasureRecipe
from longrope.rope import FactorTable, RescaleFactors, baseline_factors
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir

SETTINGS = MeasureRecipe(lengths=(24, 64, 128), metrics=("retention",), windows=3, tail_tokens=0)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """A pico model with a window of 64 tokens."""
    return pico.make_model()


@pytest.fixture(scope="module")
def tuned(model: LanguageModel) -> LanguageModel:
    """The same model with other weights."""
    other = pico.make_model()
    with torch.no_grad():
        for weight in other.network.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return replace(other, name=f"{model.name}, tuned")


@pytest.fixture(scope="module")
def text(model: LanguageModel) -> TokenText:
    tokens = model.tokenizer(pico.make_text(1200))["input_ids"]
    return TokenText(np.asarray(tokens, np.int32), "measure")


def losses_by_hand(model: LanguageModel, factors: RescaleFactors | None, windows: Any) -> np.ndarray:
    """[W, N - 1] losses in nats from the whole logits in float64."""
    with rescaled(model, factors), torch.no_grad():
        logits = model.network(torch.as_tensor(windows).long(), use_cache=False).logits.double().log_softmax(-1)
    return -np.take_along_axis(logits[:, :-1].numpy(), np.asarray(windows)[:, 1:, None].astype(int), axis=2)[..., 0]


def ratio(after: np.ndarray, before: np.ndarray) -> float:
    """Of two perplexities."""
    return math.exp(after.sum() / after.size) / math.exp(before.sum() / before.size)


@pytest.mark.parametrize("method", ["pi", "yarn", "dynamic-ntk"])
def test_retention_is_the_ratio_to_the_original_at_each_original_length(
    method: str, model: LanguageModel, text: TokenText
) -> None:
    """By the factor set of each length; beyond the trained window there is nothing to retain."""
    table = baseline_factors(model.spec, method, 128, lengths=(24, 64))
    scores = measure(model, table, text, settings=SETTINGS, seed=3)
    assert [(s.metric, s.context_tokens) for s in scores] == [("ratio-to-none", 24), ("ratio-to-none", 64)]
    for score in scores:
        pieces = text.divided(text.windows(128, 3), score.context_tokens)
        after = losses_by_hand(model, table.choose(score.context_tokens), pieces)
        before = losses_by_hand(model, None, pieces)
        assert score.value == pytest.approx(ratio(after, before), rel=1e-5)
        assert (score.low, score.high) == pytest.approx(block_interval(after - before, 3), rel=1e-5)
        assert (score.num_tokens, score.num_windows) == (after.size, len(pieces))
        assert (score.method, score.texts_fingerprint) == (method, fingerprint(pieces))
        assert score.factors_fingerprint == table.fingerprint


def test_the_interval_is_paired(model: LanguageModel, text: TokenText) -> None:
    """Far narrower than that of the extended model's own perplexity."""
    pieces = text.divided(text.windows(128, 12), 64)
    factors = replace(baseline_factors(model.spec, "pi", 128).factor_sets[0], lambdas=(1.0, 1.0, 1.1, 1.2))
    [score] = scores_of("retention", make_context(model, FactorTable((factors,)), pieces, method="pi"))
    low, high = block_interval(losses_by_hand(model, factors, pieces), 0)
    assert math.log(score.high / score.low) < 0.3 * math.log(high / low)


def test_a_factor_set_that_changes_nothing_retains_all(model: LanguageModel, text: TokenText) -> None:
    unchanged = replace(baseline_factors(model.spec, "pi", 64).factor_sets[0], lambdas=(1.0,) * 4)
    table = FactorTable((unchanged, baseline_factors(model.spec, "pi", 128).factor_sets[0]))
    scores = measure(model, table, text, settings=SETTINGS)
    assert [(s.value, s.low, s.high) for s in scores] == [(1.0, 1.0, 1.0)] * 2


@pytest.mark.parametrize("with_factors", [True, False])
def test_a_tuned_model_is_measured_against_its_original(
    with_factors: bool, model: LanguageModel, tuned: LanguageModel, text: TokenText
) -> None:
    pieces = text.divided(text.windows(128, 3), 64)
    table = baseline_factors(model.spec, "yarn", 128) if with_factors else None
    context = make_context(tuned, table, pieces, method="longrope-tuned", original=model)
    [score] = scores_of("retention", context)
    after = losses_by_hand(tuned, table.choose(64) if table else None, pieces)
    assert score.value == pytest.approx(ratio(after, losses_by_hand(model, None, pieces)), rel=1e-5)
    assert score.value != pytest.approx(ratio(after, losses_by_hand(tuned, None, pieces)), rel=1e-3)
    assert (score.metric, score.method) == ("ratio-to-none", "longrope-tuned")


def test_the_originals_losses_survive_its_weights(
    model: LanguageModel, tuned: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    """Measured before the tuning, they are there in a later process, without the original."""
    table = baseline_factors(model.spec, "yarn", 128)
    Evaluation(text, SETTINGS, Subject(model, None, "none"), SampleCache(RunDir(tmp_path))).measure(
        Subject(model, None, "none")
    )
    gone = Subject(replace(tuned, name=model.name), None, "none", at_hand=False)
    evaluation = Evaluation(text, SETTINGS, gone, SampleCache(RunDir(tmp_path)))
    scores = evaluation.measure(name_subject(tuned, table, "longrope-tuned"))
    assert [score.context_tokens for score in scores] == [24, 64]
    for score in scores:
        pieces = text.divided(text.windows(128, 3), score.context_tokens)
        after = losses_by_hand(tuned, table.factor_sets[0], pieces)
        assert score.value == pytest.approx(ratio(after, losses_by_hand(model, None, pieces)), rel=1e-5)


def test_retention_is_measured_once_and_takes_what_perplexity_has_read(
    model: LanguageModel, text: TokenText, tmp_path: Path, passes: Passes
) -> None:
    run, table = RunDir(tmp_path), baseline_factors(model.spec, "yarn", 128)
    perplexities = replace(SETTINGS, metrics=("perplexity",))
    both = replace(SETTINGS, metrics=("perplexity", "retention"))
    for some in (None, table):
        measure(model, some, text, settings=perplexities, run=run)
    passes.forbidden = True
    scores = measure(model, table, text, settings=both, run=run)
    assert [s.metric for s in scores] == ["perplexity", "ratio-to-none"] * 2 + ["perplexity"]
    records = read_records(run.scores, Score)
    assert len(records) == 3 + 3 + 2
    assert measure(model, table, text, settings=both, run=run) == scores
    assert measure(model, None, text, settings=both, run=run) == [s for s in records if s.method == "none"]
    assert read_records(run.scores, Score) == records


def test_the_original_against_itself_is_no_score(model: LanguageModel, text: TokenText) -> None:
    assert measure(model, None, text, settings=SETTINGS) == []


def test_lengths_beyond_the_trained_window_alone_are_refused(model: LanguageModel, text: TokenText) -> None:
    table = baseline_factors(model.spec, "pi", 128)
    with pytest.raises(RecipeError, match="own window of 64"):
        measure(model, table, text, settings=replace(SETTINGS, lengths=(128,)))
