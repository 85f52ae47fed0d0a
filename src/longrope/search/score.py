"""What a search minimises, and the log of its evaluations. Both searches share this score and are handed it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from longrope import distributed
from longrope.data import Tokens, TokenText, fingerprint, plant_needles
from longrope.engine.gradients import factor_gradient
from longrope.engine.passes import token_losses
from longrope.engine.shrinking import share_limits
from longrope.errors import ModelError, RunError
from longrope.models import LanguageModel, rescaled
from longrope.rope import RescaleFactors, at_window, compose
from longrope.runs.records import TAIL, TAIL_ALONE, Trial, append_records, read_records

Weights = NDArray[np.float64]
UNKNOWN: dict[str, Any] = {"loss_nats": math.inf, "num_tokens": 0, "token_passes": 0, "seconds": 0.0}  # before a trial
BACKWARD_PASSES = 4  # forward, forward again (recomputation), and a backward pass worth two


@dataclass(frozen=True)
class Evaluation:
    """The loss in nats, and what it cost; ``gradient`` [P + 1] is d loss / d (lambdas, ln a), ``parts`` its terms."""

    loss_nats: float
    num_tokens: int
    token_passes: int
    gradient: tuple[float, ...] = ()
    parts: tuple[float, ...] = ()


class Losses(Protocol):
    """What a search without gradients is handed. It knows no model."""

    def search_loss(self, factors: RescaleFactors) -> Evaluation:
        """The loss on the search windows."""

    def validation_loss(self, factors: RescaleFactors) -> Evaluation:
        """The loss on windows held out from the search."""


class Objective(Losses, Protocol):
    """What a search by gradient is handed."""

    def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
        """The loss on the search window of this step, with its gradient."""


@dataclass(frozen=True)
class WindowObjective:
    """The loss of a model on windows of text: the mean over all tokens or a tail, plus weighted needles if asked.

    Attributes:
        model: the model whose factors are searched.
        search_windows: [W, N] windows for ``search_loss`` (the first ``search_count``), ``step_loss`` and ``gradient``
            (in turn).
        validation_windows: [V, N] held-out windows.
        search_weights, validation_weights: [W, N - 1] and [V, N - 1] weights of each token's loss in its window's loss.
        search_count: how many windows one ``search_loss`` covers.
        gradient_count: how many windows one ``step_loss`` or ``gradient`` covers.
        tuned_with: what the candidates are relative to (``rope.counted_from``); None for those of the model itself.
    """

    model: LanguageModel
    search_windows: Tokens
    validation_windows: Tokens
    search_weights: Weights
    validation_weights: Weights
    search_count: int
    gradient_count: int = 1
    tuned_with: RescaleFactors | None = None

    @classmethod
    def prepare(
        cls,
        model: LanguageModel,
        search: Tokens,
        validation: Tokens,
        search_count: int,
        tail_tokens: int = 0,
        needle_weight: float = 0.0,
        seed: int = 0,
        gradient_count: int = 1,
        tuned_with: RescaleFactors | None = None,
    ) -> "WindowObjective":
        """Weigh the tokens of windows, and plant needles in them if these have a weight.

        Args:
            model: the model whose factors are searched.
            search: [W, N] search windows.
            validation: [V, N] held-out windows.
            search_count: how many search windows one ``search_loss`` covers.
            tail_tokens: score only the last so many tokens of each window; 0 scores all.
            needle_weight: weight of the mean loss over the answers about planted needles (LongRoPE2, section 3.2).
            seed: of the needles.
            gradient_count: how many search windows one ``step_loss`` or ``gradient`` covers, if there are so many.
            tuned_with: what the candidates are relative to, if anything.
        """
        share_limits(model)
        searched = _prepare(model, search, tail_tokens, needle_weight, np.random.default_rng([seed, 1]))
        held_out = _prepare(model, validation, tail_tokens, needle_weight, np.random.default_rng([seed, 2]))
        count = min(gradient_count, len(search))
        return cls(model, searched[0], held_out[0], searched[1], held_out[1], search_count, count, tuned_with)

    @property
    def model_name(self) -> str:
        """The model's name in records, with what the candidates are relative to."""
        return f"{self.model.name}, relative to {self.tuned_with.fingerprint}" if self.tuned_with else self.model.name

    @property
    def fingerprint(self) -> str:
        """Names the windows and what of them is scored."""
        scored = np.concatenate([self.search_weights, self.validation_weights]).astype(np.float32)
        words = np.concatenate([self.search_windows, self.validation_windows])
        return fingerprint(np.concatenate([words, scored.view(np.int32)], axis=1))

    def search_loss(self, factors: RescaleFactors) -> Evaluation:
        """The loss over the first ``search_count`` search windows."""
        count = self.search_count
        return self._mean_loss(factors, self.search_windows[:count], self.search_weights[:count])

    def validation_loss(self, factors: RescaleFactors) -> Evaluation:
        """The loss over all validation windows."""
        return self._mean_loss(factors, self.validation_windows, self.validation_weights)

    def step_loss(self, factors: RescaleFactors, step: int) -> Evaluation:
        """The loss over the next search windows; they are read in turn."""
        rows = self._rows(step)
        return self._mean_loss(factors, self.search_windows[rows], self.search_weights[rows])

    def gradient(self, factors: RescaleFactors, step: int) -> Evaluation:
        """One backward pass over the next search windows; they are read in turn.

        Processes that share a sequence each do their part of a window; rows of them all do the same step.
        """
        rows = self._rows(step)
        windows, weights = self.search_windows[rows], self.search_weights[rows]
        whole = compose(self.tuned_with, factors, self.model.spec)
        loss, slopes, by_attention = factor_gradient(self.model, whole, windows, weights / len(rows))
        if self.tuned_with:  # by the relative lambdas
            before = at_window(self.model.spec, self.tuned_with, factors.target_window)
            slopes = [slope * x for slope, x in zip(slopes, before, strict=True)]
        gradient = (*slopes, by_attention * whole.attention_factor)
        return Evaluation(loss, int((weights > 0).sum()), BACKWARD_PASSES * windows.size, gradient)

    def _rows(self, step: int) -> NDArray[np.int64]:
        """Which search windows a step reads."""
        return np.arange(step * self.gradient_count, (step + 1) * self.gradient_count) % len(self.search_windows)

    def _mean_loss(self, factors: RescaleFactors, windows: Tokens, weights: Weights) -> Evaluation:
        def loss_of(row: int) -> float:
            losses, shares = token_losses(self.model, windows[row][None])[0].double().numpy(), weights[row]
            return float(losses[shares > 0] @ shares[shares > 0])

        total = 0.0
        with rescaled(self.model, compose(self.tuned_with, factors, self.model.spec)):
            for loss in distributed.map_ranks(range(len(windows)), loss_of):
                total += loss
        return Evaluation(total / len(windows), int((weights > 0).sum()), windows.size)


