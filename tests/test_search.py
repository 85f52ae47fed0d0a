"""All searches on objectives whose optimum is known, under interruptions and bad numbers, and on a pico model.

The oracles: closed-form optima, ``torch.optim.Adam``, autograd, central differences over whole logits in float64, and
counts of the calls that an objective has seen.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pico
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.random import Generator
from torch.nn import functional

from longrope.data import TokenText, load_texts
from longrope.errors import FactorsError, ModelError, RunError, TextsError
from longrope.models import LanguageModel, load_model, rescaled
from longrope.recipe import EvolutionRecipe, GradientRecipe, SearchRecipe
from longrope.rope import RescaleFactors, RopeSpec, baseline_factors, critical_lambdas, load_factors, tuned_spec
from longrope.runs.records import Trial, read_records
from longrope.runs.run_dir import RunDir
from longrope.search import check_short_search, cut_windows, find_factors, search_short_window
from longrope.search.cost import compare_costs, count_passes, count_short_passes
from longrope.search.descend import (
    WORTHWHILE,
    Adam,
    descend,
    increments_of,
    lambdas_of,
    slope_of_increments,
)
from longrope.search.evolve import evolve
from longrope.search.score import Evaluation, TrialLog, TunedObjective, WindowObjective
from longrope.search.space import START_TOKENS, Candidate, FactorSpace

SPEC = RopeSpec(head_dim=8, rotary_dim=8, theta=10_000.0, trained_window=64)
TARGET = 256
RATIO = 4.0
STARTS = [baseline_factors(SPEC, name, TARGET).factor_sets[0] for name in ("pi", "ntk", "yarn")]
CRITICAL = baseline_factors(SPEC, "critical", TARGET).factor_sets[0]
SPACE = FactorSpace(SPEC.num_pairs, RATIO, max_start_tokens=TARGET - 1)
OPTIMUM = (1.15, 1.6, 4.3, 4.7)
QUICK_EVOLUTION = EvolutionRecipe(population=10, parents=5, mutations=4, crossovers=4, generations=6, windows=1)
QUICK_DESCENT = GradientRecipe(steps=10, validate_every=3)
EVOLUTION, GRADIENT = "longrope-evolution", "longrope-gradient"


class InterruptError(Exception):
    """What stands in for a killed process."""


@dataclass
class Valley:
    """Quadratic in the logarithms of lambda and of the attention factor, with a preferred number of start tokens.

    ``calls`` lists every evaluation; with ``patience`` the next one beyond it raises.
    """

    optimum: tuple[float, ...] = OPTIMUM
    attention: float = 1.1
    start_tokens: int = 4
    validation_optimum: tuple[float, ...] = ()
    patience: int = 10**9
    calls: list[tuple[str, RescaleFactors]] = field(default_factory=list)

    def loss(self, factors: RescaleFactors, optimum: tuple[float, ...]) -> float:
        """The loss in nats, 2 at the optimum."""
        gaps = np.log(factors.lambdas) - np.log(optimum)
        away = abs(START_TOKENS.index(factors.start_tokens) - START_TOKENS.index(self.start_tokens))
        return float(2 + gaps @ gaps + 5 * math.log(factors.attention_factor / self.attention) ** 2 + 0.02 * away)

    def called(self, kind: str, factors: RescaleFactors) -> None:
        """Note the call, or break off."""
        if len(self.calls) >= self.patience:
            raise InterruptError
        self.calls.append((kind, factors))

    def search_loss(self, factors: RescaleFactors) -> Evaluation:
        self.called("search", factors)
        return Evaluation(self.loss(factors, self.optimum), 100, 1000)

    def validation_loss(self, factors: RescaleFactors) -> Evaluation:
        self.called("validation", factors)
        return Evaluation(self.loss(factors, self.validation_optimum or self.optimum), 50, 500)

    def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
        self.called("gradient", factors)
        slope = 2 * (np.log(factors.lambdas) - np.log(self.optimum)) / np.array(factors.lambdas)
        by_attention = 10 * math.log(factors.attention_factor / self.attention)
        return Evaluation(self.loss(factors, self.optimum), 100, 4000, (*slope.tolist(), by_attention))


@dataclass
class Noise(Valley):
    """An adversary: validation has nothing to do with the search loss, and losses may be NaN or infinite."""

    seed: int = 0
    broken: float = 0.0

    def draw(self, kind: str, factors: RescaleFactors) -> float:
        """A number that depends on all of the factors and on nothing else."""
        asked = [self.seed, kind, factors.lambdas, factors.start_tokens, factors.attention_factor]
        digest = hashlib.sha256(json.dumps(asked).encode()).digest()
        rng = np.random.default_rng(list(digest))
        if rng.random() < self.broken:
            return float(rng.choice([math.nan, math.inf, -math.inf]))
        return float(rng.normal(3))

    def search_loss(self, factors: RescaleFactors) -> Evaluation:
        self.called("search", factors)
        return Evaluation(self.draw("search", factors), 100, 1000)

    def validation_loss(self, factors: RescaleFactors) -> Evaluation:
        self.called("validation", factors)
        return Evaluation(self.draw("validation", factors), 50, 500)

    def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
        self.called("gradient", factors)
        slopes = [self.draw(f"slope {i}", factors) - 3 for i in range(SPEC.num_pairs + 1)]
        return Evaluation(self.draw("search", factors), 100, 4000, tuple(slopes))


Search = Callable[..., RescaleFactors]


def evolving(objective: Any, log: TrialLog | None = None, **changes: Any) -> RescaleFactors:
    """Run the evolution with quick settings, where no others are given."""
    given_settings = {"settings": QUICK_EVOLUTION, "space": SPACE, "seed": 0, "attention_factor": 1.1, **changes}
    return evolve(objective, starts=STARTS, log=log or TrialLog(None, EVOLUTION), **given_settings)


def descending(objective: Any, log: TrialLog | None = None, settings: GradientRecipe = QUICK_DESCENT) -> RescaleFactors:
    """Run the descent with quick settings, where no others are given."""
    return descend(
        objective, SPEC, [*STARTS, CRITICAL], settings, max_start_tokens=TARGET - 1, log=log or TrialLog(None, GRADIENT)
    )


BOTH = pytest.mark.parametrize(
    ("search", "method"), [(evolving, EVOLUTION), (descending, GRADIENT)], ids=["evolve", "descend"]
)


# A known optimum


@pytest.mark.parametrize("seed", [0, 1])
def test_evolution_with_the_paper_numbers_finds_a_known_optimum(seed: int) -> None:
    """Within 3 % in every lambda (the bounds are 1 and 5), and the preferred start tokens exactly."""
    found = evolving(Valley(), settings=EvolutionRecipe().filled(TARGET), seed=seed)
    assert np.abs(np.log(found.lambdas) - np.log(OPTIMUM)).max() < 0.03
    assert found.start_tokens == 4
    assert (found.method, found.chosen_by) == (EVOLUTION, EVOLUTION)
    assert (found.attention_factor, found.target_window) == (1.1, TARGET)


@pytest.mark.parametrize(
    ("start", "steps"), [("pi", 1000), ("ntk", 300), ("yarn", 300), ("critical", 1000), ("scan", 1000)]
)
def test_descent_finds_a_known_optimum_from_every_start(start: str, steps: int) -> None:
    """Within 2 % in every lambda and in the attention factor, and the preferred start tokens exactly.

    PI and the critical-pair factors begin with increments near nothing, where softplus is flat: they take longer.
    """
    found = descending(Valley(attention=1.2), settings=GradientRecipe(steps=steps, start=start))
    assert np.abs(np.log(found.lambdas) - np.log(OPTIMUM)).max() < 0.02
    assert found.attention_factor == pytest.approx(1.2, rel=0.01)
    assert found.start_tokens == 4
    assert (found.method, found.chosen_by, found.target_window) == (GRADIENT, GRADIENT, TARGET)


def test_descent_with_the_default_numbers_closes_most_of_the_gap() -> None:
    valley = Valley(attention=1.2, start_tokens=0)
    found = descending(valley, settings=GradientRecipe())
    best_start = min(valley.loss(start, OPTIMUM) for start in STARTS)
    assert valley.loss(found, OPTIMUM) - 2 < 0.2 * (best_start - 2)


def test_a_rate_that_is_too_high_costs_steps_and_not_the_result() -> None:
    """The descent goes back to its best point and on from there with more care: still closer than any start."""
    valley = Valley(attention=1.2, start_tokens=0)
    found = descending(valley, settings=GradientRecipe(learning_rate=3.0, steps=60))
    best_start = min(valley.loss(start, OPTIMUM) for start in [*STARTS, CRITICAL])
    assert valley.loss(found, OPTIMUM) - 2 < 0.5 * (best_start - 2)


def test_the_schedule_goes_back_where_the_held_out_windows_got_worse() -> None:
    """To the best point that the descent has validated, and on from there at half the rate, by Adam's first step."""
    log = TrialLog(None, GRADIENT)
    rates = GradientRecipe(learning_rate=3.0, attention_rate=1e-3, steps=24, validate_every=3, start="critical")
    descending(Valley(start_tokens=0), log, settings=rates)
    descent = [trial for trial in log.made if trial.origin == "gradient"]
    best = [trial.loss_nats for trial in log.made if (trial.kind, trial.origin) == ("validation", "critical")][-1]
    begun, best_lambdas, caution, retreats = best, descent[0].lambdas, 1.0, list[float]()
    for i, trial in enumerate(descent[:-2]):
        if trial.kind != "validation":
            continue
        if trial.loss_nats <= best:
            best, best_lambdas = trial.loss_nats, trial.lambdas
            continue
        retreats, caution = [*retreats, trial.loss_nats], caution / 2
        back, after = descent[i + 1], descent[i + 2]
        assert (back.kind, after.kind, back.lambdas) == ("gradient", "gradient", best_lambdas)
        cosine = 0.5 * (1 + math.cos(math.pi * back.step / 24))
        moved = abs(math.log(after.attention_factor / back.attention_factor))
        assert moved == pytest.approx(3.0 * 1e-3 * caution * cosine, rel=1e-4)
    assert min(retreats) < begun < max(retreats), "worse than the best point, also where better than the first"


