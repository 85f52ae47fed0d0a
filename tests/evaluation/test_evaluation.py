"""What is measured: perplexity against brute force, intervals against known distributions, passkeys in any tokenizer.

The oracles: whole logits in float64, sums and counts by hand, decoding, and Wilson's interval as the roots of its
quadratic equation.
"""

import copy
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from longrope.errors import FactorsError, RecipeError, RunError, TextsError
from longrope.evaluation import keep_rival, measure, measure_against
from longrope.evaluation import perplexity as perplexity_module
from longrope.evaluation.passkey import (
    FILLER,
    NEEDLE,
    OPENING,
    QUESTION,
    build_passkey,
    build_passkeys,
    measure_difference,
    measure_passkey,
    tasks_fingerprint,
)
from longrope.evaluation.perplexity import (
    kept_losses,
    measure_perplexity,
    measure_ratio,
    window_losses,
)
from longrope.evaluation.samples import Samples
from longrope.evaluation.statistics import block_interval, difference_interval, wilson_interval
from longrope.factors import CLOSED_FORMS, FactorTable, RescaleFactors, as_table, closed_form
from longrope.forward import greedy_answers, token_losses
from longrope.models import LanguageModel, load_model, rescaled
from longrope.recipe import MeasureRecipe
from longrope.records import Score, read_records
from longrope.rundir import RunDir
from longrope.texts import TokenText, fingerprint, load_texts, sketch

SETTINGS = MeasureRecipe(lengths=(64, 128), metrics=("perplexity",), windows=3, tail_tokens=16)


@pytest.fixture(scope="module")
def model(pico_folder: Path) -> LanguageModel:
    """The pico model, loaded."""
    return load_model(pico_folder, device="cpu")


@pytest.fixture(scope="module")
def text(text_folders: tuple[Path, Path], model: LanguageModel) -> TokenText:
    """The measuring part of some texts."""
    return load_texts([text_folders[0]], model.tokenizer, measure=[text_folders[1]]).measure


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on every pass of the model is an error."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    def forbid() -> None:
        monkeypatch.setattr("longrope.evaluation.perplexity.token_losses", never)
        monkeypatch.setattr("longrope.evaluation.passkey.greedy_answers", never)

    return forbid


def brute_losses(model: LanguageModel, factors: RescaleFactors | None, windows: Any) -> np.ndarray:
    """[W, N - 1] losses in nats from the whole logits, window by window in float64."""
    rows = []
    for window in np.asarray(windows):
        with rescaled(model, factors), torch.no_grad():
            logits = model.network(torch.from_numpy(window)[None].long(), use_cache=False).logits[0].double()
        rows.append([-logits[i].log_softmax(0)[window[i + 1]].item() for i in range(len(window) - 1)])
    return np.array(rows)


def without_seconds(scores: list[Score]) -> list[Score]:
    """Scores as they must repeat; only the wall clock may differ."""
    return [replace(score, seconds=0.0) for score in scores]


# Perplexity


@pytest.mark.parametrize("method", ["none", *CLOSED_FORMS])
def test_perplexity_is_the_brute_force_one(method: str, model: LanguageModel, text: TokenText) -> None:
    """At every length, with the tier for that length, on the windows of the longest one cut into pieces."""
    table = None if method == "none" else closed_form(model.spec, method, 128, lengths=(48, 64))
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