def _prepare(
    model: LanguageModel, windows: Tokens, tail_tokens: int, needle_weight: float, rng: np.random.Generator
) -> tuple[Tokens, Weights]:
    """Windows [W, N] with needles planted if they weigh anything, and the weight [W, N - 1] of each next token."""
    planted, weights = [], []
    for window in windows:
        tokens, answers = window, np.zeros(len(window) - 1, dtype=bool)
        if needle_weight:
            tokens, answers = plant_needles(window, model.tokenizer, rng)
        tail = np.zeros(len(window) - 1)
        tail[-tail_tokens:] = 1
        planted.append(tokens)
        weights.append(tail / tail.sum() + needle_weight * answers / max(1, answers.sum()))
    return np.stack(planted), np.stack(weights)


def cut_windows(text: TokenText, length: int, held_out: int, seed: int) -> tuple[Tokens, Tokens]:
    """Cut a text into search windows, in an order drawn from the seed, and validation windows, all disjoint.

    Validation windows are spread evenly over the text and are the same for every search of it.
    """
    fitting = len(text.tokens) // (length - (text.bos is not None))
    windows = text.windows(length, max(1, fitting), minimum=held_out + 1)
    chosen = [int((i + 0.5) * len(windows) / held_out) for i in range(held_out)]
    rest = np.setdiff1d(np.arange(len(windows)), chosen)
    return windows[np.random.default_rng(seed).permutation(rest)], windows[chosen]