def test_the_scan_begins_where_the_search_windows_are_best() -> None:
    """The first point of the descent is the best that was scanned, and never worse than the critical-pair factors."""
    valley, log = Valley(optimum=(1.0, 3.0, 4.5, 4.5), start_tokens=0), TrialLog(None, GRADIENT)
    descending(valley, log, settings=GradientRecipe(start="scan"))
    scanned = [trial for trial in log.made if trial.kind == "search"]
    first = next(trial for trial in log.made if trial.kind == "gradient")
    best = min(scanned, key=lambda trial: trial.loss_nats)
    assert 5 < len(scanned) <= 21
    np.testing.assert_allclose(first.lambdas, best.lambdas, rtol=0.005)
    assert first.attention_factor == pytest.approx(best.attention_factor)
    assert best.loss_nats < valley.loss(CRITICAL, valley.optimum)


@pytest.mark.parametrize("share", [0.7, 1.0, 1.3, 1.6])
def test_the_scan_finds_the_best_attention_factor_of_four(share: float) -> None:
    """Shares of the excess of LongRoPE's factor, sqrt(1 + ln 4 / ln 64), over 1; the descent begins at the best."""
    excess = math.sqrt(1 + math.log(4) / math.log(64)) - 1
    valley, log = Valley(attention=1 + share * excess, start_tokens=0), TrialLog(None, GRADIENT)
    descending(valley, log, settings=GradientRecipe(start="scan", steps=1))
    scanned = {round((trial.attention_factor - 1) / excess, 9) for trial in log.made if trial.kind == "search"}
    first = next(trial for trial in log.made if trial.kind == "gradient")
    assert scanned == {0.7, 1.0, 1.3, 1.6}
    assert first.attention_factor == pytest.approx(valley.attention, rel=1e-12)


