"""The last choice of a search: the tail decides where a paired interval separates candidates, needles where not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from valleys import CRITICAL, STARTS, TEMPLATE, mean_loss

from longrope.data import TokenText
from longrope.models import LanguageModel, rescaled
from longrope.recipe import SearchRecipe
from longrope.rope import RescaleFactors, baseline_factors, compose
from longrope.runs.records import Trial
from longrope.search.choice import TailAndNeedles, choose_by_loss, finalists, is_worse, make_choice
from longrope.search.score import Evaluation, TrialLog

TAILS = {"pi": [3.0, 3.1], "ntk": [2.5, 2.7], "yarn": [2.6, 2.5], "critical": [3.0, 3.2]}
NEEDLES = {"pi": 1.0, "ntk": 2.0, "yarn": 1.5, "critical": 0.5}


@dataclass(frozen=True)
class Stated(TailAndNeedles):
    """A choice whose evaluations are stated by method, and listed."""

    asked: list[tuple[str, str]] = field(default_factory=list)

    def tail_loss(self, factors: RescaleFactors) -> Evaluation:
        self.asked.append(("tail", factors.method))
        parts = TAILS[factors.method]
        return Evaluation(float(np.mean(parts)), 1, 1, parts=tuple(parts))

    def needle_loss(self, factors: RescaleFactors) -> Evaluation:
        self.asked.append(("needles", factors.method))
        return Evaluation(NEEDLES[factors.method], 1, 1)


def stated(model: LanguageModel, *, planted: bool = True) -> Stated:
    tokens = np.zeros((2, 8), np.int32)
    return Stated(model, tokens, tokens if planted else None, np.zeros((2, 7), bool), 4)


def validated(losses: dict[str, float]) -> tuple[TrialLog, Sequence[RescaleFactors]]:
    """A log with one validated trial for each start, of the loss that is given."""
    log, known = TrialLog(None, "longrope-gradient"), [*STARTS, CRITICAL]
    for start in known:
        loss = losses[start.method]
        log.evaluate(0, "validation", start.method, start, lambda loss=loss: Evaluation(loss, 1, 1))  # type: ignore[misc]  # bound at once
    return log, known


def test_needles_decide_among_those_that_the_tail_does_not_separate(model: LanguageModel) -> None:
    """NTK has the lowest loss and the lowest tail, YaRN's tail is as good by its interval, and it finds more needles.

    Both others find even more and are not asked: one is far off by its loss, the other by its tail.
    """
    log, known = validated({"pi": 2.9, "ntk": 2.0, "yarn": 2.1, "critical": 2.05})
    choice = stated(model)
    assert choose_by_loss(log, log.validated, known).origin == "ntk"
    assert choice(log, log.validated, known).origin == "yarn"
    asked = [("tail", name) for name in ("ntk", "critical", "yarn")] + [("needles", name) for name in ("ntk", "yarn")]
    assert choice.asked == asked
    assert [(trial.kind, trial.origin) for trial in log.made[4:]] == asked
    assert log.made[4].parts == (2.5, 2.7)


def test_the_tail_decides_alone_where_windows_are_too_short_for_needles(model: LanguageModel) -> None:
    log, known = validated({"pi": 2.9, "ntk": 2.1, "yarn": 2.0, "critical": 2.05})
    choice = stated(model, planted=False)
    assert choice(log, log.validated, known).origin == "yarn"
    assert {kind for kind, _ in choice.asked} == {"tail"}
    assert {trial.kind for trial in log.made[4:]} == {"tail-alone"}


def test_a_log_of_an_earlier_version_calls_tails_alone_tails(model: LanguageModel, tmp_path: Path) -> None:
    log, known = validated({"pi": 2.9, "ntk": 2.1, "yarn": 2.0, "critical": 2.05})
    log.path = tmp_path / "trials.jsonl"
    first = stated(model, planted=False)(log, log.validated, known)
    again = TrialLog(None, "longrope-gradient")
    again.made = log.made[:4]
    again._known = [replace(trial, kind="tail" if i >= 4 else trial.kind) for i, trial in enumerate(log.made)]
    choice = stated(model, planted=False)
    assert (choice(again, again.validated, known), choice.asked) == (first, [])


def test_one_candidate_costs_nothing(model: LanguageModel) -> None:
    log, known = validated({"pi": 2.9, "ntk": 2.0, "yarn": 2.6, "critical": 2.5})
    choice = stated(model)
    assert choice(log, log.validated, known).origin == "ntk"
    assert choice.asked == []


def test_a_resumed_choice_is_answered_from_the_log(model: LanguageModel, tmp_path: Path) -> None:
    log, known = validated({"pi": 2.9, "ntk": 2.0, "yarn": 2.1, "critical": 2.05})
    log.path = tmp_path / "trials.jsonl"
    first = stated(model)(log, log.validated, known)
    again = TrialLog(log.path, "longrope-gradient")
    again.made = log.made[:4]
    again._known = [*log.made[:4], *again._known]
    choice = stated(model)
    assert choice(again, again.validated, known) == first
    assert choice.asked == []


def test_finalists_are_the_best_of_each_origin_that_are_near() -> None:
    def at(origin: str, loss: float, number: int) -> Trial:
        lambdas = (1.0, *TEMPLATE.lambdas[1:-1], 4.0 + number)
        return replace(TEMPLATE, origin=origin, loss_nats=loss, lambdas=lambdas)

    made = [("a", 2.1, 0), ("a", 2.0, 1), ("b", 2.2, 2), ("c", 2.3, 3), ("d", math.inf, 4), ("e", 2.05, 1)]
    assert [(t.origin, t.loss_nats) for t in finalists([at(*one) for one in made])] == [("a", 2.0), ("b", 2.2)]


@pytest.mark.parametrize(
    ("losses", "best", "worse"),
    [
        ([2.1, 2.1, 2.2, 2.1], [2.0, 2.0, 2.0, 2.0], True),  # gap 0.125, standard error 0.025
        ([2.5, 1.7, 2.3, 1.9], [2.0, 2.0, 2.0, 2.0], False),  # gap 0.1, standard error 0.183
        ([2.01], [2.0], True),
        ([math.inf, 2.0], [2.0, 2.0], True),
    ],
)
def test_worse_is_two_standard_errors_of_the_paired_gap(losses: list[float], best: list[float], worse: bool) -> None:
    assert is_worse(losses, best) is worse


def test_tail_and_needles_are_means_over_whole_logits(model: LanguageModel, text: TokenText) -> None:
    """The tail is that of the windows, the needles are the answers alone; both for factors relative to a tuning."""
    windows = text.windows(2048, 2)
    base = baseline_factors(model.spec, "ntk", 128).factor_sets[0]
    relative = baseline_factors(replace(model.spec, trained_window=128), "yarn", 2048).factor_sets[0]
    whole = compose(base, relative, model.spec)
    choice = TailAndNeedles.prepare(model, windows, 320, seed=5, tuned_with=base)
    tail = choice.tail_loss(relative)
    assert tail.loss_nats == pytest.approx(mean_loss(model, whole, windows, 320), rel=1e-6)
    assert (len(tail.parts), tail.num_tokens, tail.token_passes) == (16, 640, 4096)
    assert tail.parts[8] * 40 == pytest.approx(40 * _losses(model, whole, windows[1])[-320:-280].mean(), rel=1e-5)
    assert choice.planted is not None
    assert (choice.planted != windows).any()
    expected = np.mean(
        [_losses(model, whole, w)[a].mean() for w, a in zip(choice.planted, choice.answers, strict=True)]
    )
    assert choice.needle_loss(relative).loss_nats == pytest.approx(expected, rel=1e-5)


def _losses(model: LanguageModel, factors: RescaleFactors, window: np.ndarray) -> np.ndarray:
    with rescaled(model, factors), torch.no_grad():
        logits = model.network(torch.from_numpy(window)[None].long(), use_cache=False).logits[0, :-1].double()
    return np.asarray(-logits.log_softmax(-1)[np.arange(len(window) - 1), window[1:]])


def test_settings_make_the_choice(model: LanguageModel, text: TokenText, caplog: pytest.LogCaptureFixture) -> None:
    made = make_choice(model, text.windows(128, 2), SearchRecipe(), 0, None)
    assert isinstance(made, TailAndNeedles)
    assert (made.tail_tokens, made.planted) == (64, None)  # 128 tokens do not hold the needles
    assert "by tails of held-out windows alone: " in caplog.text
    assert make_choice(model, text.windows(128, 2), SearchRecipe(choose_by="loss"), 0, None) is choose_by_loss