def test_every_length_is_measured_on_the_same_text(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens that reach the model are spied on: each length sees the windows of the longest, in order."""
    seen: dict[int, list[int]] = {}

    def spy(_: Any, tokens: torch.Tensor) -> torch.Tensor:
        seen.setdefault(tokens.shape[1], []).extend(tokens.flatten().tolist())
        return torch.ones(tokens.shape[0], tokens.shape[1] - 1)

    monkeypatch.setattr(perplexity_module, "token_losses", spy)
    text = TokenText(np.arange(1000, dtype=np.int32), "measure")
    measure(model, None, text, settings=replace(SETTINGS, lengths=(128, 16, 32)))
    assert seen[16] == seen[32] == seen[128] == text.windows(128, 3).ravel().tolist()


def test_the_tail_is_the_end_of_each_window(model: LanguageModel, text: TokenText) -> None:
    windows = text.windows(128, 3)
    losses = window_losses(model, None, windows)

    def metrics(tail: int) -> dict[str, Score]:
        scores = measure_perplexity(model, None, text, windows, 128, method="none", tail_tokens=tail)
        return {score.metric: score for score in scores}

    assert set(metrics(0)) == set(metrics(127)) == set(metrics(500)) == {"perplexity"}
    for tail in (1, 50, 126):
        score = metrics(tail)[f"perplexity-last-{tail}"]
        by_hand = [losses[row][126 - i] for row in range(3) for i in range(tail)]
        assert score.value == pytest.approx(math.exp(sum(by_hand) / len(by_hand)))
        assert score.num_tokens == 3 * tail


def test_batches_do_not_change_losses(model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = text.windows(64, 11)
    together = window_losses(model, None, windows)
    for tokens_per_batch in (1, 64, 200, 64 * 5):
        monkeypatch.setattr(perplexity_module, "TOKENS_PER_BATCH", tokens_per_batch)
        np.testing.assert_allclose(window_losses(model, None, windows), together, atol=1e-5)


def test_the_order_of_windows_does_not_change_perplexity(model: LanguageModel, text: TokenText) -> None:
    windows = text.windows(64, 11)
    shuffled = windows[np.random.default_rng(0).permutation(11)]
    one, other = (measure_perplexity(model, None, text, w, 64, method="none")[0] for w in (windows, shuffled))
    assert one.value == pytest.approx(other.value, rel=1e-6)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=0.05)


@pytest.mark.parametrize("bos", [None, 7])
def test_perplexity_of_uneven_windows_is_the_brute_force_one(
    bos: int | None, model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths that do not divide each other, a text that ends within a window, and batches with a smaller last one."""
    monkeypatch.setattr(perplexity_module, "TOKENS_PER_BATCH", 150)
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


def test_each_window_has_its_losses_in_any_order_and_batch(
    model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit in another order, and to float32's rounding of a sum in batches of another size."""
    windows, order = text.windows(61, 11), np.random.default_rng(0).permutation(11)
    losses = window_losses(model, None, windows)
    assert (window_losses(model, None, windows[order]) == losses[order]).all()
    monkeypatch.setattr(perplexity_module, "TOKENS_PER_BATCH", 61 * 3)
    np.testing.assert_allclose(window_losses(model, None, windows[order]), losses[order], rtol=2e-6, atol=2e-6)


# One pass, many lengths


class Pushed:
    """How many tokens went through the model."""

    tokens = 0

    def __call__(self, model: LanguageModel, tokens: Any) -> torch.Tensor:
        self.tokens += tokens.size
        return token_losses(model, tokens)


@pytest.mark.parametrize("name", ["none", "pi", "yarn", "dynamic-ntk"])
def test_one_pass_gives_the_prefixes_that_passes_of_their_own_give(
    name: str, model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three windows of 128 tokens instead of 3 * (20 + 64 + 128); dynamic NTK has factors for each length."""
    lengths, pushed = (20, 64, 128), Pushed()
    monkeypatch.setattr(perplexity_module, "token_losses", pushed)
    table = None if name == "none" else closed_form(model.spec, name, 128, lengths=lengths)
    settings = replace(SETTINGS, lengths=lengths, metrics=("prefix-perplexity",))
    scores = measure(model, table, text, settings=settings, method=name)
    assert pushed.tokens == 3 * (sum(lengths) if name == "dynamic-ntk" else 128)
    windows = text.windows(128, 3)
    for score, length in zip(scores, lengths, strict=True):
        alone = brute_losses(model, table.choose(length) if table else None, windows[:, :length])
        assert score.value == pytest.approx(math.exp(alone.sum() / alone.size), rel=1e-5)
        assert (score.metric, score.context_tokens) == ("prefix-perplexity", length)
        assert (score.num_tokens, score.num_windows) == (3 * (length - 1), 3)
        assert (score.low, score.high) == pytest.approx(block_interval(alone, 0), rel=1e-5)


def test_prefixes_cost_nothing_beside_perplexity(
    model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perplexity reads the whole text at each length; its pass over the longest one serves the prefixes, too."""
    pushed = Pushed()
    monkeypatch.setattr(perplexity_module, "token_losses", pushed)
    settings = replace(SETTINGS, lengths=(32, 64, 128), metrics=("perplexity", "prefix-perplexity"))
    scores = measure(model, None, text, settings=settings)
    assert pushed.tokens == 3 * (3 * 128)
    longest = {s.metric: s.value for s in scores if s.context_tokens == 128}
    assert longest["prefix-perplexity"] == longest["perplexity"]
    shortest = {s.metric: s.value for s in scores if s.context_tokens == 32}
    assert shortest["prefix-perplexity"] != shortest["perplexity"]


def test_prefixes_by_two_tiers_take_two_passes(
    model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = Pushed()
    monkeypatch.setattr(perplexity_module, "token_losses", pushed)
    table = FactorTable(tuple(closed_form(model.spec, "ntk", n).tiers[0] for n in (70, 128)))
    settings = replace(SETTINGS, lengths=(20, 64, 100, 128), metrics=("prefix-perplexity",))
    measure(model, table, text, settings=settings)
    assert pushed.tokens == 3 * (64 + 128)


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


@pytest.mark.parametrize("names", [("pi", "yarn"), ("yarn", "dynamic-ntk")])
def test_a_ratio_is_that_of_two_perplexities(names: tuple[str, str], model: LanguageModel, text: TokenText) -> None:
    own, other = (closed_form(model.spec, name, 128, lengths=(64, 128)) for name in names)
    windows = text.windows(128, 5)
    score = measure_ratio(model, (own, other), windows, methods=names, seed=3)
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
    tables = closed_form(model.spec, "yarn", 128), closed_form(model.spec, "ntk", 128)
    windows = text.windows(128, 24)
    score = measure_ratio(model, tables, windows, methods=names)
    own, other = (brute_losses(model, table.choose(128), windows) for table in tables)
    low, high = unpaired_interval(own, other, block=95)  # as many blocks as ours: 3048 losses / 32
    assert math.log(score.high / score.low) < 0.3 * math.log(high / low)


def test_a_ratio_to_itself_is_exactly_one(model: LanguageModel, text: TokenText) -> None:
    table = closed_form(model.spec, "yarn", 128)
    score = measure_ratio(model, (table, table), text.windows(128, 3), methods=("yarn", "yarn"))
    assert (score.value, score.low, score.high) == (1.0, 1.0, 1.0)


def test_the_ratio_of_two_methods_is_the_inverse_of_the_other_way_round(model: LanguageModel, text: TokenText) -> None:
    pi, yarn = (closed_form(model.spec, name, 128) for name in ("pi", "yarn"))
    windows = text.windows(128, 5)
    score = measure_ratio(model, (pi, yarn), windows, methods=("pi", "yarn"))
    turned = measure_ratio(model, (yarn, pi), windows, methods=("yarn", "pi"))
    assert score.value == pytest.approx(1 / turned.value)
    assert (score.low, score.high) == pytest.approx((1 / turned.high, 1 / turned.low))


def against(model: LanguageModel, text: TokenText, run: RunDir, *, seed: int = 0, **changes: Any) -> Score:
    """The ratio of some factors to YaRN by ``measure_against``; ``changes`` are of the factors."""
    factors = RescaleFactors((1.0, 1.5, 2.0, 2.5), 128, model.spec.fingerprint, method="longrope-gradient")
    yarn = closed_form(model.spec, "yarn", 128)
    factors = replace(factors, **changes)
    [score] = measure_against(model, factors, yarn, text, settings=SETTINGS, rival_name="yarn", run=run, seed=seed)
    return score


def test_a_ratio_is_measured_once_at_the_longest_length_and_kept(
    model: LanguageModel, text: TokenText, tmp_path: Path, forbidden: Callable[[], None]
) -> None:
    run = RunDir(tmp_path)
    score = against(model, text, run)
    assert read_records(run.scores, Score) == [score]
    assert (score.metric, score.method, score.context_tokens) == ("ratio-to-yarn", "longrope-gradient", 128)
    factors = RescaleFactors((1.0, 1.5, 2.0, 2.5), 128, model.spec.fingerprint)
    tables = as_table(factors), closed_form(model.spec, "yarn", 128)
    by_hand = measure_ratio(model, tables, text.windows(128, 3), methods=("longrope-gradient", "yarn"))
    assert without_seconds([score]) == without_seconds([by_hand])
    forbidden()
    assert against(model, text, run) == score
    assert read_records(run.scores, Score) == [score]


def test_a_ratio_may_take_windows_of_its_own(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    factors = RescaleFactors((1.0, 1.5, 2.0, 2.5), 128, model.spec.fingerprint, method="longrope-gradient")
    yarn, settings = closed_form(model.spec, "yarn", 128), replace(SETTINGS, paired_windows=5)
    [score] = measure_against(
        model, factors, yarn, text, settings=settings, rival_name="yarn", run=RunDir(tmp_path), seed=0
    )
    methods = ("longrope-gradient", "yarn")
    by_hand = measure_ratio(model, (as_table(factors), yarn), text.windows(128, 5), methods=methods)
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


# Differences


def test_a_difference_is_that_of_two_measured_shares(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key's answer by one method is paired with its answer by the other, and none is asked for twice."""
    tables = closed_form(model.spec, "pi", 700), closed_form(model.spec, "yarn", 700)
    tasks = build_passkeys(model.tokenizer, 700, 20, 3)
    order = {task.tokens.tobytes(): i for i, task in enumerate(tasks)}
    right = {"pi": {0, 1, 2, 3, 4, 5, 9}, "yarn": {4, 5, 6}}
    active, asked = [""], []

    @contextmanager
    def spy_factors(_: object, factors: RescaleFactors) -> Iterator[None]:
        active[0] = factors.method
        yield

    def spy_answers(_: object, tokens: np.ndarray, __: int) -> torch.Tensor:
        key = order[tokens[0].tobytes()]
        asked.append((active[0], key))
        return torch.tensor([key in right[active[0]]])

    monkeypatch.setattr("longrope.evaluation.passkey.rescaled", spy_factors)
    monkeypatch.setattr("longrope.evaluation.passkey.greedy_answers", spy_answers)
    samples = Samples()
    shares = [
        measure_passkey(model, table, 700, method=name, count=20, seed=3, samples=samples)[0].value
        for name, table in zip(right, tables, strict=True)
    ]
    score = measure_difference(model, tables, 700, methods=("pi", "yarn"), count=20, seed=3, samples=samples)
    assert score.value == pytest.approx(shares[0] - shares[1]) == pytest.approx((5 - 1) / 20)
    assert (score.low, score.high) == difference_interval(5, 1, 20)
    assert (score.metric, score.method, score.context_tokens) == ("difference-to-yarn", "pi", 700)
    assert (score.num_windows, score.num_tokens, score.seed) == (20, 14_000, 3)
    assert (score.factors_fingerprint, score.texts_fingerprint) == (tables[0].fingerprint, tasks_fingerprint(tasks))
    assert sorted(asked) == sorted((name, key) for name in right for key in range(20))


def test_a_rival_is_compared_by_what_was_measured_before(
    model: LanguageModel, text: TokenText, tmp_path: Path, forbidden: Callable[[], None]
) -> None:
    """Losses and answers of both are in the run directory: the paired numbers take no pass, in a later process too."""
    run, settings = RunDir(tmp_path), replace(SETTINGS, lengths=(300, 700), metrics=("perplexity", "passkey"))
    settings = replace(settings, passkeys=10)
    pi, yarn = (closed_form(model.spec, name, 700) for name in ("pi", "yarn"))
    for table in (None, pi, yarn):
        measure(model, table, text, settings=settings, run=run)
    forbidden()
    for factors, name in ((None, "none"), (pi, "pi")):
        scores = measure_against(
            model, factors, yarn, text, settings=settings, rival_name="yarn", run=RunDir(tmp_path), seed=0
        )
        assert [score.metric for score in scores] == ["ratio-to-yarn", "difference-to-yarn"]
        assert {(score.method, score.context_tokens) for score in scores} == {(name, 700)}
        assert scores[0].low < scores[0].value < scores[0].high


def test_tuned_weights_are_compared_with_a_rival_that_was_kept_before(
    model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    """Its losses and answers are of the weights before, though nothing of these is left; also on windows of its own."""
    yarn, run = closed_form(model.spec, "yarn", 300), RunDir(tmp_path)
    settings = replace(SETTINGS, lengths=(300,), metrics=("perplexity", "passkey"), passkeys=10, paired_windows=5)
    kept = keep_rival(model, yarn, text, settings=settings, rival_name="yarn", run=run)
    tuned = LanguageModel(copy.deepcopy(model.network), model.tokenizer, model.spec, "pico, tuned")
    with torch.no_grad():
        for weight in tuned.network.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    named: dict[str, Any] = {"settings": settings, "rival_name": "yarn", "run": run, "method": "longrope-tuned"}
    ratio, difference = measure_against(tuned, yarn, kept, text, **named)
    windows, tier = text.windows(300, 5), yarn.choose(300)
    after, before = (brute_losses(some, tier, windows) for some in (tuned, model))
    assert ratio.value == pytest.approx(math.exp((after - before).mean()), rel=1e-5)
    assert ratio.value != pytest.approx(1, abs=1e-3)
    answers = [measure_passkey(some, yarn, 300, method="yarn", count=10)[0].value for some in (tuned, model)]
    assert difference.value == pytest.approx(answers[0] - answers[1])
    assert {(s.method, s.model, s.factors_fingerprint) for s in (ratio, difference)} == {
        ("longrope-tuned", "pico, tuned", yarn.fingerprint)
    }
    kept["perplexity"] = kept["perplexity"] - 1.0  # what was kept is what counts, and nothing is made of it anew
    again = measure_against(tuned, yarn, kept, text, **{**named, "run": RunDir(tmp_path / "other")})
    assert again[0].value == pytest.approx(math.e * ratio.value)


# Samples


def test_samples_are_made_once_and_kept_to_the_bit(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> np.ndarray:
        made.append(1)
        return np.random.default_rng(len(made)).normal(size=(3, 5)).astype(np.float32)

    for samples, again in ((Samples(), None), (Samples(RunDir(tmp_path)), Samples(RunDir(tmp_path)))):
        made.clear()
        first = samples.get("losses", ("a", "b"), make)
        assert ((again or samples).get("losses", ("a", "b"), make) == first).all()
        assert len(made) == 1
        assert not (samples.get("losses", ("ab", ""), make) == first).all()
        assert not (samples.get("answers", ("a", "b"), make) == first).all()
        assert len(made) == 3


def test_a_damaged_file_of_samples_is_told(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    Samples(run).get("losses", ("a",), lambda: np.zeros(3))
    [path] = (tmp_path / "samples").iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="Remove it"):
        Samples(run).get("losses", ("a",), lambda: np.zeros(3))


@pytest.mark.parametrize("change", ["method", "factors", "length", "text"])
def test_samples_of_something_else_are_not_taken(
    change: str, model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    """Windows of 32 and of 64 tokens hold the same tokens here, in other rows."""
    samples = Samples(RunDir(tmp_path))
    windows, table = text.windows(64, 2), closed_form(model.spec, "ntk", 128)
    kept_losses(model, table, windows, method="ntk", samples=samples)
    other = {
        "method": (table, windows, "tuned"),
        "factors": (closed_form(model.spec, "yarn", 128), windows, "ntk"),
        "length": (table, text.divided(windows, 32), "ntk"),
        "text": (table, windows[::-1].copy(), "ntk"),
    }[change]
    losses = kept_losses(model, other[0], other[1], method=other[2], samples=samples)
    assert (losses == kept_losses(model, other[0], other[1], method=other[2], samples=None)).all()
    assert len(list((tmp_path / "samples").iterdir())) == 2


# Passkeys


DIGITS = "0123456789"
SENTENCES = [OPENING, FILLER, NEEDLE, QUESTION, pico.make_text(600)]
NUMBERS = " ".join(str(n) for n in range(10000, 99999, 997))  # one piece, or many
TOKENIZERS = {
    "byte-level": pico.make_tokenizer(),
    "unigram": pico.make_unigram(SENTENCES, 250, DIGITS),
    "word-piece": pico.make_word_piece([*SENTENCES, NUMBERS], 400, DIGITS),
}
EVERY_TOKENIZER = pytest.mark.parametrize("kind", TOKENIZERS)


def squeezed(text: object) -> str:
    """A text in lower case without spaces, in which tokenizers differ."""
    return re.sub(r"\s+", "", str(text)).lower()


def shortest(tokenizer: Any) -> int:
    """The shortest prompt that the tokenizer allows, by the number in the refusal."""
    with pytest.raises(TextsError) as caught:
        build_passkey(tokenizer, 1, 0.5, "12345")
    return int(re.findall(r"\d+", caught.value.needed)[0])


@EVERY_TOKENIZER
@pytest.mark.parametrize("depth", [0.0, 0.05, 0.37, 0.5, 0.95, 1.0])
def test_a_prompt_has_its_length_its_needle_and_its_answer(kind: str, depth: float) -> None:
    tokenizer = TOKENIZERS[kind]
    least = shortest(tokenizer)
    for key, length in (
        ("10000", least + 1),
        ("99999", least + 100),
        ("40213", 1024),
        ("40213", 1025),
        ("73105", 3001),
    ):
        task = build_passkey(tokenizer, length, depth, key)
        assert task.tokens.shape == (length,)
        assert task.tokens.dtype == np.int32
        assert task.depth == depth
        words = squeezed(tokenizer.decode(task.tokens, skip_special_tokens=True))
        needle, ending = squeezed(NEEDLE.format(key=key)), squeezed(f"{QUESTION} {key}")
        assert words.count(needle) == 1
        assert words.count(key) == 3
        assert words.endswith(ending)
        assert squeezed(tokenizer.decode(task.tokens[-task.answer_tokens :])) == key
        before = squeezed(tokenizer.decode(task.tokens[: -task.answer_tokens], skip_special_tokens=True))
        assert before.endswith(ending.removesuffix(key))


@EVERY_TOKENIZER
def test_the_answer_is_tokenized_as_in_running_text(kind: str) -> None:
    """What a model would generate after the question, not the key on its own."""
    tokenizer = TOKENIZERS[kind]
    task = build_passkey(tokenizer, 512, 0.5, "58317")
    whole = tokenizer(f"{QUESTION} 58317", add_special_tokens=False)["input_ids"]
    assert task.tokens[-len(whole) :].tolist() == whole


def test_the_answer_begins_where_the_key_changes_the_question() -> None:
    """A tokenizer whose pieces reach over spaces: the last word of the question and the first digit are one piece."""
    merged = ["s ", *(f"s {digit}" for digit in range(10))]
    pieces = [*dict.fromkeys(OPENING + FILLER + NEEDLE + QUESTION + "0123456789"), *merged]
    merges = [("s", " "), *(("s ", str(digit)) for digit in range(10))]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    question = wrapped(QUESTION)["input_ids"]
    whole = wrapped(f"{QUESTION} 40213")["input_ids"]
    assert whole[: len(question)] != question
    task = build_passkey(wrapped, 700, 0.5, "40213")
    assert task.tokens.shape == (700,)
    assert task.tokens[-len(whole) :].tolist() == whole
    assert wrapped.convert_ids_to_tokens(whole[-task.answer_tokens :]) == ["s 4", "0", "2", "1", "3"]


@EVERY_TOKENIZER
def test_needles_stand_at_their_depths(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    line = len(tokenizer(FILLER, add_special_tokens=False)["input_ids"])
    needle = tokenizer(NEEDLE.format(key="58317"), add_special_tokens=False)["input_ids"]
    least = shortest(tokenizer)
    for depth in (0.0, 0.25, 0.5, 0.9, 1.0):
        tokens = build_passkey(tokenizer, 4000, depth, "58317").tokens.tolist()
        at = next(i for i in range(len(tokens)) if tokens[i : i + len(needle)] == needle)
        first = build_passkey(tokenizer, 4000, 0.0, "58317").tokens.tolist()
        head = next(i for i in range(len(first)) if first[i : i + len(needle)] == needle)
        assert at - head == pytest.approx(depth * (4000 - least), abs=line)


@pytest.mark.parametrize("kind", ["byte-level", "unigram"])
def test_a_prompt_opens_as_the_tokenizer_opens_texts(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    opening = tokenizer(OPENING)["input_ids"]
    assert build_passkey(tokenizer, 600, 0.5, "58317").tokens[: len(opening)].tolist() == opening


@EVERY_TOKENIZER
def test_a_length_without_room_is_refused_with_the_least_one(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    least = shortest(tokenizer)
    assert build_passkey(tokenizer, least, 0.5, "12345").tokens.shape == (least,)
    with pytest.raises(TextsError, match=f"At least {least} tokens"):
        build_passkey(tokenizer, least - 1, 0.5, "12345")


def test_tasks_walk_through_ten_depths_with_keys_of_five_digits() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    tasks = build_passkeys(tokenizer, 600, 20, seed=5)
    assert [task.depth for task in tasks] == pytest.approx([0.05 + 0.1 * (i % 10) for i in range(20)])
    keys = [squeezed(tokenizer.decode(task.tokens[-task.answer_tokens :])) for task in tasks]
    assert all(re.fullmatch(r"[1-9]\d{4}", key) for key in keys)
    assert len(set(keys)) == 20
    again, other = build_passkeys(tokenizer, 600, 20, seed=5), build_passkeys(tokenizer, 600, 20, seed=6)
    assert all((a.tokens == b.tokens).all() for a, b in zip(tasks, again, strict=True))
    assert not any((a.tokens == b.tokens).all() for a, b in zip(tasks, other, strict=True))


class Reader:
    """A network that reads: it copies what stands after the words of the needle, or it says a constant."""

    def __init__(self, tokenizer: Any, *, copies: bool) -> None:
        """Read with this tokenizer."""
        self.tokenizer, self.copies = tokenizer, copies

    def answers(self, _: object, tokens: torch.Tensor, answer_tokens: int) -> torch.Tensor:
        """Stand in for ``greedy_answers``: the prompt without its answer is all that is looked at."""
        right = []
        for row in tokens:
            prompt = self.tokenizer.decode(row[:-answer_tokens], skip_special_tokens=True)
            key = re.findall(r"pass key is (\d{5})", prompt)[0] if self.copies else "55555"
            expected = self.tokenizer(f"{QUESTION} {key}", add_special_tokens=False)["input_ids"]
            right.append(expected[-answer_tokens:] == row[-answer_tokens:].tolist())
        return torch.tensor(right)


@EVERY_TOKENIZER
@pytest.mark.parametrize(("copies", "share"), [(True, 1.0), (False, 0.0)])
def test_a_copying_reader_scores_one_and_a_constant_one_nothing(
    kind: str, copies: bool, share: float, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = TOKENIZERS[kind]
    monkeypatch.setattr("longrope.evaluation.passkey.greedy_answers", Reader(tokenizer, copies=copies).answers)
    scores = measure_passkey(replace(model, tokenizer=tokenizer), None, 700, method="none", count=20)
    assert [score.value for score in scores] == [share] * 11
    assert [score.num_windows for score in scores] == [20] + [2] * 10
    assert (scores[0].low, scores[0].high) == wilson_interval(round(20 * share), 20)


def test_depths_are_scored_apart(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that forgets the first half of its text."""
    tokenizer = model.tokenizer

    def forgetful(_: object, tokens: torch.Tensor, answer_tokens: int) -> torch.Tensor:
        key = tokenizer.decode(tokens[0, -answer_tokens:]).strip()
        return torch.tensor([key in tokenizer.decode(tokens[0, tokens.shape[1] // 2 : -answer_tokens])])

    monkeypatch.setattr("longrope.evaluation.passkey.greedy_answers", forgetful)
    scores = {score.metric: score for score in measure_passkey(model, None, 6000, method="none", count=20)}
    assert scores["passkey"].value == 0.5
    by_depth = [scores[f"passkey-depth-{depth:.2f}"].value for depth in np.arange(0.05, 1, 0.1)]
    assert by_depth == [0.0] * 5 + [1.0] * 5


def test_greedy_answers_are_those_of_generation(model: LanguageModel) -> None:
    """Teacher forcing against transformers' own greedy decoding, for right answers and for wrong ones."""
    prompts = torch.randint(5, 300, (6, 20), generator=torch.Generator().manual_seed(0))
    whole = model.network.generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=4, min_new_tokens=4, do_sample=False
    )
    assert whole.shape == (6, 24)
    assert greedy_answers(model, whole, 4).tolist() == [True] * 6
    for position in range(20, 24):
        wrong = whole.clone()
        wrong[:, position] = (wrong[:, position] + 1) % 300
        assert greedy_answers(model, wrong, 4).tolist() == [False] * 6


def test_a_random_model_knows_no_passkey_and_the_record_says_what_was_asked(model: LanguageModel) -> None:
    table = as_table(closed_form(model.spec, "yarn", 700).tiers[0])
    scores = measure_passkey(model, table, 700, method="yarn", count=10, seed=3)
    assert scores[0].value == 0.0
    tasks = build_passkeys(model.tokenizer, 700, 10, 3)
    assert {score.texts_fingerprint for score in scores} == {fingerprint(np.stack([t.tokens for t in tasks]))}
    assert {score.factors_fingerprint for score in scores} == {table.fingerprint}
    assert (scores[0].num_tokens, scores[0].context_tokens, scores[0].seed) == (7000, 700, 3)


# The whole


def test_measuring_on_searched_text_is_refused(model: LanguageModel, text: TokenText) -> None:
    windows = text.windows(128, 3)
    factors = replace(closed_form(model.spec, "ntk", 128).tiers[0], searched=sketch(windows))
    with pytest.raises(TextsError, match="no search has seen"):
        measure(model, factors, text, settings=SETTINGS)
    other = TokenText(np.random.default_rng(0).integers(0, 300, 3000).astype(np.int32), "measure")
    assert measure(model, factors, other, settings=SETTINGS)


def test_every_tier_is_asked_what_it_was_searched_on(model: LanguageModel, text: TokenText) -> None:
    short = closed_form(model.spec, "ntk", 96).tiers[0]
    tiers = (replace(short, searched=sketch(text.windows(128, 3))), closed_form(model.spec, "ntk", 128).tiers[0])
    with pytest.raises(TextsError, match="no search has seen"):
        measure(model, FactorTable(tiers), text, settings=SETTINGS)


def test_factors_that_do_not_reach_or_do_not_fit_are_refused(model: LanguageModel, text: TokenText) -> None:
    with pytest.raises(FactorsError, match="longest tier of these factors holds 96"):
        measure(model, closed_form(model.spec, "ntk", 96), text, settings=SETTINGS)
    foreign = replace(closed_form(model.spec, "ntk", 128).tiers[0], spec_fingerprint="0" * 16)
    with pytest.raises(FactorsError, match="geometry"):
        measure(model, foreign, text, settings=SETTINGS)


def test_unknown_metrics_are_refused(model: LanguageModel, text: TokenText) -> None:
    with pytest.raises(RecipeError, match="beauty"):
        measure(model, None, text, settings=replace(SETTINGS, metrics=("perplexity", "beauty")))


def test_too_short_texts_are_refused(model: LanguageModel) -> None:
    text = TokenText(np.zeros(100, np.int32), "measure")
    with pytest.raises(TextsError, match="measure text has 100 tokens"):
        measure(model, None, text, settings=SETTINGS)


def test_the_lengths_default_to_the_trained_and_the_target_window(model: LanguageModel, text: TokenText) -> None:
    settings = MeasureRecipe(metrics=("perplexity",), windows=1)
    assert [s.context_tokens for s in measure(model, None, text, settings=settings)] == [64]
    ntk = closed_form(model.spec, "ntk", 192)
    assert [s.context_tokens for s in measure(model, ntk, text, settings=settings)] == [64, 192]


def test_records_carry_everything_and_nothing_twice(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    settings = MeasureRecipe(lengths=(600, 64, 600), windows=2, tail_tokens=16, passkeys=10, metrics=("perplexity",))
    long_settings = replace(settings, lengths=(600,), metrics=("passkey", "perplexity"))
    ntk = closed_form(model.spec, "ntk", 600)
    scores = measure(model, None, text, settings=settings, run=run, seed=4)
    scores += measure(model, ntk, text, settings=long_settings, run=run, seed=4)
    lines = [json.loads(line) for line in run.scores.read_text().splitlines()]
    assert sorted(map(json.dumps, lines)) == sorted(json.dumps(asdict(score)) for score in scores)
    for line in lines:
        assert list(line) == [f.name for f in fields(Score)]
        assert line["low"] * (1 - 1e-9) <= line["value"] <= line["high"] * (1 + 1e-9)
        assert (line["seed"], line["model"]) == (4, model.name)
        assert (line["method"], bool(line["factors_fingerprint"])) in {("none", False), ("ntk", True)}
        assert line["seconds"] > 0
        assert min(line["num_tokens"], line["num_windows"]) > 0
        assert re.fullmatch(r"[0-9a-f]{16}", line["texts_fingerprint"])
    keys = [(line["method"], line["context_tokens"], line["metric"]) for line in lines]
    assert len(set(keys)) == len(keys) == 2 * 2 + 2 + 11
    perplexities = {line["texts_fingerprint"] for line in lines if line["metric"].startswith("perplexity")}
    assert perplexities == {fingerprint(text.windows(600, 2))}


def test_what_is_in_the_run_is_not_measured_again(
    model: LanguageModel, text: TokenText, tmp_path: Path, forbidden: Callable[[], None]
) -> None:
    settings = MeasureRecipe(lengths=(64, 600), metrics=("perplexity",), windows=2, tail_tokens=16, passkeys=10)
    both = replace(settings, lengths=(600,), metrics=("perplexity", "passkey"))
    ntk, run = closed_form(model.spec, "ntk", 600), RunDir(tmp_path)
    first = measure(model, ntk, text, settings=settings, run=run)
    second = measure(model, ntk, text, settings=both, run=run)
    written = run.scores.read_bytes()
    forbidden()
    again = measure(model, ntk, text, settings=settings, run=run)
    assert sorted(again, key=repr) == sorted(first, key=repr)
    assert sorted(measure(model, ntk, text, settings=both, run=run), key=repr) == sorted(second, key=repr)
    assert run.scores.read_bytes() == written
    with pytest.raises(AssertionError, match="measured again"):
        measure(model, None, text, settings=settings, run=run, method="none")


def interrupted_after(lines: int, model: LanguageModel, text: TokenText, folder: Path) -> tuple[list[Score], ...]:
    """Measure; again with a file cut in the line after ``lines`` whole ones: scores and file of both."""
    settings = MeasureRecipe(lengths=(600,), windows=2, tail_tokens=16, passkeys=10)
    whole, broken = RunDir(folder / "whole"), RunDir(folder / "broken")
    expected = measure(model, None, text, settings=settings, run=whole)
    content = whole.scores.read_bytes()
    assert content.count(b"\n") == 13
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    broken.scores.write_bytes(content[: ([0, *ends][lines] + 20)])
    scores = measure(model, None, text, settings=settings, run=broken)
    files = [read_records(run.scores, Score) for run in (broken, whole)]
    broken_file, whole_file, scores, expected = (
        sorted(without_seconds(some), key=repr) for some in (*files, scores, expected)
    )
    return scores, expected, broken_file, whole_file


@pytest.mark.parametrize("lines", [0, 1, 2, 7, 12, 13])
def test_measuring_that_was_interrupted_gives_the_same_scores(
    lines: int, model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    scores, expected, *_ = interrupted_after(lines, model, text, tmp_path)
    assert scores == expected


@pytest.mark.parametrize("lines", [1, 7])
def test_measuring_that_was_interrupted_writes_every_score_once(
    lines: int, model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    """Whoever reads scores.jsonl must not count the parts of a metric twice: cut among them, and measured again."""
    *_, written, expected = interrupted_after(lines, model, text, tmp_path)
    assert written == expected


def measured_or_refused(*given_to_measure: Any, run: RunDir) -> list[Score] | None:
    """Scores by their order in print, or None where the run directory is refused."""
    try:
        return sorted(without_seconds(measure(*given_to_measure, settings=SETTINGS, run=run)), key=repr)
    except RunError:
        return None


def test_scores_of_other_factors_are_not_taken_for_these(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    """One run directory, one method name, two tables of factors: the second is measured, or the directory refused."""
    run = RunDir(tmp_path)
    one = RescaleFactors((1.0, 1.5, 2.0, 2.5), 128, model.spec.fingerprint, method="longrope-gradient")
    other = replace(one, lambdas=(2.0, 3.0, 4.0, 9.0))
    measure(model, one, text, settings=SETTINGS, run=run)
    expected = sorted(without_seconds(measure(model, other, text, settings=SETTINGS)), key=repr)
    assert measured_or_refused(model, other, text, run=run) in (None, expected)


def test_scores_of_other_texts_are_not_taken_for_these(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    run, other = RunDir(tmp_path), TokenText(text.tokens[::-1].copy(), "measure")
    measure(model, None, text, settings=SETTINGS, run=run)
    expected = sorted(without_seconds(measure(model, None, other, settings=SETTINGS)), key=repr)
    assert measured_or_refused(model, None, other, run=run) in (None, expected)