@pytest.mark.parametrize(("gain", "kept"), [(0.5, 0), (2.0, 16)], ids=["too-little", "enough"])
def test_descent_takes_start_tokens_only_for_a_worthwhile_gain(gain: float, kept: int) -> None:
    @dataclass
    class Sloping(Valley):
        def loss(self, factors: RescaleFactors, optimum: tuple[float, ...]) -> float:
            return 2.0 - gain * WORTHWHILE * (factors.start_tokens == 16)

    assert descending(Sloping()).start_tokens == kept


def test_start_tokens_stay_below_the_target_window() -> None:
    short = [baseline_factors(SPEC, name, 65).factor_sets[0] for name in ("pi", "ntk", "yarn", "critical")]
    valley = Valley(start_tokens=256)
    descend(
        valley, SPEC, short, QUICK_DESCENT, max_start_tokens=short[0].target_window - 1, log=TrialLog(None, GRADIENT)
    )
    tried = {factors.start_tokens for kind, factors in valley.calls}
    assert tried <= set(START_TOKENS)
    assert (min(tried), max(tried)) == (0, 64)


@BOTH
def test_validation_decides_and_not_the_search_loss(search: Search, method: str) -> None:
    """The descent goes to one optimum, the held-out windows prefer another: the result is what validates best."""
    valley = Valley(validation_optimum=(1.0, 1.2, 1.5, 2.0), start_tokens=0)
    found = search(valley)
    tried = [valley.loss(factors, valley.validation_optimum) for kind, factors in valley.calls if kind == "validation"]
    assert valley.loss(found, valley.validation_optimum) == min(tried)
    assert min(tried) < max(tried[3:])


# Where factors come from, and who chose them


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.method)
@BOTH
def test_a_baseline_that_no_candidate_beats_keeps_its_name(search: Search, method: str, start: RescaleFactors) -> None:
    """It is the baseline to the last digit, and tells which search chose it."""
    log = TrialLog(None, method)
    found = search(Valley(optimum=start.lambdas, attention=start.attention_factor, start_tokens=0), log)
    assert found == replace(start, chosen_by=method)
    assert found.fingerprint == start.fingerprint
    assert {trial.method for trial in log.made} == {method}, "trials name their search"


def test_the_critical_pair_rule_keeps_its_name_also_where_a_scan_ends_there() -> None:
    valley = Valley(optimum=CRITICAL.lambdas, attention=CRITICAL.attention_factor, start_tokens=0)
    for start in ("critical", "scan", "yarn"):
        found = descending(valley, settings=replace(QUICK_DESCENT, start=start))
        assert found == replace(CRITICAL, chosen_by=GRADIENT)


def test_a_scanned_start_that_the_descent_does_not_beat_comes_from_the_scan() -> None:
    """One of the grid, by its definition: the critical-pair rule with fewer free pairs and a longer end."""
    pair = SPEC.critical_pair
    point = tuple(critical_lambdas(SPEC.num_pairs, pair, RATIO * 1.5, pair * 0.35).tolist())
    log = TrialLog(None, GRADIENT)
    valley = Valley(optimum=point, attention=CRITICAL.attention_factor, start_tokens=0)
    found = descending(valley, log, settings=replace(QUICK_DESCENT, start="scan"))
    assert (found.lambdas, found.attention_factor) == (point, CRITICAL.attention_factor)
    assert (log.best_validated.origin, found.method, found.chosen_by) == ("scan", "scan", GRADIENT)


@pytest.mark.parametrize(
    ("name", "attention", "method"),
    [("ntk", 1.0, EVOLUTION), ("yarn", 1.1, EVOLUTION), ("yarn", STARTS[2].attention_factor, "yarn")],
    ids=["rounded", "another-attention-factor", "the-same"],
)
def test_a_seed_of_the_evolution_is_a_baseline_only_to_the_last_digit(name: str, attention: float, method: str) -> None:
    """A rounded one, or one with another attention factor, is the evolution's own; its trial tells where it began."""
    start = next(start for start in STARTS if start.method == name)
    seed, log = SPACE.place(start.array, 0, name).lambdas, TrialLog(None, EVOLUTION)
    assert (seed == start.lambdas) == (name == "yarn"), "YaRN's lambdas are whole hundredths here"
    alone = EvolutionRecipe(population=3, parents=1, mutations=1, crossovers=1, generations=1, windows=1)
    valley = Valley(optimum=seed, attention=attention, start_tokens=0)
    found = evolving(valley, log, attention_factor=attention, settings=alone)
    assert (found.lambdas, found.attention_factor) == (seed, attention)
    assert (log.best_validated.origin, found.method, found.chosen_by) == (name, method, EVOLUTION)


@pytest.mark.parametrize("start", [*STARTS, CRITICAL], ids=lambda start: start.method)
def test_start_tokens_leave_a_baseline_its_name(start: RescaleFactors) -> None:
    found = descending(Valley(optimum=start.lambdas, attention=start.attention_factor, start_tokens=16))
    assert found == replace(start, start_tokens=16, chosen_by=GRADIENT)


# Never worse than the closed forms


@BOTH
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), broken=st.sampled_from([0.0, 0.3]))
def test_the_result_is_never_worse_on_validation_than_the_baselines(
    search: Search, method: str, seed: int, broken: float
) -> None:
    """On noise, where nothing that is learnt on the search windows helps on the held-out ones."""
    noise = Noise(seed=seed, broken=broken)
    losses = [noise.draw("validation", factors) for factors in STARTS]
    finite = [loss for loss in losses if math.isfinite(loss)]
    assume(finite)
    assert noise.draw("validation", search(noise)) <= min(finite)


@BOTH
def test_an_objective_that_punishes_every_move_gives_back_the_best_closed_form(search: Search, method: str) -> None:
    """Validation is the opposite of the search: the further the search goes, the worse it gets."""

    @dataclass
    class Opposed(Valley):
        def validation_loss(self, factors: RescaleFactors) -> Evaluation:
            near = min(math.dist(np.log(start.lambdas), np.log(factors.lambdas)) for start in STARTS)
            same = [s for s in STARTS if (s.lambdas, s.attention_factor) == (factors.lambdas, factors.attention_factor)]
            rank = STARTS.index(same[0]) if same and factors.start_tokens == 0 else 10
            return Evaluation(3 - self.loss(factors, self.optimum) / 100 + near + rank, 50, 500)

    found = search(Opposed())
    assert (found.lambdas, found.attention_factor) == (STARTS[0].lambdas, STARTS[0].attention_factor)
    assert (found.start_tokens, found.method, found.chosen_by) == (0, "pi", method)


