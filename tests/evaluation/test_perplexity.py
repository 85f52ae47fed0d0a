"""Perplexity by context window against brute force, over many lengths in one pass, and as ratios of two methods."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from intervals import block_interval
from long_passes import hooked
from measuring import Passes, brute_losses, compared, make_context, scores_of, without_seconds

from longrope.data import TokenText, fingerprint, sketch
from longrope.errors import ModelError, TextsError
from longrope.evaluation import Evaluation, measure, name_subject
from longrope.evaluation.metric import Subject
from longrope.evaluation.perplexity import window_losses
from longrope.evaluation.samples import SampleCache
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.registry import formulas
from longrope.rope import FactorTable, RescaleFactors, as_table, baseline_factors
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir

SETTINGS = MeasureRecipe(lengths=(64, 128), metrics=("perplexity",), windows=3, tail_tokens=16)


@pytest.mark.parametrize("method", ["none", *formulas()])
def test_perplexity_is_the_brute_force_one(method: str, model: LanguageModel, text: TokenText) -> None:
    """At every length, with the factor set for that length, on the windows of the longest one cut into pieces."""
    table = None if method == "none" else baseline_factors(model.spec, method, 128, lengths=(48, 64))
    scores = measure(model, table, text, settings=replace(SETTINGS, lengths=(48, 64, 128)), method=method)
    windows = text.windows(128, 3)
    for score in scores:
        length = score.context_tokens
        pieces = [window[i : i + length] for window in windows for i in range(0, 128 - length + 1, length)]
        losses = brute_losses(model, table.choose(length) if table else None, pieces)
        if score.metric == "perplexity-last-16":
            losses = losses[:, -16:]
        assert score.value == pytest.approx(math.exp(losses.sum() / losses.size), rel=1e-5)
        assert (score.num_tokens, score.num_windows) == (losses.size, len(pieces))
    named = [(score.context_tokens, score.metric) for score in scores]
    assert named == [(n, m) for n in (48, 64, 128) for m in ("perplexity", "perplexity-last-16")]


@pytest.mark.parametrize(
    ("metric", "factors"),
    [("perplexity", False), ("perplexity", True), ("prefix-perplexity", True), ("retention", True)],
)
def test_a_loss_that_is_not_finite_is_an_error_and_no_score(
    metric: str, factors: bool, text: TokenText, tmp_path: Path
) -> None:
    """It names the model; nothing of it is kept, so that a mended model is measured anew."""
    model, run = pico.make_model("llama"), RunDir(tmp_path / "run")
    model.network.lm_head.weight.fill_(math.nan)
    table = baseline_factors(model.spec, "yarn", 128) if factors else None
    settings = replace(SETTINGS, lengths=(64, 128), metrics=(metric,))
    with pytest.raises(ModelError, match=r"losses of 'pico-llama' at (64|128) tokens are not finite"):
        measure(model, table, text, settings=settings, run=run)
    assert not run.scores.exists()
    assert not list(run.path.glob("samples/*"))


def test_every_length_is_measured_on_the_same_text(model: LanguageModel) -> None:
    """The tokens that reach the model are spied on: each length sees the windows of the longest, in order."""
    seen: dict[int, list[int]] = {}

    def spy(_: Any, given: tuple[torch.Tensor]) -> None:
        seen.setdefault(given[0].shape[1], []).extend(given[0].flatten().tolist())

    text = TokenText(np.arange(1000, dtype=np.int32) % 320, "measure")
    with hooked(model.network.get_input_embeddings(), spy):
        measure(model, None, text, settings=replace(SETTINGS, lengths=(128, 16, 32)))
    assert seen[16] == seen[32] == seen[128] == text.windows(128, 3).ravel().tolist()


def test_the_tail_is_the_end_of_each_window(model: LanguageModel, text: TokenText) -> None:
    windows = text.windows(128, 3)
    losses = window_losses(model, None, windows)

    def metrics(tail: int) -> dict[str, Score]:
        scores = scores_of("perplexity", make_context(model, None, windows, tail_tokens=tail))
        return {score.metric: score for score in scores}

    assert set(metrics(0)) == set(metrics(127)) == set(metrics(500)) == {"perplexity"}
    for tail in (1, 50, 126):
        score = metrics(tail)[f"perplexity-last-{tail}"]
        by_hand = [losses[row][126 - i] for row in range(3) for i in range(tail)]
        assert score.value == pytest.approx(math.exp(sum(by_hand) / len(by_hand)))
        assert score.num_tokens == 3 * tail


def test_batches_do_not_change_losses(model: LanguageModel, text: TokenText) -> None:
    windows = text.windows(64, 11)
    together = window_losses(model, None, windows)
    for tokens in (1, 64, 200, 64 * 5):
        np.testing.assert_allclose(window_losses(model, None, windows, batch_tokens=tokens), together, atol=1e-5)


def test_the_order_of_windows_does_not_change_perplexity(model: LanguageModel, text: TokenText) -> None:
    windows = text.windows(64, 11)
    shuffled = windows[np.random.default_rng(0).permutation(11)]
    one, other = (scores_of("perplexity", make_context(model, None, w))[0] for w in (windows, shuffled))
    assert one.value == pytest.approx(other.value, rel=1e-6)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=0.05)


@pytest.mark.parametrize("bos", [None, 7])
def test_perplexity_of_uneven_windows_is_the_brute_force_one(
    bos: int | None, model: LanguageModel, text: TokenText
) -> None:
    """Lengths that do not divide each other, and a text that ends within a window."""
    uneven = TokenText(text.tokens[:523], "measure", bos)
    settings = replace(SETTINGS, lengths=(37, 61, 101), windows=5, tail_tokens=50)
    scores = measure(model, None, uneven, settings=settings)
    windows, opened = uneven.windows(101, 5), int(bos is not None)
    for score in scores:
        body = score.context_tokens - opened
        bodies = [
            row[opened + i : opened + i + body] for row in windows for i in range(0, 101 - opened - body + 1, body)
        ]
        losses = brute_losses(model, None, [[*([bos] * opened), *tokens] for tokens in bodies])
        if "last" in score.metric:
            losses = losses[:, -50:]
        assert score.value == pytest.approx(math.exp(losses.sum() / losses.size), rel=1e-5)
        assert (score.num_tokens, score.num_windows) == (losses.size, len(bodies))
    assert [s.num_windows for s in scores if s.metric == "perplexity"] == [10, 5, 5]


def test_each_window_has_its_losses_in_any_order_and_batch(model: LanguageModel, text: TokenText) -> None:
    """To the bit in another order, and to float32's rounding of a sum in batches of another size."""
    windows, order = text.windows(61, 11), np.random.default_rng(0).permutation(11)
    losses = window_losses(model, None, windows)
    assert (window_losses(model, None, windows[order]) == losses[order]).all()
    smaller = window_losses(model, None, windows[order], batch_tokens=61 * 3)
    np.testing.assert_allclose(smaller, losses[order], rtol=2e-6, atol=2e-6)


