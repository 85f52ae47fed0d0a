"""The search for a short window of an extended model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
from valleys import GRADIENT, QUICK, InterruptError, Valley, as_factors, mean_loss

from longrope.data import TokenText
from longrope.errors import TextsError
from longrope.models import LanguageModel
from longrope.recipe import GradientRecipe
from longrope.rope import RescaleFactors, baseline_factors
from longrope.runs.records import Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.search import check_short_search, cut_windows, search_short_window


@dataclass
class NamedValley(Valley):
    """With the name that a log knows its windows by."""

    fingerprint: str = "valley"


LONGEST = (1.2, 2.0, 5.0, 8.0)


def search_short_on(valley: Any, model: LanguageModel, text: TokenText, **given: Any) -> RescaleFactors:
    """The factor set of 64 tokens of a model extended to 512, by an objective whose optimum is known."""
    longest = RescaleFactors(
        LONGEST, 512, model.spec.fingerprint, attention_factor=1.21, method="yarn", chosen_by=GRADIENT
    )
    settings = given.pop("settings", QUICK)
    return search_short_window(model, text, 64, longest, settings=settings, prepare=lambda *_, **__: valley, **given)


def test_the_models_own_rope_comes_back_where_it_is_best(model: LanguageModel, text: TokenText) -> None:
    found = search_short_on(NamedValley((1.0,) * 4, 1.0, start_tokens=0), model, text)
    assert found.is_identity
    assert (found.target_window, found.method, found.chosen_by) == (64, "none", "longrope-recovered")
    found.check_spec(model.spec)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
def test_a_share_of_the_long_factors_is_taken_where_it_is_best(
    share: float, model: LanguageModel, text: TokenText
) -> None:
    """As an exponent; the descent from there finds nothing better."""
    optimum = tuple(x**share for x in LONGEST)
    found = search_short_on(NamedValley(optimum, 1.21**share, start_tokens=0), model, text)
    assert found.lambdas == pytest.approx(optimum, rel=1e-12)
    assert found.attention_factor == pytest.approx(1.21**share, rel=1e-12)
    method = "yarn" if share == 1 else "longrope-recovered"
    assert (found.method, found.chosen_by) == (method, "longrope-recovered")


def test_the_schedule_to_a_short_window_leaves_the_shares_where_another_point_is_better(
    model: LanguageModel, text: TokenText
) -> None:
    """With every pair free, also those that never turned fully."""
    optimum = (1.1, 1.15, 2.9, 2.95)
    valley = NamedValley(optimum, 1.05, start_tokens=0)
    found = search_short_on(
        valley, model, text, settings=replace(QUICK, gradient=GradientRecipe(steps=300, validate_every=10))
    )
    best_share = min(valley.loss(factors, optimum) for kind, factors in valley.calls[:5])
    assert valley.loss(found, optimum) - 2 < 0.1 * (best_share - 2)
    np.testing.assert_allclose(found.lambdas, optimum, rtol=0.05)


@pytest.mark.parametrize("stop", [0, 3, 7, 10])
def test_the_search_for_a_short_window_is_resumed_from_its_log(
    stop: int, model: LanguageModel, text: TokenText, tmp_path: Path
) -> None:
    run, whole = RunDir(tmp_path), NamedValley((1.1, 1.2, 2.0, 3.0), 1.05, start_tokens=0)
    expected = search_short_on(whole, model, text)
    first, second = replace(whole, patience=stop, calls=[]), replace(whole, calls=[])
    with pytest.raises(InterruptError):
        search_short_on(first, model, text, run=run)
    assert search_short_on(second, model, text, run=run) == expected
    assert first.calls + second.calls == whole.calls
    assert search_short_on(replace(whole, patience=0, calls=[]), model, text, run=run) == expected


def test_a_short_window_is_searched_on_a_model(model: LanguageModel, text: TokenText, tmp_path: Path) -> None:
    """The losses are those of short windows: eight times as many are held out where the long ones have that length."""
    longest, run = baseline_factors(model.spec, "yarn", 512).factor_sets[0], RunDir(tmp_path)
    seen: list[Trial] = []
    found = search_short_window(model, text, 64, longest, run=run, settings=QUICK, seed=3, on_trial=seen.append)
    searched, held_out = cut_windows(text, 64, 16, seed=3)
    trials = read_records(run.trials, Trial)
    assert trials == seen
    assert [trial.origin for trial in trials[:5]] == [f"share-{share}" for share in ("0", "0.25", "0.5", "0.75", "1")]
    for trial in trials:
        together = np.arange(8 * trial.step, 8 * trial.step + 8) % (8 * QUICK.gradient.steps)
        windows = searched[together] if trial.kind == "gradient" else held_out
        assert trial.loss_nats == pytest.approx(mean_loss(model, as_factors(model, trial), windows), rel=1e-5)
    assert trials[0].lambdas == (1.0,) * 4
    assert trials[4].lambdas == longest.lambdas
    validated = [trial for trial in trials if trial.kind == "validation"]
    best = min(validated, key=lambda trial: trial.loss_nats)
    assert (found.lambdas, found.attention_factor) == (best.lambdas, best.attention_factor)
    assert found.searched
    found.check_spec(model.spec)


def test_a_text_too_short_to_recover_a_window_is_refused(model: LanguageModel, text: TokenText) -> None:
    longest = baseline_factors(model.spec, "yarn", 512).factor_sets[0]
    short = replace(text, tokens=text.tokens[: 17 * 64 - 1], documents=np.zeros(1, np.int64))
    for work in (
        lambda: search_short_window(model, short, 64, longest, settings=QUICK),
        lambda: check_short_search(short, 64, 512, QUICK),
    ):
        with pytest.raises(TextsError, match="17 windows of 64 tokens"):
            work()
    check_short_search(replace(short, tokens=text.tokens[: 17 * 64]), 64, 512, QUICK)


@pytest.mark.parametrize("lists", [[1.03, 1.05, 1.23, 1.9], [1.0, 2.6, 2.2, 4.0]])
def test_lists_of_a_models_own_that_fall_or_are_below_those_of_the_short_window(
    lists: list[float], text: TokenText
) -> None:
    """Phi-3's: long factors relative to the short ones need not grow, nor be 1 or more."""
    own = {"short_factor": [1.05, 1.05, 1.1, 1.3], "long_factor": lists, "original_max_position_embeddings": 64}
    scaling = {"rope_type": "longrope", "rope_theta": 1e4, **own}
    sizes: dict[str, Any] = {"head_dim": 8, "max_position_embeddings": 128, "original_max_position_embeddings": 64}
    model = pico.make_model("phi3", **sizes, rope_parameters=scaling)
    longest = baseline_factors(model.spec, "ntk", 256).factor_sets[0]
    found = search_short_window(model, text, 64, longest, settings=QUICK)
    assert found.target_window == 64