# Bad numbers


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_never_wins(search: Search, method: str, bad: float) -> None:
    """Every validation and search loss beyond a line is bad; a good one exists and is found."""

    @dataclass
    class Cliff(Valley):
        def loss(self, factors: RescaleFactors, optimum: tuple[float, ...]) -> float:
            return bad if factors.lambdas[1] > 1.7 else super().loss(factors, optimum)

    cliff = Cliff(start_tokens=0)
    found = search(cliff)
    assert math.isfinite(cliff.loss(found, OPTIMUM))
    assert found.lambdas[1] <= 1.7


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_search_whose_starts_are_all_bad_is_refused(search: Search, method: str, bad: float) -> None:
    """It compares nothing: the first candidate would win whatever it is."""

    @dataclass
    class Broken(Valley):
        def loss(self, factors: RescaleFactors, optimum: tuple[float, ...]) -> float:
            return bad

        def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
            return Evaluation(bad, 100, 4000, (bad,) * (SPEC.num_pairs + 1))

    broken = Broken()
    with pytest.raises(ModelError, match=r"No loss of .* is finite at 256 tokens .*pi, ntk, yarn"):
        search(broken)
    assert [kind for kind, _ in broken.calls] == ["validation"] * len(broken.calls)
    assert 3 <= len(broken.calls) <= 4


@BOTH
@pytest.mark.parametrize("good", ["pi", "ntk", "yarn"])
def test_one_start_with_a_finite_loss_is_enough(search: Search, method: str, good: str) -> None:
    """All else is NaN, on the search windows as on the held-out ones: the good start is the result."""
    start = next(factors for factors in STARTS if factors.method == good)

    @dataclass
    class OnlyOne(Valley):
        def loss(self, factors: RescaleFactors, optimum: tuple[float, ...]) -> float:
            same = (factors.lambdas, factors.attention_factor) == (start.lambdas, start.attention_factor)
            return 3.0 if same and factors.start_tokens == 0 else math.nan

    assert search(OnlyOne()).lambdas == start.lambdas


@pytest.mark.parametrize("method", ["gradient", "evolution"])
def test_a_model_whose_weights_became_nan_is_not_searched(method: str, text: TokenText) -> None:
    """Such as by a training: what was loaded was finite."""
    model, trials = pico.make_model("llama"), list[Trial]()
    model.network.lm_head.weight.fill_(math.nan)
    with pytest.raises(ModelError, match=r"No loss of 'pico-llama' is finite at 128 tokens"):
        find_factors(model, text, 128, settings=SearchRecipe(method=method), on_trial=trials.append)
    assert {(trial.step, trial.kind) for trial in trials} == {(0, "validation")}
    longest, trials[:] = baseline_factors(model.spec, "yarn", 128).factor_sets[0], []
    with pytest.raises(ModelError, match=r"No loss of 'pico-llama' is finite at 64 tokens.*share-0, share-0\.25"):
        search_short_window(model, text, 64, longest, on_trial=trials.append)
    assert len(trials) == 5


@pytest.mark.parametrize(("loss", "slope"), [(3.0, math.nan), (math.nan, math.nan), (math.nan, 1e6), (math.inf, 1e6)])
def test_a_step_whose_numbers_are_bad_teaches_nothing(loss: float, slope: float) -> None:
    @dataclass
    class Hiccup(Valley):
        def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
            fine = super().gradient(factors, step)
            return Evaluation(loss, 100, 4000, (slope,) * (SPEC.num_pairs + 1)) if step == 2 else fine

    hiccup = Hiccup()
    found = descending(hiccup)
    steps = [factors for kind, factors in hiccup.calls if kind == "gradient"]
    assert steps[3] == steps[2]
    assert steps[4] != steps[3]
    assert all(math.isfinite(x) for x in found.lambdas)


def test_bad_losses_are_written_as_infinite(tmp_path: Path) -> None:
    log = TrialLog(tmp_path / "trials.jsonl", GRADIENT)
    for bad in (math.nan, -math.inf, math.inf):
        log.evaluate(0, "search", "pi", STARTS[0], lambda bad=bad: Evaluation(bad, 1, 1))  # type: ignore[misc]
    assert [trial.loss_nats for trial in read_records(tmp_path / "trials.jsonl", Trial)] == [math.inf] * 3


# Determinism and resuming


def without_seconds(trials: list[Trial]) -> list[Trial]:
    """Trials as they must repeat; only the wall clock may differ."""
    return [replace(trial, seconds=0.0) for trial in trials]


def test_evolution_is_decided_by_its_seed() -> None:
    logs = [TrialLog(None, EVOLUTION) for _ in range(3)]
    found = [evolving(Valley(), log, seed=seed) for log, seed in zip(logs, (7, 7, 8), strict=True)]
    assert found[0] == found[1]
    assert without_seconds(logs[0].made) == without_seconds(logs[1].made)
    assert without_seconds(logs[0].made) != without_seconds(logs[2].made)


def test_descent_is_deterministic() -> None:
    logs = [TrialLog(None, GRADIENT) for _ in range(2)]
    assert descending(Valley(), logs[0]) == descending(Valley(), logs[1])
    assert without_seconds(logs[0].made) == without_seconds(logs[1].made)


@BOTH
@pytest.mark.parametrize("share", [0.0, 0.02, 0.15, 0.5, 0.9, 0.999])
def test_an_interrupted_search_goes_on_and_repeats_nothing(
    search: Search, method: str, share: float, tmp_path: Path
) -> None:
    path = tmp_path / "trials.jsonl"
    whole, whole_log = Valley(), TrialLog(tmp_path / "whole.jsonl", method)
    expected = search(whole, whole_log)
    first = Valley(patience=int(share * len(whole.calls)))
    with pytest.raises(InterruptError):
        search(first, TrialLog(path, method))
    second, log = Valley(), TrialLog(path, method)
    assert search(second, log) == expected
    assert first.calls + second.calls == whole.calls
    assert without_seconds(read_records(path, Trial)) == without_seconds(whole_log.made)
    assert without_seconds(log.made) == without_seconds(whole_log.made)