@dataclass
class TrialLog:
    """The evaluations of one search, in order. A search that is begun again is answered from the log first.

    A search is deterministic given its losses and gradients, so the log is its whole state: interrupted at any moment,
    it loses at most the evaluations in hand. In several processes one reads and writes it, and all know the same.
    """

    path: Path | None
    method: str
    model: str = ""
    texts_fingerprint: str = ""
    on_trial: Callable[[Trial], None] = lambda _: None
    made: list[Trial] = field(default_factory=list)
    _known: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read what an earlier run of this search has left."""
        if self.path:
            known = read_records(self.path, Trial)
            self._known = [trial for trial in known if trial.method == self.method]

    def evaluate(
        self, step: int, kind: str, origin: str, factors: RescaleFactors, work: Callable[[], Evaluation]
    ) -> Trial:
        """Answer from the log, or do the work and log it (raises RunError if the log is of another search)."""
        return self.evaluate_many(step, kind, [(origin, factors)], lambda _: work())[0]

    def evaluate_many(
        self,
        step: int,
        kind: str,
        candidates: Sequence[tuple[str, RescaleFactors]],
        work: Callable[[RescaleFactors], Evaluation],
    ) -> list[Trial]:
        """Evaluate candidates that do not depend on each other, in order, as many at a time as there are workers.

        Args:
            step: generation or step of all of them.
            kind: of all of them (see ``Trial``).
            candidates: the origin of each, and its factors.
            work: the evaluation of one.

        Raises:
            RunError: the log is of another search.
        """
        asked = [(self._ask(step, kind, origin, factors), factors) for origin, factors in candidates]
        recalled = max(0, len(self._known) - len(self.made))
        trials = [self._take(self._recall(trial)) for trial, _ in asked[:recalled]]
        left = asked[recalled:]
        for first in range(0, len(left), distributed.workers()):
            for trial in distributed.map_ranks(left[first : first + distributed.workers()], partial(_evaluate, work)):
                if self.path:
                    append_records(self.path, [trial])
                trials.append(self._take(trial))
        return trials

    def _ask(self, step: int, kind: str, origin: str, factors: RescaleFactors) -> Trial:
        named: dict[str, Any] = {key: getattr(self, key) for key in ("method", "model", "texts_fingerprint")}
        named |= {key: getattr(factors, key) for key in ("lambdas", "start_tokens", "attention_factor")}
        return Trial(**named, step=step, kind=kind, origin=origin, **UNKNOWN)

    def _recall(self, asked: Trial) -> Trial:
        trial = self._known[len(self.made)]
        kind = asked.kind if {trial.kind, asked.kind} == {TAIL, TAIL_ALONE} else trial.kind
        if replace(trial, kind=kind, gradient=(), parts=(), **UNKNOWN) != asked:
            raise RunError(
                f"{self.path} holds the trials of another search (trial {len(self.made) + 1} differs).",
                "A search is resumed only with the settings, texts and model that began it.",
                "Give another directory with --out.",
            )
        return trial

    def _take(self, trial: Trial) -> Trial:
        self.made.append(trial)
        self.on_trial(trial)
        return trial

    def validate(self, step: int, origin: str, factors: RescaleFactors, objective: Losses) -> Trial:
        """Evaluate on the held-out windows."""
        return self.evaluate(step, "validation", origin, factors, lambda: objective.validation_loss(factors))

    def validate_starts(self, starts: Sequence[tuple[str, RescaleFactors]], objective: Losses) -> list[Trial]:
        """Evaluate the starting candidates of a search on the held-out windows; the trials, in their order.

        Args:
            starts: the origin of each, and its factors.
            objective: the score.

        Raises:
            ModelError: none of their losses is finite, so that a search would have nothing to compare.
        """
        trials = self.evaluate_many(0, "validation", starts, objective.validation_loss)
        if not any(math.isfinite(trial.loss_nats) for trial in trials):
            window, origins = starts[0][1].target_window, ", ".join(origin for origin, _ in starts)
            raise ModelError(
                f"No loss of {self.model!r} is finite at {window:,} tokens with any factors to start from ({origins}).",
                "A search needs at least one starting candidate with a finite loss.",
                "Check the weights, or try another --dtype: float32 or bfloat16; begin again with another --out.",
            )
        return trials

    def choose(self, trial: Trial, known: Sequence[RescaleFactors]) -> RescaleFactors:
        """The factors of a trial as those that this search has chosen.

        They come from one of ``known`` if they have exactly its lambdas and attention factor, whatever the origin of
        the trial and its start tokens; the first such one gives their method. All others come from the search itself:
        also YaRN on the evolution's grid with the evolution's attention factor, whose trial names YaRN as its origin.

        Args:
            trial: of this search.
            known: factors that the search has begun with, which have a method of their own.
        """
        acting = (trial.lambdas, trial.attention_factor)
        same = (factors.method for factors in known if (factors.lambdas, factors.attention_factor) == acting)
        return replace(
            known[0],
            lambdas=trial.lambdas,
            start_tokens=trial.start_tokens,
            attention_factor=trial.attention_factor,
            method=next(same, self.method),
            chosen_by=self.method,
        )

    @property
    def validated(self) -> list[Trial]:
        """The trials on the held-out windows, in order."""
        return [trial for trial in self.made if trial.kind == "validation"]

    @property
    def best_validated(self) -> Trial:
        """The trial with the lowest loss on the held-out windows, the earliest of equals."""
        return min(self.validated, key=lambda trial: trial.loss_nats)


def _evaluate(work: Callable[[RescaleFactors], Evaluation], task: tuple[Trial, RescaleFactors]) -> Trial:
    """The trial that was asked for, with what the work on its factors has found."""
    asked, factors = task
    began = time.perf_counter()
    result = work(factors)
    loss = result.loss_nats if math.isfinite(result.loss_nats) else math.inf
    return replace(
        asked,
        loss_nats=loss,
        num_tokens=result.num_tokens,
        token_passes=result.token_passes,
        seconds=time.perf_counter() - began,
        gradient=result.gradient if np.isfinite([loss, *result.gradient]).all() else (),
        parts=result.parts,
    )