# One pass, many lengths


@pytest.mark.parametrize("name", ["none", "pi", "yarn", "dynamic-ntk"])
def test_one_pass_gives_the_prefixes_that_passes_of_their_own_give(
    name: str, model: LanguageModel, text: TokenText, passes: Passes
) -> None:
    """Three windows of 128 tokens instead of 3 * (20 + 64 + 128); dynamic NTK has factors for each length."""
    lengths = (20, 64, 128)
    table = None if name == "none" else baseline_factors(model.spec, name, 128, lengths=lengths)
    settings = replace(SETTINGS, lengths=lengths, metrics=("prefix-perplexity",))
    scores = measure(model, table, text, settings=settings, method=name)
    assert passes.tokens == 3 * (sum(lengths) if name == "dynamic-ntk" else 128)
    windows = text.windows(128, 3)
    for score, length in zip(scores, lengths, strict=True):
        alone = brute_losses(model, table.choose(length) if table else None, windows[:, :length])
        assert score.value == pytest.approx(math.exp(alone.sum() / alone.size), rel=1e-5)
        assert (score.metric, score.context_tokens) == ("prefix-perplexity", length)
        assert (score.num_tokens, score.num_windows) == (3 * (length - 1), 3)
        assert (score.low, score.high) == pytest.approx(block_interval(alone, 0), rel=1e-5)


@pytest.mark.parametrize("kind", ["dynamic", "two lists"])
def test_prefixes_of_a_model_whose_scaling_depends_on_the_length_have_passes_of_their_own(
    kind: str, text: TokenText
) -> None:
    """A longer pass turns the first tokens otherwise."""
    lists = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0], "factor": 4.0}
    lists["original_max_position_embeddings"] = 64
    model = pico.make_model("llama", rope={"rope_type": "dynamic", "factor": 4.0} if kind == "dynamic" else lists)
    settings = replace(SETTINGS, lengths=(32, 64, 128), windows=2, metrics=("prefix-perplexity",))
    windows = text.windows(128, 2)
    for score in measure(model, None, text, settings=settings):
        losses = window_losses(model, None, windows[:, : score.context_tokens])
        assert score.value == pytest.approx(np.exp(losses.mean()), rel=1e-5), score.context_tokens


