"""Objectives whose optimum is known, and quick searches of them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from longrope.models import LanguageModel, rescaled
from longrope.recipe import CmaRecipe, EvolutionRecipe, GradientRecipe, SearchRecipe
from longrope.rope import RescaleFactors, RopeSpec, baseline_factors
from longrope.runs.records import Trial
from longrope.search.descend import descend
from longrope.search.evolve import evolve
from longrope.search.score import Evaluation, TrialLog
from longrope.search.space import START_TOKENS, FactorSpace

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


def without_seconds(trials: list[Trial]) -> list[Trial]:
    """Trials as they must repeat; only the wall clock may differ."""
    return [replace(trial, seconds=0.0) for trial in trials]


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


QUICK = SearchRecipe(
    validation_windows=2,
    tail_tokens=50,
    evolution=EvolutionRecipe(population=8, parents=4, mutations=3, crossovers=3, generations=3, windows=2),
    gradient=GradientRecipe(steps=5, validate_every=2),
    cma=CmaRecipe(passes=150),
)
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
