"""Searches on a pico model, original and tuned; the oracles are whole logits and central differences in float64."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measuring import no_passes
from valleys import QUICK, InterruptError, as_factors, mean_loss, without_seconds

from longrope.data import TokenText, load_texts
from longrope.errors import FactorsError, RunError, TextsError
from longrope.models import LanguageModel, load_model, rescaled
from longrope.rope import RescaleFactors, baseline_factors, load_factors, tuned_spec
from longrope.runs.records import Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.search import cut_windows, find_factors
from longrope.search.score import WindowObjective


@pytest.mark.parametrize("tail", [0, 20])
def test_the_objective_is_the_sum_of_losses_over_the_tokens(tail: int, model: LanguageModel, text: TokenText) -> None:
    windows = text.windows(96, 7)
    objective = WindowObjective.prepare(model, windows[:4], windows[4:], search_count=3, tail_tokens=tail)
    factors = baseline_factors(model.spec, "yarn", 96).factor_sets[0]
    searched, held_out = objective.search_loss(factors), objective.validation_loss(factors)
    assert searched.loss_nats == pytest.approx(mean_loss(model, factors, windows[:3], tail), rel=1e-6)
    assert held_out.loss_nats == pytest.approx(mean_loss(model, factors, windows[4:], tail), rel=1e-6)
    assert (searched.num_tokens, searched.token_passes) == (3 * (tail or 95), 3 * 96)
    assert (held_out.num_tokens, held_out.token_passes) == (3 * (tail or 95), 3 * 96)
    for step in range(5):
        evaluation = objective.gradient(factors, step)
        own = windows[step % 4][None]
        assert evaluation.loss_nats == pytest.approx(mean_loss(model, factors, own, tail), rel=1e-5)
        assert (evaluation.num_tokens, evaluation.token_passes) == (tail or 95, 4 * 96)


def answer_positions(model: LanguageModel, window: np.ndarray) -> list[int]:
    """Where the tokens of the answers stand, by the characters that each token stands for."""
    pieces = [str(model.tokenizer.decode([token])) for token in window]
    ends = np.cumsum([len(piece) for piece in pieces])
    spans = [found.span(1) for found in re.finditer(r"\? The code of the \w+ is (\d{5})", "".join(pieces))]
    return [
        i for i, (end, piece) in enumerate(zip(ends, pieces, strict=True)) for a, b in spans if a < end <= b and piece
    ]


def test_needles_are_weighed_beside_the_text(model: LanguageModel, text: TokenText) -> None:
    """The mean over the tail, plus the weight times the mean over the answers: summed by hand from whole logits."""
    windows = text.windows(2048, 2)
    objective = WindowObjective.prepare(model, windows[:1], windows[1:], 1, tail_tokens=300, needle_weight=0.7, seed=5)
    again = WindowObjective.prepare(model, windows[:1], windows[1:], 1, tail_tokens=300, needle_weight=0.7, seed=5)
    factors = baseline_factors(model.spec, "yarn", 2048).factor_sets[0]
    planted = objective.search_windows[0]
    positions = answer_positions(model, planted)
    assert len(positions) >= 8 * 5
    with rescaled(model, factors), torch.no_grad():
        log_shares = model.network(torch.from_numpy(planted)[None].long(), use_cache=False).logits[0].double()
    losses = [-log_shares[i - 1].log_softmax(0)[planted[i]].item() for i in range(1, 2048)]
    tail, answers = losses[-300:], [losses[i - 1] for i in positions]
    expected = sum(tail) / 300 + 0.7 * sum(answers) / len(answers)
    assert objective.search_loss(factors).loss_nats == pytest.approx(expected, rel=1e-5)
    assert objective.gradient(factors, 0).loss_nats == pytest.approx(expected, rel=1e-5)
    assert objective.search_loss(factors).num_tokens == len({*range(1748, 2048), *positions})
    assert objective.fingerprint == again.fingerprint
    for changed in ({"needle_weight": 0.8}, {"tail_tokens": 301}, {"seed": 6}):
        options: dict[str, Any] = {"tail_tokens": 300, "needle_weight": 0.7, "seed": 5, **changed}
        other = WindowObjective.prepare(model, windows[:1], windows[1:], 1, **options)
        assert other.fingerprint != objective.fingerprint


@pytest.mark.parametrize("tail", [0, 20])
def test_the_gradient_is_that_of_central_differences(tail: int, tmp_path: Path, text: TokenText) -> None:
    """Along every lambda and the logarithm of the attention factor, in float64, which StableLM's norms keep."""
    pico.save_pico(tmp_path, "stablelm", initializer_range=0.2, rope={"partial_rotary_factor": 0.5})
    model = load_model(tmp_path, device="cpu", dtype="float64")
    windows = text.windows(96, 3)
    ntk = baseline_factors(model.spec, "ntk", 128).factor_sets[0]
    lambdas = tuple((ntk.array * np.linspace(1.02, 1.1, model.spec.num_pairs)).tolist())
    factors = replace(ntk, lambdas=lambdas, attention_factor=1.13, start_tokens=8)
    given_gradient = WindowObjective.prepare(model, windows, windows, 1, tail).gradient(factors, 1).gradient

    def loss(at: np.ndarray) -> float:
        moved = replace(factors, lambdas=tuple(at[:-1].tolist()), attention_factor=math.exp(at[-1]))
        return mean_loss(model, moved, windows[1][None], tail)

    here = np.append(lambdas, math.log(1.13))
    expected = [(loss(here + step) - loss(here - step)) / 2e-5 for step in 1e-5 * np.eye(len(here))]
    assert np.abs(expected).min() > 1e-5
    np.testing.assert_allclose(given_gradient, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("method", ["gradient", "evolution"])
def test_factors_are_found_on_a_model_and_beat_the_baselines(
    method: str, model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    run, settings = RunDir(tmp_path), replace(QUICK, method=method)
    seen: list[Trial] = []
    found = find_factors(model, text, 128, run=run, settings=settings, seed=3, on_trial=seen.append)
    trials = read_records(run.trials, Trial)
    assert trials == seen
    assert {trial.method for trial in trials} == {found.chosen_by} == {f"longrope-{method}"}
    assert load_factors(run.factors(found.chosen_by)).factor_sets == (found,)
    assert (found.target_window, len(found.lambdas)) == (128, model.spec.num_pairs)
    assert found.searched
    wanted = 2 if method == "evolution" else 5
    searched, held_out = cut_windows(text, 128, 2, seed=3)
    searched = searched[:wanted]
    for i, trial in enumerate(trials):
        windows = held_out if trial.kind in ("validation", "tail", "tail-alone") else searched[:2]
        if trial.kind == "gradient":
            windows = searched[trial.step % len(searched)][None]
        if i % 3 == 0 or trial.kind == "gradient":
            expected = mean_loss(model, as_factors(model, trial), windows, tail=50)
            assert trial.loss_nats == pytest.approx(expected, rel=1e-5)
    for rival in ("pi", "ntk", "yarn"):
        closed = baseline_factors(model.spec, rival, 128).factor_sets[0]
        assert mean_loss(model, found, held_out, 50) <= mean_loss(model, closed, held_out, 50) + 1e-6
    if method == "gradient":
        losses = [trial.loss_nats for trial in trials if trial.kind == "validation"]
        assert min(losses) < min(losses[:3])
    else:  # every candidate has LongRoPE's own attention factor at s = 128 / 64 of a window of 64
        (attention,) = {trial.attention_factor for trial in trials if trial.kind == "search"}
        assert attention == pytest.approx(math.sqrt(1 + math.log(2) / math.log(64)), rel=1e-12)


@pytest.mark.parametrize("method", ["gradient", "evolution", "cma"])
def test_a_finished_search_is_read_and_not_repeated(
    method: str, model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    settings = replace(QUICK, method=method)
    found = find_factors(model, text, 128, run=RunDir(tmp_path), settings=settings)
    assert find_factors(model, text, 128, settings=settings) == found
    with no_passes():
        assert find_factors(model, text, 128, run=RunDir(tmp_path), settings=settings) == found
    with pytest.raises(RunError, match="trials of another search"):
        find_factors(model, text, 256, run=RunDir(tmp_path), settings=settings)


@pytest.mark.parametrize("method", ["gradient", "evolution", "cma"])
def test_a_search_on_a_model_is_resumed(method: str, model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    settings = replace(QUICK, method=method)
    expected = find_factors(model, text, 128, run=RunDir(tmp_path / "whole"), settings=settings)
    whole = read_records(RunDir(tmp_path / "whole").trials, Trial)

    def stop_at(count: int) -> Callable[[Trial], None]:
        seen: list[Trial] = []

        def on_trial(trial: Trial) -> None:
            seen.append(trial)
            if len(seen) == count:
                raise InterruptError

        return on_trial

    run = RunDir(tmp_path / "broken")
    for count in (2, len(whole) // 2, len(whole) - 1):
        with pytest.raises(InterruptError):
            find_factors(model, text, 128, run=run, settings=settings, on_trial=stop_at(count))
    assert find_factors(model, text, 128, run=run, settings=settings) == expected
    assert without_seconds(read_records(run.trials, Trial)) == without_seconds(whole)


def test_a_search_is_not_resumed_on_other_texts(
    model: LanguageModel, text: TokenText, text_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    """What the refusal says: a search is resumed only with the settings, texts and model that began it."""
    run = RunDir(tmp_path)

    def stop(trial: Trial) -> None:
        if trial.step == 2:
            raise InterruptError

    with pytest.raises(InterruptError):
        find_factors(model, text, 128, run=run, settings=QUICK, on_trial=stop)
    other = load_texts([text_folders[1]], model.tokenizer).search
    with pytest.raises(RunError):
        find_factors(model, other, 128, run=run, settings=QUICK)


@pytest.mark.parametrize("target", [1, 64])
def test_a_target_within_the_trained_window_is_refused(target: int, model: LanguageModel, text: TokenText) -> None:
    with pytest.raises(FactorsError, match="trained on 64 tokens already"):
        find_factors(model, text, target, settings=QUICK)


def test_a_text_without_room_for_a_search_window_is_refused(model: LanguageModel, text: TokenText) -> None:
    short = TokenText(text.tokens[: 2 * 128 + 100], "search")
    with pytest.raises(TextsError, match="3 windows of 128 tokens"):
        find_factors(model, short, 128, settings=QUICK)


@settings(deadline=None)
@given(
    size=st.integers(30, 600),
    length=st.integers(2, 20),
    held_out=st.integers(1, 5),
    seed=st.integers(0, 99),
    bos=st.booleans(),
)
def test_search_and_validation_windows_are_disjoint(
    size: int, length: int, held_out: int, seed: int, bos: bool
) -> None:
    """Tokens are their own positions; all windows that fit are cut."""
    text = TokenText(np.arange(size, dtype=np.int32), "search", bos=10_000 if bos else None)
    fitting = size // (length - bos)
    if fitting < held_out + 1:
        with pytest.raises(TextsError):
            cut_windows(text, length, held_out, seed)
        return
    searched, validated = cut_windows(text, length, held_out, seed)
    assert searched.shape == (fitting - held_out, length)
    assert validated.shape == (held_out, length)
    drawn = np.concatenate([searched, validated])[:, int(bos) :].ravel()
    assert len(np.unique(drawn)) == len(drawn)


def test_the_seed_decides_the_order_of_the_search_windows_alone() -> None:
    text = TokenText(np.arange(2000, dtype=np.int32), "search")
    (a, held_a), (b, held_b), (c, held_c) = (cut_windows(text, 50, 3, seed) for seed in (1, 1, 2))
    assert a.tolist() == b.tolist() != c.tolist()
    assert sorted(a.tolist()) == sorted(c.tolist())
    assert held_a.tolist() == held_b.tolist() == held_c.tolist()
    assert held_a[0, 0] < 700 < held_a[1, 0] < 1300 < held_a[2, 0]


# A model that was tuned


def composed(tuned_with: RescaleFactors, relative: Any) -> RescaleFactors:
    """The factors of the model itself, by hand: all numbers multiplied, the start tokens those of the tuning."""
    lambdas = tuple(x * y for x, y in zip(tuned_with.lambdas, relative.lambdas, strict=True))
    return replace(
        tuned_with, lambdas=lambdas, attention_factor=tuned_with.attention_factor * relative.attention_factor
    )


def test_the_gradient_by_relative_factors_is_that_of_central_differences(tmp_path: Path, text: TokenText) -> None:
    """In float64, along every relative lambda and the logarithm of the relative attention factor; the losses, too."""
    pico.save_pico(tmp_path, "stablelm", initializer_range=0.2, rope={"partial_rotary_factor": 0.5})
    model = load_model(tmp_path, device="cpu", dtype="float64")
    windows = text.windows(96, 3)
    first = replace(baseline_factors(model.spec, "ntk", 128).factor_sets[0], attention_factor=1.13, start_tokens=8)
    ntk = baseline_factors(tuned_spec(model.spec, first), "ntk", 512).factor_sets[0]
    lambdas = tuple((ntk.array * np.linspace(1.02, 1.1, model.spec.num_pairs)).tolist())
    relative = replace(ntk, lambdas=lambdas, attention_factor=1.05)
    objective = WindowObjective.prepare(model, windows[:2], windows[2:], 2, 20, tuned_with=first)
    found = objective.gradient(relative, 1)

    def loss(at: np.ndarray) -> float:
        moved = replace(relative, lambdas=tuple(at[:-1].tolist()), attention_factor=math.exp(at[-1]))
        return mean_loss(model, composed(first, moved), windows[1][None], 20)

    here = np.append(lambdas, math.log(1.05))
    expected = [(loss(here + step) - loss(here - step)) / 2e-5 for step in 1e-5 * np.eye(len(here))]
    assert np.abs(expected).min() > 1e-5
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
    assert found.loss_nats == pytest.approx(loss(here), rel=1e-6)
    whole = composed(first, relative)
    assert objective.search_loss(relative).loss_nats == pytest.approx(mean_loss(model, whole, windows[:2], 20))
    assert objective.validation_loss(relative).loss_nats == pytest.approx(mean_loss(model, whole, windows[2:], 20))


@pytest.mark.parametrize("method", ["gradient", "evolution", "cma"])
def test_a_second_search_goes_on_from_the_factors_of_the_tuning(
    method: str, model: LanguageModel, text: TokenText, tuned_with: RescaleFactors, tmp_path: Path
) -> None:
    """Trials are relative to them, and the result is of the model itself: no lambda falls below the tuned one."""
    run, settings = RunDir(tmp_path), replace(QUICK, method=method)
    given: dict[str, Any] = {"run": run, "settings": settings, "seed": 3}
    found = find_factors(model, text, 512, tuned_with=tuned_with, **given)
    trials = read_records(run.trials, Trial)
    assert (found.target_window, found.spec_fingerprint) == (512, model.spec.fingerprint)
    assert (found.start_tokens, found.chosen_by) == (4, f"longrope-{method}")
    assert load_factors(run.factors(found.chosen_by)).factor_sets == (found,)
    assert found.method in ("ntk", *(f"ntk+{name}" for name in ("pi", "yarn", "critical", f"longrope-{method}")))
    assert all(a >= b for a, b in zip(found.lambdas, tuned_with.lambdas, strict=True))
    _, held_out = cut_windows(text, 512, 2, seed=3)
    geometry = tuned_spec(model.spec, tuned_with)
    for at, name in enumerate(("pi", "ntk", "yarn")):
        relative = baseline_factors(geometry, name, 512).factor_sets[0]
        assert (trials[at].origin, trials[at].lambdas) == (name, relative.lambdas)
        expected = mean_loss(model, composed(tuned_with, relative), held_out, tail=50)
        assert trials[at].loss_nats == pytest.approx(expected, rel=1e-5)
        assert mean_loss(model, found, held_out, tail=50) <= expected + 1e-6
    assert trials[0].lambdas == (4.0,) * 4, "the ratio is to the window of the tuning"
    assert {trial.start_tokens for trial in trials} == {0}
    best = min((trial for trial in trials if trial.kind == "validation"), key=lambda trial: trial.loss_nats)
    assert found.lambdas == composed(tuned_with, best).lambdas
    assert find_factors(model, text, 512, tuned_with=tuned_with, **given) == found
    assert read_records(run.trials, Trial) == trials
    for other in (None, replace(tuned_with, attention_factor=1.09)):
        with pytest.raises(RunError, match="trials of another search"):
            find_factors(model, text, 512, tuned_with=other, **given)


@pytest.mark.parametrize("target", [64, 100, 128])
def test_a_target_within_the_window_of_the_tuning_is_refused(
    target: int, model: LanguageModel, text: TokenText, tuned_with: RescaleFactors
) -> None:
    with pytest.raises(FactorsError, match="trained on 128 tokens already"):
        find_factors(model, text, target, tuned_with=tuned_with, settings=QUICK)