@BOTH
def test_a_search_interrupted_again_and_again_ends_the_same(search: Search, method: str, tmp_path: Path) -> None:
    """Seven more evaluations each time, and every second time the last line is torn by the crash."""
    whole = Valley()
    expected, found, rounds, spent = search(whole), None, 0, 0
    while found is None:
        valley = Valley(patience=7)
        try:
            found = search(valley, TrialLog(tmp_path / "trials.jsonl", method))
        except InterruptError:
            with (tmp_path / "trials.jsonl").open("a") as file:
                file.write('{"method": "longrope-' * (rounds % 2))
        rounds, spent = rounds + 1, spent + len(valley.calls)
    assert found == expected
    assert spent == len(whole.calls)
    assert rounds == -(-len(whole.calls) // 7) or rounds == len(whole.calls) // 7 + 1


@BOTH
def test_a_finished_search_is_answered_from_its_log_alone(search: Search, method: str, tmp_path: Path) -> None:
    expected = search(Valley(), TrialLog(tmp_path / "trials.jsonl", method))
    seen: list[Trial] = []
    log = TrialLog(tmp_path / "trials.jsonl", method, on_trial=seen.append)
    assert search(Valley(patience=0), log) == expected
    assert seen == log.made


def test_two_searches_share_one_file(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    with pytest.raises(InterruptError):
        evolving(Valley(patience=20), TrialLog(path, EVOLUTION))
    descended = descending(Valley(), TrialLog(path, GRADIENT))
    assert evolving(Valley(), TrialLog(path, EVOLUTION)) == evolving(Valley())
    assert descending(Valley(patience=0), TrialLog(path, GRADIENT)) == descended


@pytest.mark.parametrize(
    ("search", "method", "changes"),
    [
        (evolving, EVOLUTION, {"seed": 1}),
        (evolving, EVOLUTION, {"attention_factor": 1.2}),
        (evolving, EVOLUTION, {"settings": replace(QUICK_EVOLUTION, mutation_probability=0.5)}),
        (descending, GRADIENT, {"settings": replace(QUICK_DESCENT, validate_every=2)}),
        (descending, GRADIENT, {"settings": replace(QUICK_DESCENT, learning_rate=0.2)}),
        (descending, GRADIENT, {"settings": replace(QUICK_DESCENT, start="yarn")}),
    ],
)
def test_the_log_of_another_search_is_refused(
    search: Search, method: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "trials.jsonl"
    search(Valley(), TrialLog(path, method))
    before = path.read_bytes()
    with pytest.raises(RunError, match="another search"):
        search(Valley(), TrialLog(path, method), **changes)
    assert path.read_bytes() == before


# The paper's numbers


@dataclass(frozen=True)
class WatchedSpace(FactorSpace):
    """Notes who became a parent, and how many candidates were scored by then."""

    log: TrialLog = field(default_factory=lambda: TrialLog(None, EVOLUTION))
    parents: list[tuple[str, int, Candidate]] = field(default_factory=list)

    def note(self, kind: str, parent: Candidate) -> None:
        """Remember a parent."""
        self.parents.append((kind, sum(trial.kind == "search" for trial in self.log.made), parent))

    def mutate(self, parent: Candidate, rng: Generator, probability: float) -> Candidate:
        assert probability == 0.3
        self.note("mutation", parent)
        return super().mutate(parent, rng, probability)

    def cross(self, first: Candidate, second: Candidate, rng: Generator) -> Candidate:
        self.note("crossover", first)
        self.note("crossover", second)
        return super().cross(first, second, rng)


@pytest.mark.parametrize(
    ("window", "population", "parents", "new", "generations"), [(TARGET, 64, 32, 16, 40), (2**20, 32, 32, 8, 40)]
)
def test_the_paper_numbers_are_the_ones_that_are_spent(
    window: int, population: int, parents: int, new: int, generations: int
) -> None:
    """On 32 pairs, where two proposals are hardly ever the same."""
    spec = RopeSpec(head_dim=64, rotary_dim=64, theta=10_000.0, trained_window=64)
    starts = [baseline_factors(spec, name, TARGET).factor_sets[0] for name in ("pi", "ntk", "yarn")]
    log, valley = TrialLog(None, EVOLUTION), Valley(optimum=tuple(np.linspace(1, 4, 32).tolist()))
    settings = EvolutionRecipe().filled(window)
    assert settings.parents == parents
    evolve(valley, FactorSpace(32, RATIO), starts, settings, attention_factor=1.1, seed=0, log=log)
    searched = [trial for trial in log.made if trial.kind == "search"]
    assert len(searched) == sum(kind == "search" for kind, _ in valley.calls)
    assert population - 2 <= sum(trial.step == 0 for trial in searched) <= population
    assert 0.95 * (population + generations * 2 * new) < len(searched) <= population + generations * 2 * new
    for generation in range(1, generations + 1):
        origins = [trial.origin for trial in searched if trial.step == generation]
        assert origins.count("mutation") <= new
        assert origins.count("crossover") <= new
        assert len(origins) == origins.count("mutation") + origins.count("crossover")
    assert {trial.step for trial in searched} == set(range(generations + 1))


def test_parents_are_the_best_so_far_and_all_of_them_are_used() -> None:
    log = TrialLog(None, EVOLUTION)
    space = WatchedSpace(SPEC.num_pairs, RATIO, log=log)
    evolving(Valley(), log, settings=EvolutionRecipe().filled(TARGET), space=space)
    searched = [trial for trial in log.made if trial.kind == "search"]
    loss_of = {(trial.lambdas, trial.start_tokens): trial.loss_nats for trial in searched}
    ranks = []
    for _, scored, parent in space.parents:
        if scored:  # the others are parents of the first population
            better = sorted(trial.loss_nats for trial in searched[:scored])
            ranks.append(np.searchsorted(better, loss_of[parent.lambdas, parent.start_tokens]))
    assert max(ranks) == 31
    assert np.bincount(ranks, minlength=32).min() > 0
    seeds = {parent.lambdas for _, scored, parent in space.parents if not scored}
    assert seeds == {SPACE.place(start.array, 0, "").lambdas for start in STARTS}


def test_the_best_of_the_last_generation_is_validated() -> None:
    """Generation 4 is due by ``validate_every``, 5 because it is the last: nothing that was found is lost."""
    improved = 0
    for seed in range(8):
        valley, log = Valley(start_tokens=0), TrialLog(None, EVOLUTION)
        found = evolving(valley, log, settings=replace(QUICK_EVOLUTION, generations=5, validate_every=4), seed=seed)
        losses = [(trial.loss_nats, trial.step) for trial in log.made if trial.kind == "search"]
        best, generation = min(losses)
        improved += generation == 5
        assert valley.loss(found, OPTIMUM) == best
        assert (log.made[-1].kind == "validation") == (generation == 5)
    assert improved >= 3


def test_every_proposal_is_feasible_and_start_tokens_vary(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    evolving(Valley(), TrialLog(path, EVOLUTION), settings=EvolutionRecipe().filled(TARGET))
    descending(Valley(), TrialLog(path, GRADIENT))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) > 1000
    for line in lines:
        assert line["lambdas"] == sorted(line["lambdas"])
        assert line["lambdas"][0] >= 1
        assert line["start_tokens"] in {n for n in START_TOKENS if n < TARGET}
        if (line["method"], line["kind"]) == (EVOLUTION, "search"):
            assert line["lambdas"][-1] <= 1.25 * RATIO
            assert all(x == round(x, 2) for x in line["lambdas"])
            assert line["attention_factor"] == 1.1
    searched = [line for line in lines if (line["method"], line["kind"]) == (EVOLUTION, "search")]
    assert len({line["start_tokens"] for line in searched}) >= 10
    assert len({(*line["lambdas"], line["start_tokens"]) for line in searched}) == len(searched)


# The mathematics of the descent


def test_adam_is_torch_adam() -> None:
    """500 steps of three rates, gradients over twelve orders of magnitude."""
    rng = np.random.default_rng(0)
    rates = np.array([0.1, 0.01, 0.5])
    begin = rng.normal(size=3)
    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in begin]
    oracle = torch.optim.Adam([{"params": [t], "lr": lr} for t, lr in zip(tensors, rates, strict=True)])
    adam = Adam(begin.copy(), rates)
    for _ in range(500):
        gradient = rng.normal(size=3) * 10 ** rng.uniform(-9, 3)
        for tensor, slope in zip(tensors, gradient, strict=True):
            tensor.grad = torch.tensor(slope, dtype=torch.float64)
        oracle.step()
        adam.step(gradient)
        np.testing.assert_allclose(adam.parameters, [t.item() for t in tensors], rtol=1e-10, atol=1e-12)


def test_adam_scale_multiplies_one_step() -> None:
    whole, half, none = (Adam(np.zeros(2), np.array([0.1, 0.2])) for _ in range(3))
    for adam, scale in ((whole, 1.0), (half, 0.5), (none, 0.0)):
        adam.step(np.array([3.0, -2.0]), scale)
    np.testing.assert_allclose(whole.parameters, [-0.1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(half.parameters, whole.parameters / 2)
    assert none.parameters.tolist() == [0.0, 0.0]


vectors = st.lists(st.floats(-6, 3), min_size=1, max_size=32)


pairs, ratios = st.integers(0, 32), st.floats(1, 32)


@settings(deadline=None)
@given(vectors, st.integers(0, 1000), pairs, ratios)
def test_slope_of_increments_is_what_autograd_gives(
    increments: list[float], seed: int, critical: int, ratio: float
) -> None:
    """From the critical pair on, the sum goes on from ln s where it is below that."""
    critical = min(critical, len(increments))
    weights = np.random.default_rng(seed).normal(size=len(increments))
    u = torch.tensor(increments, dtype=torch.float64, requires_grad=True)
    steps = functional.softplus(u, beta=50.0, threshold=1e9)
    logs: list[torch.Tensor] = []
    for i, step in enumerate(steps):
        before = logs[-1] if logs else torch.zeros((), dtype=torch.float64)
        logs.append((before.clamp(min=math.log(ratio)) if i == critical else before) + step)
    lambdas = torch.stack(logs).exp()
    (torch.tensor(weights) @ lambdas).backward()
    assert u.grad is not None
    scale = np.abs(weights) @ lambdas.detach().numpy()
    slope = slope_of_increments(np.array(increments), weights.tolist(), critical, ratio)
    np.testing.assert_allclose(slope, u.grad.numpy(), rtol=1e-9, atol=1e-12 * scale)
    found = lambdas_of(np.array(increments), critical, ratio)
    np.testing.assert_allclose(found, lambdas.detach().numpy(), rtol=1e-12)
    assert (found[critical:] >= ratio * (1 - 1e-12)).all()


@settings(deadline=None)
@given(st.lists(st.floats(-0.055, 0.2), min_size=1, max_size=32), pairs, ratios)
def test_increments_and_lambdas_are_inverse(increments: list[float], critical: int, ratio: float) -> None:
    critical = min(critical, len(increments))
    lambdas = lambdas_of(np.array(increments), critical, ratio)
    np.testing.assert_allclose(increments_of(lambdas, critical, ratio), increments, rtol=1e-6, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(1, 64), min_size=1, max_size=32).map(sorted), pairs, ratios)
def test_lambdas_come_back_up_to_the_smallest_increment(lambdas: list[float], critical: int, ratio: float) -> None:
    """Flat stretches are raised by a thousandth a pair, and never more; from the critical pair on all are s or more."""
    critical = min(critical, len(lambdas))
    back = lambdas_of(increments_of(np.array(lambdas), critical, ratio), critical, ratio)
    wanted = np.where(np.arange(len(lambdas)) >= critical, np.maximum(lambdas, ratio), lambdas)
    assert (np.diff(back, prepend=1.0) > 0).all()
    assert (np.log(back / wanted) >= -1e-9).all()
    assert (np.log(back / wanted) <= 1e-3 * np.arange(1, len(lambdas) + 1) + 1e-9).all()


def test_the_descent_keeps_pairs_that_never_turned_fully_at_the_ratio_or_above() -> None:
    """Whatever the loss over text would like."""
    log = TrialLog(None, GRADIENT)
    descending(Valley(optimum=(1.15, 1.6, 2.9, 3.7), start_tokens=0), log, settings=GradientRecipe(steps=300))
    descent = [trial for trial in log.made if trial.origin == "gradient"]
    assert min(min(trial.lambdas[SPEC.critical_pair :]) for trial in descent) >= RATIO * (1 - 1e-9)
    np.testing.assert_allclose(descent[-1].lambdas, (1.15, 1.6, RATIO, RATIO), rtol=0.02)


# On a model


@pytest.fixture(scope="module")
def model(pico_folder: Path) -> LanguageModel:
    """The pico model, loaded."""
    return load_model(pico_folder, device="cpu")


@pytest.fixture(scope="module")
def text(text_folders: tuple[Path, Path], model: LanguageModel) -> TokenText:
    """The search part of some texts."""
    return load_texts([text_folders[0]], model.tokenizer).search


def mean_loss(model: LanguageModel, factors: RescaleFactors, windows: Any, tail: int = 0) -> float:
    """The mean loss in nats from the whole logits in float64, by one matrix of log-probabilities."""
    tokens = torch.from_numpy(np.asarray(windows)).long()
    with rescaled(model, factors), torch.no_grad():
        logits = model.network(tokens, use_cache=False).logits.double()
    losses = -logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    return float(losses[:, -tail:].sum() / losses[:, -tail:].numel())


def as_factors(model: LanguageModel, trial: Trial | RescaleFactors) -> RescaleFactors:
    """The factors of a trial, for this model."""
    return RescaleFactors(
        trial.lambdas,
        128,
        model.spec.fingerprint,
        start_tokens=trial.start_tokens,
        attention_factor=trial.attention_factor,
    )


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


QUICK = SearchRecipe(
    validation_windows=2,
    tail_tokens=50,
    evolution=EvolutionRecipe(population=8, parents=4, mutations=3, crossovers=3, generations=3, windows=2),
    gradient=GradientRecipe(steps=5, validate_every=2),
)


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
        windows = held_out if trial.kind == "validation" else searched[:2]
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


@pytest.mark.parametrize("method", ["gradient", "evolution"])
def test_a_finished_search_is_read_and_not_repeated(
    method: str, model: LanguageModel, text: TokenText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(QUICK, method=method)
    found = find_factors(model, text, 128, run=RunDir(tmp_path), settings=settings)
    assert find_factors(model, text, 128, settings=settings) == found

    def never(*_: object, **__: object) -> None:
        raise AssertionError("evaluated again")

    monkeypatch.setattr("longrope.search.score.rescaled", never)
    assert find_factors(model, text, 128, run=RunDir(tmp_path), settings=settings) == found
    with pytest.raises(RunError, match="trials of another search"):
        find_factors(model, text, 256, run=RunDir(tmp_path), settings=settings)


@pytest.mark.parametrize("method", ["gradient", "evolution"])
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


# On a model that was tuned


@pytest.fixture(scope="module")
def tuned_with(model: LanguageModel) -> RescaleFactors:
    """What weights may have been tuned with; that these were not does not matter to the search."""
    ntk = baseline_factors(model.spec, "ntk", 128).factor_sets[0]
    return replace(ntk, attention_factor=1.08, start_tokens=4)


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
    objective = TunedObjective(WindowObjective.prepare(model, windows[:2], windows[2:], 2, 20), first)
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


@pytest.mark.parametrize("method", ["gradient", "evolution"])
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


# A short window of an extended model


@dataclass
class NamedValley(Valley):
    """With the name that a log knows its windows by."""

    fingerprint: str = "valley"


LONGEST = (1.2, 2.0, 5.0, 8.0)


def search_short_on(
    valley: Any, model: LanguageModel, text: TokenText, patch: pytest.MonkeyPatch, **given: Any
) -> RescaleFactors:
    """The factor set of 64 tokens of a model extended to 512, by an objective whose optimum is known."""
    longest = RescaleFactors(
        LONGEST, 512, model.spec.fingerprint, attention_factor=1.21, method="yarn", chosen_by=GRADIENT
    )
    patch.setattr(WindowObjective, "prepare", lambda *_, **__: valley)
    return search_short_window(model, text, 64, longest, settings=given.pop("settings", QUICK), **given)


def test_the_models_own_rope_comes_back_where_it_is_best(
    model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = search_short_on(NamedValley((1.0,) * 4, 1.0, start_tokens=0), model, text, monkeypatch)
    assert found.is_identity
    assert (found.target_window, found.method, found.chosen_by) == (64, "none", "longrope-recovered")
    found.check_spec(model.spec)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 1.0])
def test_a_share_of_the_long_factors_is_taken_where_it_is_best(
    share: float, model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an exponent; the descent from there finds nothing better."""
    optimum = tuple(x**share for x in LONGEST)
    found = search_short_on(NamedValley(optimum, 1.21**share, start_tokens=0), model, text, monkeypatch)
    assert found.lambdas == pytest.approx(optimum, rel=1e-12)
    assert found.attention_factor == pytest.approx(1.21**share, rel=1e-12)
    method = "yarn" if share == 1 else "longrope-recovered"
    assert (found.method, found.chosen_by) == (method, "longrope-recovered")


def test_the_schedule_to_a_short_window_leaves_the_shares_where_another_point_is_better(
    model: LanguageModel, text: TokenText, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every pair free, also those that never turned fully."""
    optimum = (1.1, 1.15, 2.9, 2.95)
    valley = NamedValley(optimum, 1.05, start_tokens=0)
    found = search_short_on(
        valley, model, text, monkeypatch, settings=replace(QUICK, gradient=GradientRecipe(steps=300, validate_every=10))
    )
    best_share = min(valley.loss(factors, optimum) for kind, factors in valley.calls[:5])
    assert valley.loss(found, optimum) - 2 < 0.1 * (best_share - 2)
    np.testing.assert_allclose(found.lambdas, optimum, rtol=0.05)


@pytest.mark.parametrize("stop", [0, 3, 7, 10])
def test_the_search_for_a_short_window_is_resumed_from_its_log(
    stop: int, model: LanguageModel, text: TokenText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = RunDir(tmp_path), NamedValley((1.1, 1.2, 2.0, 3.0), 1.05, start_tokens=0)
    expected = search_short_on(whole, model, text, monkeypatch)
    first, second = replace(whole, patience=stop, calls=[]), replace(whole, calls=[])
    with pytest.raises(InterruptError):
        search_short_on(first, model, text, monkeypatch, run=run)
    assert search_short_on(second, model, text, monkeypatch, run=run) == expected
    assert first.calls + second.calls == whole.calls
    assert search_short_on(replace(whole, patience=0, calls=[]), model, text, monkeypatch, run=run) == expected


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


# What searches cost


TEMPLATE = TrialLog(None, GRADIENT).validate(0, "pi", STARTS[0], Valley())


def trial(method: str, kind: str, origin: str, loss: float, passes: int, seconds: float) -> Trial:
    """A hand-made record."""
    return replace(
        TEMPLATE,
        method=f"longrope-{method}",
        kind=kind,
        origin=origin,
        loss_nats=loss,
        token_passes=passes,
        seconds=seconds,
    )


GRADIENT_TRIALS = [
    trial("gradient", "validation", "pi", 9.0, 10, 1.0),
    trial("gradient", "validation", "ntk", 1.0, 10, 1.0),  # closed forms that are better than all that is found
    trial("gradient", "validation", "critical", 1.0, 10, 1.0),
    trial("gradient", "gradient", "gradient", 2.0, 40, 4.0),
    trial("gradient", "validation", "gradient", 4.0, 10, 1.0),
    trial("gradient", "validation", "gradient", 3.0, 10, 1.0),
    trial("gradient", "validation", "start-tokens", 2.5, 10, 1.25),
]
EVOLUTION_TRIALS = [
    trial("evolution", "validation", "ntk", 1.0, 10, 2.0),
    trial("evolution", "search", "mutation", 2.0, 20, 2.0),
    trial("evolution", "validation", "mutation", 5.0, 10, 2.0),
    trial("evolution", "search", "crossover", 1.5, 20, 2.0),
    trial("evolution", "validation", "crossover", 3.5, 10, 2.0),
]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient": GradientRecipe(steps=10, scan_windows=1, start="yarn")},
        {"gradient": GradientRecipe(steps=20, scan_windows=4), "validation_windows": 5},
        {"method": "evolution", "evolution": EvolutionRecipe(population=20, mutations=6, crossovers=6, generations=8)},
        {"method": "evolution", "evolution": replace(QUICK_EVOLUTION, windows=4), "validation_windows": 3},
    ],
    ids=str,
)
def test_passes_are_about_as_many_as_were_foreseen(
    changes: dict[str, Any], model: LanguageModel, text: TokenText, tuned_with: RescaleFactors
) -> None:
    """Within a third of what the trials of a search tell, the first one and one on a tuned model."""
    settings = SearchRecipe(**changes)
    for factors, target in ((None, 128), (tuned_with, 256)):
        made: list[Trial] = []
        find_factors(model, text, target, tuned_with=factors, settings=settings, on_trial=made.append)
        passes = sum(trial.token_passes for trial in made) / target
        assert count_passes(settings, target) == pytest.approx(passes, rel=1 / 3)


@pytest.mark.parametrize("method", ["gradient", "evolution"])
def test_passes_over_short_windows_are_about_as_many_as_were_foreseen(
    method: str, model: LanguageModel, text: TokenText
) -> None:
    """By gradient whatever the method for the long window is."""
    settings, made = SearchRecipe(method=method), list[Trial]()
    longest = baseline_factors(model.spec, "yarn", 256).factor_sets[0]
    search_short_window(model, text, 64, longest, settings=settings, on_trial=made.append)
    passes = sum(trial.token_passes for trial in made) / 64
    assert count_short_passes(settings, 64, 256) == pytest.approx(passes, rel=0.05)


def test_costs_are_counted_up_to_the_loss_that_all_have_reached() -> None:
    mixed = [*EVOLUTION_TRIALS[:2], *GRADIENT_TRIALS, *EVOLUTION_TRIALS[2:]]
    costs = {cost.method: cost for cost in compare_costs(mixed)}
    gradient, evolution = costs["longrope-gradient"], costs["longrope-evolution"]
    assert gradient.common_loss_nats == evolution.common_loss_nats == 3.5
    assert (gradient.validation_loss_nats, evolution.validation_loss_nats) == (2.5, 3.5)
    assert (gradient.trials, gradient.token_passes, gradient.seconds) == (7, 100, 10.25)
    assert (evolution.trials, evolution.token_passes, evolution.seconds) == (5, 70, 10.0)
    assert (gradient.trials_to_common, gradient.token_passes_to_common, gradient.seconds_to_common) == (6, 90, 9.0)
    assert (evolution.trials_to_common, evolution.token_passes_to_common) == (5, 70)


def test_one_search_alone_and_none() -> None:
    (cost,) = compare_costs(GRADIENT_TRIALS)
    assert (cost.common_loss_nats, cost.trials_to_common) == (2.5, 7)
    assert compare_costs([]) == []


def test_a_search_that_found_nothing_of_its_own_does_not_break_the_table() -> None:
    """An evolution whose best is still a start, or one that was interrupted early, has validated only closed forms."""
    costs = {cost.method: cost for cost in compare_costs([*GRADIENT_TRIALS, *EVOLUTION_TRIALS[:2]])}
    assert costs["longrope-gradient"].validation_loss_nats == 2.5
    assert "longrope-evolution" not in costs
    assert compare_costs(EVOLUTION_TRIALS[:2]) == []
