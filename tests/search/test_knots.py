"""CMA-ES over knots: the factors of its parameters, known optima, the fast pairs, budgets, and what it resumes."""

import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from valleys import InterruptError, Valley, as_factors, mean_loss, without_seconds

from longrope.data import TokenText
from longrope.errors import RecipeError, RunError
from longrope.models import LanguageModel
from longrope.recipe import CmaRecipe, SearchRecipe
from longrope.rope import RescaleFactors, RopeSpec, baseline_factors
from longrope.runs.records import Trial, read_records
from longrope.search import check_search, cut_windows, find_factors
from longrope.search.knots import POPULATION, Knots, search_knots
from longrope.search.score import Evaluation, TrialLog

CMA = "longrope-cma"
SPEC = RopeSpec(head_dim=64, rotary_dim=64, theta=10_000.0, trained_window=256)
TARGET, HELD_OUT = 2048, 3
STARTS = [baseline_factors(SPEC, name, TARGET).factor_sets[0] for name in ("pi", "ntk", "yarn", "critical")]
GEOMETRIES = [(1e4, 256, 64), (1e5, 8192, 64), (5e5, 8192, 128), (1e6, 32768, 16)]  # theta, window, rotary width
QUICK = CmaRecipe(passes=300, windows=2)


@dataclass
class Steps(Valley):
    """A valley that reads other windows at each step: what they add to the loss is the same for all candidates."""

    def step_loss(self, factors: RescaleFactors, step: int) -> Evaluation:
        self.called(f"step {step}", factors)
        return Evaluation(self.loss(factors, self.optimum) + np.sin(step), 100, 2 * TARGET)


def searching(
    objective: Steps, log: TrialLog | None = None, recipe: CmaRecipe = QUICK, seed: int = 0
) -> RescaleFactors:
    """Search from the usual starts."""
    return search_knots(objective, SPEC, STARTS, recipe, held_out=HELD_OUT, seed=seed, log=log or TrialLog(None, CMA))


def reachable() -> tuple[tuple[float, ...], float]:
    """Lambdas and an attention factor that knots reach from any start, but for the pairs that they leave alone."""
    critical = STARTS[-1].array
    pairs = np.arange(SPEC.num_pairs)
    slow = np.interp(pairs, [9, 13, 20, 31], np.log([critical[9], 6.0, 8.5, 9.5]))
    return tuple(np.where(pairs <= 9, critical, np.exp(slow)).tolist()), 1.12


# The parameters


vectors = st.lists(st.floats(-20, 20), min_size=10, max_size=10).map(np.array)


@settings(deadline=None)
@given(vectors, st.sampled_from(STARTS))
def test_any_parameters_give_factors_that_never_decrease_and_leave_fast_pairs_alone(
    parameters: np.ndarray, start: RescaleFactors
) -> None:
    knots = Knots.place(SPEC, start)
    made = knots.factors(parameters)
    assert made.lambdas[: knots.pairs[0] + 1] == start.lambdas[: knots.pairs[0] + 1]
    assert (np.diff(made.lambdas) >= -1e-9 * np.array(made.lambdas[1:])).all()
    assert (made.method, made.target_window) == (start.method, start.target_window)


def test_factors_are_the_interpolation_of_their_knots_by_hand() -> None:
    """In a model of eight pairs that turn 4.07 times the trained window and fewer from the first one on."""
    spec = RopeSpec(head_dim=16, rotary_dim=16, theta=10_000.0, trained_window=26)
    start = baseline_factors(spec, "critical", 52).factor_sets[0]
    knots = Knots.place(spec, start)
    turns = spec.trained_window / spec.wavelengths
    assert knots.pairs == (1, 2, 3, 7) or turns[1] > 3.17
    parameters = np.arange(1, len(knots.pairs) + 1) / 10
    made = knots.factors(parameters)
    logs = np.log(start.array)
    between = zip(knots.pairs[:-1], knots.pairs[1:], parameters[:-1] * knots.scale[:-1], strict=True)
    for first, last, step in between:
        for pair in range(first + 1, last + 1):
            logs[pair] = logs[first] + step * (pair - first) / (last - first)
    np.testing.assert_allclose(made.lambdas, np.exp(logs), rtol=1e-12)
    assert made.attention_factor == pytest.approx(np.exp(parameters[-1] * knots.scale[-1]))


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.method)
def test_a_start_stays_what_it_is_at_its_knots(start: RescaleFactors) -> None:
    knots = Knots.place(SPEC, start)
    back, pairs = knots.factors(knots.begin), list(knots.pairs)
    np.testing.assert_allclose(back.array[pairs], start.array[pairs], rtol=1e-12)
    assert back.attention_factor == pytest.approx(start.attention_factor, rel=1e-12)


