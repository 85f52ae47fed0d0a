"""The last choice of a search: by the tail of held-out windows, and by needles where the tail does not decide.

The mean loss over all tokens hides what happens far out, since most tokens need near context alone (LongRoPE2, arXiv
2502.20082, section 3.2): factors with the lowest mean may find no needle. So the best candidates of each origin are
read again, on the tail of the held-out windows. Among those that a paired interval does not separate from the best one,
answers about needles planted in the same windows decide.

Shape legend: V = held-out windows, N = tokens of a window, B = blocks of a tail.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longrope import distributed
from longrope.data import Tokens, plant_needles
from longrope.engine.passes import token_losses
from longrope.errors import TextsError
from longrope.models import LanguageModel, rescaled
from longrope.recipe import SearchRecipe
from longrope.rope import RescaleFactors, compose
from longrope.runs.records import TAIL, TAIL_ALONE, Trial
from longrope.search.score import Evaluation, TrialLog

BLOCKS = 8  # of a window's tail, whose mean losses are compared pair by pair
ERRORS = 2.0  # standard errors of their mean difference within which two candidates count as equal
PER_ORIGIN = 1  # candidates of one origin that are read again
NEAR_NATS = 0.25  # candidates whose held-out loss is further from the best one are not read again
LOGGER = logging.getLogger("longrope")
Choose = Callable[[TrialLog, Sequence[Trial], Sequence[RescaleFactors]], Trial]


def choose_by_loss(_log: TrialLog, validated: Sequence[Trial], _known: Sequence[RescaleFactors]) -> Trial:
    """The trial with the lowest loss on the held-out windows, the earliest of equals."""
    return min(validated, key=lambda trial: trial.loss_nats)


@dataclass(frozen=True)
class TailAndNeedles:
    """Chooses among validated candidates by the tail of the held-out windows, and by needles in them.

    Attributes:
        model: the model whose factors are searched.
        windows: [V, N] held-out windows.
        planted: [V, N] the same with needles in them; None where a window is too short for them.
        answers: [V, N - 1] which next tokens of these are answers.
        tail_tokens: the last tokens of a window that are its tail.
        tuned_with: what the candidates are relative to; None for those of the model itself.
    """

    model: LanguageModel
    windows: Tokens
    planted: Tokens | None
    answers: NDArray[np.bool_]
    tail_tokens: int
    tuned_with: RescaleFactors | None = None

    @classmethod
    def prepare(
        cls,
        model: LanguageModel,
        windows: Tokens,
        tail_tokens: int = 0,
        seed: int = 0,
        tuned_with: RescaleFactors | None = None,
    ) -> "TailAndNeedles":
        """Plant needles into held-out windows, if they are long enough; the tail is by default their second half."""
        rng = np.random.default_rng([seed, 3])
        try:
            made = [plant_needles(window, model.tokenizer, rng) for window in windows]
        except TextsError as error:
            made = []
            LOGGER.warning("the last choice of the search is by tails of held-out windows alone: %s", error.found)
        planted = np.stack([tokens for tokens, _ in made]) if made else None
        answers = np.stack([asked for _, asked in made]) if made else np.zeros((0, 0), dtype=bool)
        return cls(model, windows, planted, answers, tail_tokens or windows.shape[1] // 2, tuned_with)

    def __call__(self, log: TrialLog, validated: Sequence[Trial], known: Sequence[RescaleFactors]) -> Trial:
        """Choose one of the validated trials of a search.

        Args:
            log: of the search; what is read here is logged there, too.
            validated: trials on the held-out windows.
            known: factors that the search has begun with.
        """
        near = self._within_interval(log, finalists(validated), known)
        if len(near) == 1 or self.planted is None:
            return near[0]
        answered = self._evaluate(log, "needles", near, known, self.needle_loss)
        return min(zip(answered, near, strict=True), key=lambda pair: pair[0].loss_nats)[1]

    def tail_loss(self, factors: RescaleFactors) -> Evaluation:
        """The mean loss over the tails of the held-out windows; its parts are the means of [V * B] blocks."""
        scored = min(self.tail_tokens, self.windows.shape[1] - 1)
        blocks = np.array_split(np.arange(-scored, 0), min(BLOCKS, scored))

        def blocks_of(row: int) -> list[float]:
            losses = token_losses(self.model, self.windows[row][None])[0].double().numpy()
            return [float(losses[block].mean()) for block in blocks]

        parts, sizes = self._read(factors, blocks_of), [len(block) for block in blocks] * len(self.windows)
        loss = float(np.average(parts, weights=sizes))
        return Evaluation(loss, scored * len(self.windows), self.windows.size, parts=tuple(parts))

    def needle_loss(self, factors: RescaleFactors) -> Evaluation:
        """The mean loss over the answers about planted needles; its parts are the means of the [V] windows."""
        assert self.planted is not None
        planted = self.planted

        def answers_of(row: int) -> list[float]:
            losses = token_losses(self.model, planted[row][None])[0].double().numpy()
            return [float(losses[self.answers[row]].mean())]

        parts = self._read(factors, answers_of)
        return Evaluation(float(np.mean(parts)), int(self.answers.sum()), planted.size, parts=tuple(parts))

    def _read(self, factors: RescaleFactors, work: Callable[[int], list[float]]) -> list[float]:
        with rescaled(self.model, compose(self.tuned_with, factors, self.model.spec)):
            return [value for row in distributed.map_ranks(range(len(self.windows)), work) for value in row]

    def _within_interval(
        self, log: TrialLog, candidates: Sequence[Trial], known: Sequence[RescaleFactors]
    ) -> list[Trial]:
        """The candidate with the lowest loss over the tails, and those that its interval does not separate from it."""
        if len(candidates) == 1:
            return list(candidates)
        read = self._evaluate(log, TAIL if self.planted is not None else TAIL_ALONE, candidates, known, self.tail_loss)
        best = min(read, key=lambda trial: trial.loss_nats)
        return [own for own, trial in zip(candidates, read, strict=True) if not is_worse(trial.parts, best.parts)]

    @staticmethod
    def _evaluate(
        log: TrialLog,
        kind: str,
        candidates: Sequence[Trial],
        known: Sequence[RescaleFactors],
        work: Callable[[RescaleFactors], Evaluation],
    ) -> list[Trial]:
        step = max(trial.step for trial in log.made)
        asked = [(trial.origin, log.choose(trial, known)) for trial in candidates]
        return log.evaluate_many(step, kind, asked, work)


def make_choice(
    model: LanguageModel, held_out: Tokens, settings: SearchRecipe, seed: int, tuned_with: RescaleFactors | None
) -> Choose:
    """The last choice of a search by its settings, on its held-out windows [V, N]."""
    if settings.choose_by == "loss":
        return choose_by_loss
    return TailAndNeedles.prepare(model, held_out, settings.tail_tokens, seed, tuned_with)


def finalists(validated: Sequence[Trial]) -> list[Trial]:
    """The best validated trials of each origin, without those far from the best one; the best one first."""
    ranked, chosen = sorted(validated, key=lambda trial: trial.loss_nats), dict[tuple[object, ...], Trial]()
    for trial in ranked:
        same_origin = sum(other.origin == trial.origin for other in chosen.values())
        if same_origin < PER_ORIGIN and trial.loss_nats <= ranked[0].loss_nats + NEAR_NATS:
            chosen.setdefault((trial.lambdas, trial.start_tokens, trial.attention_factor), trial)
    return list(chosen.values())


def is_worse(losses: Sequence[float], best: Sequence[float]) -> bool:
    """Whether paired losses are above others by more than two standard errors of the mean difference."""
    gaps = np.asarray(losses) - np.asarray(best)
    if len(gaps) < 2 or not np.isfinite(gaps).all():
        return bool(np.sum(losses) > np.sum(best))
    return bool(gaps.mean() > ERRORS * gaps.std(ddof=1) / np.sqrt(len(gaps)))