def test_prefixes_cost_nothing_beside_perplexity(model: LanguageModel, text: TokenText, passes: Passes) -> None:
    """Perplexity reads the whole text at each length; its pass over the longest one serves the prefixes, too."""
    settings = replace(SETTINGS, lengths=(32, 64, 128), metrics=("perplexity", "prefix-perplexity"))
    scores = measure(model, None, text, settings=settings)
    assert passes.tokens == 3 * (3 * 128)
    longest = {s.metric: s.value for s in scores if s.context_tokens == 128}
    assert longest["prefix-perplexity"] == longest["perplexity"]
    shortest = {s.metric: s.value for s in scores if s.context_tokens == 32}
    assert shortest["prefix-perplexity"] != shortest["perplexity"]


def test_prefixes_by_two_factor_sets_take_two_passes(model: LanguageModel, text: TokenText, passes: Passes) -> None:
    table = FactorTable(tuple(baseline_factors(model.spec, "ntk", n).factor_sets[0] for n in (70, 128)))
    settings = replace(SETTINGS, lengths=(20, 64, 100, 128), metrics=("prefix-perplexity",))
    measure(model, table, text, settings=settings)
    assert passes.tokens == 3 * (64 + 128)


# Ratios


def unpaired_interval(own: np.ndarray, other: np.ndarray, block: int) -> tuple[float, float]:
    """95 % interval of the ratio of two perplexities whose blocks of losses are drawn apart from each other."""
    rng = np.random.default_rng(1)
    logs = []
    for losses in (own, other):
        blocks = [row[first : first + block] for row in losses for first in range(0, losses.shape[1], block)]
        draws = rng.integers(len(blocks), size=(1000, len(blocks)))
        sums, counts = np.array([b.sum() for b in blocks]), np.array([b.size for b in blocks])
        logs.append(sums[draws].sum(1) / counts[draws].sum(1))
    low, high = np.exp(np.quantile(logs[0] - logs[1], [0.025, 0.975]))
    return float(low), float(high)


def ratio_of(model: LanguageModel, tables: tuple[FactorTable, FactorTable], windows: Any, **given: Any) -> Score:
    """One method's perplexity as a share of another's on windows of one document."""
    methods = given.pop("methods")
    ours, theirs = (
        make_context(model, table, windows, method=method, **given)
        for table, method in zip(tables, methods, strict=True)
    )
    return compared("perplexity", ours, theirs)


@pytest.mark.parametrize("names", [("pi", "yarn"), ("yarn", "dynamic-ntk")])
def test_a_ratio_is_that_of_two_perplexities(names: tuple[str, str], model: LanguageModel, text: TokenText) -> None:
    own, other = (baseline_factors(model.spec, name, 128, lengths=(64, 128)) for name in names)
    windows = text.windows(128, 5)
    score = ratio_of(model, (own, other), windows, methods=names, seed=3)
    losses = [brute_losses(model, table.choose(128), windows) for table in (own, other)]
    perplexities = [math.exp(rows.sum() / rows.size) for rows in losses]
    assert score.value == pytest.approx(perplexities[0] / perplexities[1], rel=1e-5)
    assert score.low < score.value < score.high
    assert (score.metric, score.method) == (f"ratio-to-{names[1]}", names[0])
    assert (score.num_tokens, score.num_windows, score.context_tokens) == (5 * 127, 5, 128)
    assert (score.seed, score.model, score.texts_fingerprint) == (3, model.name, fingerprint(windows))
    assert score.factors_fingerprint == own.fingerprint


def test_the_interval_of_a_ratio_is_paired(model: LanguageModel, text: TokenText) -> None:
    """Blocks that are hard for both methods do not widen it, as they do where each method's are drawn apart."""
    names = ("yarn", "ntk")
    tables = baseline_factors(model.spec, "yarn", 128), baseline_factors(model.spec, "ntk", 128)
    windows = text.windows(128, 24)
    score = ratio_of(model, tables, windows, methods=names)
    own, other = (brute_losses(model, table.choose(128), windows) for table in tables)
    low, high = unpaired_interval(own, other, block=95)  # as many blocks as ours: 3048 losses / 32
    assert math.log(score.high / score.low) < 0.3 * math.log(high / low)