@pytest.mark.parametrize(("theta", "window", "rotary"), GEOMETRIES)
def test_knots_lie_where_pairs_turn_about_three_times_and_less(theta: float, window: int, rotary: int) -> None:
    """One at the critical pair, and one at the last; the first is the first pair with less than (4 / 3) ** 4 turns."""
    spec = RopeSpec(head_dim=128, rotary_dim=rotary, theta=theta, trained_window=window)
    knots = Knots.place(spec, baseline_factors(spec, "critical", 8 * window).factor_sets[0])
    turns = window / (2 * np.pi) * theta ** -(np.arange(spec.num_pairs) / spec.num_pairs)
    assert knots.pairs[0] == int(np.flatnonzero(turns < (4 / 3) ** 4)[0])
    assert {spec.critical_pair, spec.num_pairs - 1} <= {*knots.pairs}
    assert len(knots.pairs) == len(knots.scale) <= 10


def test_a_model_whose_pairs_all_turn_often_has_one_knot_and_its_attention_factor() -> None:
    spec = RopeSpec(head_dim=8, rotary_dim=8, theta=10.0, trained_window=4096)
    knots = Knots.place(spec, baseline_factors(spec, "critical", 8192).factor_sets[0])
    assert (knots.pairs, len(knots.scale)) == ((3,), 1)


# The search


@pytest.mark.parametrize("seed", [0, 1])
def test_cma_finds_a_known_optimum_whatever_each_generation_reads(seed: int) -> None:
    optimum, attention = reachable()
    valley = Steps(optimum=optimum, attention=attention, start_tokens=0)
    found = searching(valley, recipe=CmaRecipe(passes=4000, windows=1), seed=seed)
    np.testing.assert_allclose(found.lambdas[10:], optimum[10:], rtol=0.01)
    assert found.attention_factor == pytest.approx(attention, rel=0.01)
    assert (found.method, found.chosen_by) == (CMA, CMA)


def test_the_default_budget_closes_most_of_the_gap_to_the_best_start() -> None:
    optimum, attention = reachable()
    valley, log = Steps(optimum=optimum, attention=attention, start_tokens=0), TrialLog(None, CMA)
    found = searching(valley, log, recipe=CmaRecipe())
    begun = min(trial.loss_nats for trial in log.validated if trial.origin != "knots")
    assert valley.loss(found, optimum) - 2 < 0.5 * (begun - 2)


def test_held_out_windows_decide_between_the_search_and_its_starts() -> None:
    """Where they like YaRN's factors best, these are found."""
    yarn, optimum = STARTS[2], reachable()[0]
    found = searching(
        Steps(optimum=optimum, validation_optimum=yarn.lambdas, attention=yarn.attention_factor, start_tokens=0)
    )
    assert (found.lambdas, found.method, found.chosen_by) == (yarn.lambdas, "yarn", CMA)


def test_a_loss_that_is_not_finite_is_the_worst() -> None:
    """Every second candidate has none; the search goes on by the others."""

    @dataclass
    class Broken(Steps):
        def step_loss(self, factors: RescaleFactors, step: int) -> Evaluation:
            made = super().step_loss(factors, step)
            return replace(made, loss_nats=float("nan")) if len(self.calls) % 2 else made

    found = searching(Broken(optimum=reachable()[0], start_tokens=0))
    assert np.isfinite(found.lambdas).all()


@pytest.mark.parametrize(("passes", "windows"), [(95, 2), (300, 2), (333, 3), (1000, 5)])
def test_a_search_stays_within_its_passes_and_uses_them(passes: int, windows: int) -> None:
    log = TrialLog(None, CMA)
    searching(Steps(optimum=reachable()[0], start_tokens=0), log, recipe=CmaRecipe(passes=passes, windows=windows))
    done = sum(windows if trial.kind == "search" else HELD_OUT for trial in log.made)
    assert passes - POPULATION * windows - HELD_OUT < done <= passes


