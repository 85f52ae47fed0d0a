"""Start tokens after a tuning that had none, and in the search for a short window, which may drop those of the long."""

from dataclasses import replace
from typing import Any

import pytest
from valleys import GRADIENT, QUICK, Valley, mean_loss

from longrope.data import TokenText
from longrope.models import LanguageModel
from longrope.rope import RescaleFactors, baseline_factors, compose, relative_to, tuned_spec
from longrope.runs.records import Trial
from longrope.search import cut_windows, find_factors, search_short_window

LONGEST = (1.2, 2.0, 5.0, 8.0)


@pytest.mark.parametrize("method", ["gradient", "evolution"])
def test_a_second_search_tries_start_tokens_where_the_tuning_had_none(
    method: str, model: LanguageModel, text: TokenText, tuned_with: RescaleFactors
) -> None:
    """Their losses are those of the composed factors with so many start tokens; those of a tuning stay."""
    without, trials = replace(tuned_with, start_tokens=0), list[Trial]()
    given: dict[str, Any] = {"settings": replace(QUICK, method=method), "seed": 3}
    find_factors(model, text, 512, tuned_with=without, on_trial=trials.append, **given)
    tried = next(trial for trial in trials if trial.start_tokens and trial.kind == "validation")
    relative = baseline_factors(tuned_spec(model.spec, without), "pi", 512).factor_sets[0]
    names = ("lambdas", "start_tokens", "attention_factor")
    whole = compose(without, replace(relative, **{name: getattr(tried, name) for name in names}), model.spec)
    assert whole.start_tokens == tried.start_tokens
    _, held_out = cut_windows(text, 512, 2, seed=3)
    assert tried.loss_nats == pytest.approx(mean_loss(model, whole, held_out, tail=50), rel=1e-5)


@pytest.mark.parametrize(("tuned", "found"), [(0, 0), (0, 16), (8, 8)])
def test_relative_factors_keep_start_tokens_that_the_tuning_did_not_have(
    tuned: int, found: int, model: LanguageModel, tuned_with: RescaleFactors
) -> None:
    first = replace(tuned_with, start_tokens=tuned)
    lambdas = tuple(2 * x for x in first.lambdas)
    whole = replace(first, lambdas=lambdas, target_window=512, start_tokens=found)
    relative = relative_to(first, whole, model.spec)
    assert relative.start_tokens == (0 if tuned else found)
    assert compose(first, relative, model.spec).start_tokens == found


class NamedValley(Valley):
    """With the name that a log knows its windows by."""

    fingerprint = "valley"


@pytest.mark.parametrize("best", [0, 16])
def test_a_short_window_has_the_start_tokens_that_are_best_for_it(
    best: int, model: LanguageModel, text: TokenText
) -> None:
    """Those of the long window, or none."""
    spec = model.spec.fingerprint
    longest = RescaleFactors(LONGEST, 512, spec, 16, attention_factor=1.21, method="yarn", chosen_by=GRADIENT)
    optimum = tuple(x**0.5 for x in LONGEST)
    valley = NamedValley(optimum, 1.1, start_tokens=best)
    found = search_short_window(model, text, 64, longest, settings=QUICK, prepare=lambda *_, **__: valley)
    assert found.start_tokens == best
    assert found.lambdas == pytest.approx(optimum, rel=1e-12)