def test_a_ratio_to_itself_is_exactly_one(model: LanguageModel, text: TokenText) -> None:
    table = baseline_factors(model.spec, "yarn", 128)
    score = ratio_of(model, (table, table), text.windows(128, 3), methods=("yarn", "yarn"))
    assert (score.value, score.low, score.high) == (1.0, 1.0, 1.0)


def test_the_ratio_of_two_methods_is_the_inverse_of_the_other_way_round(model: LanguageModel, text: TokenText) -> None:
    pi, yarn = (baseline_factors(model.spec, name, 128) for name in ("pi", "yarn"))
    windows = text.windows(128, 5)
    score = ratio_of(model, (pi, yarn), windows, methods=("pi", "yarn"))
    turned = ratio_of(model, (yarn, pi), windows, methods=("yarn", "pi"))
    assert score.value == pytest.approx(1 / turned.value)
    assert (score.low, score.high) == pytest.approx((1 / turned.high, 1 / turned.low))


def against(model: LanguageModel, text: TokenText, run: RunDir, *, seed: int = 0, **changes: Any) -> Score:
    """The ratio of some factors to YaRN; ``changes`` are of the factors, and ``settings``."""
    settings = changes.pop("settings", SETTINGS)
    factors = RescaleFactors((1.0, 1.5, 2.0, 2.5), 128, model.spec.fingerprint, method="longrope-gradient")
    evaluation = Evaluation(text, settings, Subject(model, None, "none"), SampleCache(run), seed)
    yarn = name_subject(model, baseline_factors(model.spec, "yarn", 128))
    [score] = evaluation.compare(name_subject(model, replace(factors, **changes)), yarn)
    return score


def test_a_ratio_is_measured_once_at_the_longest_length_and_kept(
    model: LanguageModel, text: TokenText, tmp_path: Path, passes: Passes
) -> None:
    run = RunDir(tmp_path)
    score = against(model, text, run)
    assert read_records(run.scores, Score) == [score]
    assert (score.metric, score.method, score.context_tokens) == ("ratio-to-yarn", "longrope-gradient", 128)
    factors = RescaleFactors((1.0, 1.5, 2.0, 2.5), 128, model.spec.fingerprint)
    tables = as_table(factors), baseline_factors(model.spec, "yarn", 128)
    by_hand = ratio_of(model, tables, text.windows(128, 3), methods=("longrope-gradient", "yarn"))
    assert without_seconds([score]) == without_seconds([by_hand])
    passes.forbidden = True
    assert against(model, text, run) == score
    assert read_records(run.scores, Score) == [score]


def test_a_ratio_may_take_windows_of_its_own(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    factors = RescaleFactors((1.0, 1.5, 2.0, 2.5), 128, model.spec.fingerprint, method="longrope-gradient")
    yarn, settings = baseline_factors(model.spec, "yarn", 128), replace(SETTINGS, paired_windows=5)
    score = against(model, text, RunDir(tmp_path), settings=settings)
    methods = ("longrope-gradient", "yarn")
    by_hand = ratio_of(model, (as_table(factors), yarn), text.windows(128, 5), methods=methods)
    assert without_seconds([score]) == without_seconds([by_hand])


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"lambdas": (1.0, 1.5, 2.0, 3.0)}, {"attention_factor": 1.1}, {"method": "another"}]
)
def test_a_ratio_of_another_seed_or_of_other_factors_is_measured_again(
    change: dict[str, Any], model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    first, second = against(model, text, run), against(model, text, run, **change)
    assert read_records(run.scores, Score) == [first, second]
    assert without_seconds([first]) != without_seconds([second])
    assert (first.low != second.low) or "method" in change


def test_scores_of_the_same_run_are_not_taken_for_its_ratio(
    model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    """The perplexity of the same factors on the same windows stands there already, and is not measured again after."""
    run = RunDir(tmp_path)
    factors = RescaleFactors((1.0, 1.5, 2.0, 2.5), 128, model.spec.fingerprint, method="longrope-gradient")
    scores = measure(model, factors, text, settings=SETTINGS, run=run)
    ratio = against(model, text, run)
    assert ratio.metric == "ratio-to-yarn"
    assert measure(model, factors, text, settings=SETTINGS, run=run) == scores
    assert len(read_records(run.scores, Score)) == len(scores) + 1


def test_a_ratio_on_searched_text_is_refused(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(TextsError, match="no search has seen"):
        against(model, text, run, searched=sketch(text.windows(128, 3)))
    assert not run.scores.exists()