# Resuming


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.7, 0.999])
def test_an_interrupted_search_goes_on_and_repeats_nothing(share: float, tmp_path: Path) -> None:
    optimum = reachable()[0]
    whole, whole_log = Steps(optimum=optimum, start_tokens=0), TrialLog(None, CMA)
    expected = searching(whole, whole_log)
    first = Steps(optimum=optimum, start_tokens=0, patience=int(share * len(whole.calls)))
    with pytest.raises(InterruptError):
        searching(first, TrialLog(tmp_path / "trials.jsonl", CMA))
    second, log = Steps(optimum=optimum, start_tokens=0), TrialLog(tmp_path / "trials.jsonl", CMA)
    assert searching(second, log) == expected
    assert first.calls + second.calls == whole.calls
    assert without_seconds(read_records(tmp_path / "trials.jsonl", Trial)) == without_seconds(whole_log.made)


def test_the_seed_decides_and_another_one_is_another_search(tmp_path: Path) -> None:
    valley = Steps(optimum=reachable()[0], start_tokens=0)
    logs = [TrialLog(tmp_path / "trials.jsonl", CMA), TrialLog(None, CMA)]
    assert searching(valley, logs[0], seed=7) == searching(valley, logs[1], seed=7)
    assert without_seconds(logs[0].made) == without_seconds(logs[1].made)
    with pytest.raises(RunError, match="another search"):
        searching(valley, TrialLog(tmp_path / "trials.jsonl", CMA), seed=8)


# Of a model


def test_each_generation_of_a_model_reads_the_next_windows(model: LanguageModel, text: TokenText) -> None:
    """The losses are those of whole logits in float64 over the windows in turn, within the passes that were given."""
    made: list[Trial] = []
    recipe = SearchRecipe(method="cma", cma=CmaRecipe(passes=160, windows=2), tail_tokens=50, choose_by="loss")
    found = find_factors(model, text, 128, settings=recipe, seed=3, on_trial=made.append)
    assert found.chosen_by == CMA
    assert sum(trial.token_passes for trial in made) <= 160 * 128
    searched, held_out = cut_windows(text, 128, 2, seed=3)
    searched = searched[: 160 // POPULATION]
    for trial in made:
        windows = held_out if trial.kind == "validation" else searched[:2]
        if (trial.kind, trial.origin) == ("search", "knots"):
            windows = searched[[(2 * trial.step + i) % len(searched) for i in (0, 1)]]
        assert trial.loss_nats == pytest.approx(mean_loss(model, as_factors(model, trial), windows, tail=50), rel=1e-5)
    assert {trial.step for trial in made} >= {0, 1, 2}


# Refusals


def refused(model: LanguageModel, text: TokenText, recipe: SearchRecipe) -> RecipeError:
    """What a search is refused with before its first pass."""
    with pytest.raises(RecipeError) as early:
        check_search(model, text, 128, trained_window=64, settings=recipe)
    with pytest.raises(RecipeError) as late:
        find_factors(model, text, 128, settings=recipe)
    assert str(early.value) == str(late.value)
    return early.value


@pytest.mark.parametrize(("windows", "held_out", "least"), [(2, 2, 88), (4, 2, 162), (1, 3, 58)])
def test_too_few_passes_are_refused(
    windows: int, held_out: int, least: int, model: LanguageModel, text: TokenText
) -> None:
    """With as many as are asked for, one generation is made whatever the scan takes."""
    few = SearchRecipe(method="cma", validation_windows=held_out, cma=CmaRecipe(passes=least - 1, windows=windows))
    error = refused(model, text, few)
    assert error.found == f"search.cma.passes = {least - 1}."
    assert f"At least {least} are needed" in str(error)
    check_search(model, text, 128, trained_window=64, settings=replace(few, cma=CmaRecipe(least, windows)))


def test_without_cmaes_the_error_names_the_extra(
    model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    error = refused(model, text, SearchRecipe(method="cma"))
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (extra,) = (name for name in project["optional-dependencies"] if f"longrope[{name}]" in error.remedy)
    assert any(needed.startswith("cmaes") for needed in project["optional-dependencies"][extra])


def test_a_seed_of_many_bits_and_less_text_than_a_candidate_reads(model: LanguageModel, text: TokenText) -> None:
    """numpy's generator takes 32 bits; one search window is there, so a candidate costs one pass and not two."""
    short = TokenText(text.tokens[: 4 * 128], "search")
    settings = SearchRecipe(method="cma", validation_windows=3, cma=CmaRecipe(passes=120, windows=2))
    made: list[Trial] = []
    find_factors(model, short, 128, settings=settings, seed=2**32, on_trial=made.append)
    taken = sum(t.token_passes for t in made if t.kind in ("search", "validation")) / 128
    assert 90 <= taken <= 120
