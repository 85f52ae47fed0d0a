"""What the searches of a run cost to reach the same loss on the held-out windows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress

from longrope.recipe import SearchRecipe
from longrope.registry import baselines, one_set_formulas
from longrope.runs.records import Trial, made_by_search
from longrope.search.score import BACKWARD_PASSES
from longrope.search.short_context import SHARES, count_held_out, count_short

OTHER_LOSS = ("longrope2",)  # methods that minimise another loss than the searches, which is not compared with theirs
CHOOSING = ("cma", "evolution", "gradient")  # searches whose passes do not count those of their last choice
CHOSEN_AMONG = 4  # readings of the held-out windows by the last choice, of tails and of needles together, about
SCANNED = 20  # curves that a descent and CMA-ES look at before they begin, at most
CAPPED = 7  # and those for a floor


@dataclass(frozen=True)
class SearchCost:
    """The cost of one search, or of a scanned baseline beside the searches.

    Attributes:
        method: which search.
        trials: evaluations, validations included.
        token_passes: tokens pushed through the model; a backward pass with recomputation counts as three more.
        seconds: wall clock of the evaluations; several processes make some of them at the same time.
        validation_loss_nats: the best mean loss on the held-out windows.
        common_loss_nats: the loss that every search of the run (or of one stage of a schedule) has reached; a baseline
            does not change it.
        trials_to_common, token_passes_to_common, seconds_to_common: what it took to reach it; None for a baseline that
            did not.
        stage: of a schedule, in words; empty for a search that is none.
    """

    method: str
    trials: int
    token_passes: int
    seconds: float
    validation_loss_nats: float
    common_loss_nats: float
    trials_to_common: int | None
    token_passes_to_common: int | None
    seconds_to_common: float | None
    stage: str = ""


def compare_costs(trials: Iterable[Trial], stage: str = "") -> list[SearchCost]:
    """Compare the searches in the trials of a run or a stage, with a scanned baseline beside them.

    Starting points that are validated are not reached.
    """
    by_method: dict[str, list[Trial]] = {}
    for trial in (trial for trial in trials if trial.method not in OTHER_LOSS):
        by_method.setdefault(trial.method, []).append(trial)
    found = {
        method: [trial.loss_nats for trial in compress(own, made_by_search(own))] for method, own in by_method.items()
    }
    best = {method: min(losses) for method, losses in found.items() if losses}
    common = max((loss for method, loss in best.items() if method not in baselines()), default=None)
    return [
        _cost(by_method[method], loss, loss if common is None else common, stage)  # a scan alone has its own loss
        for method, loss in best.items()
    ]


def _cost(trials: Sequence[Trial], best: float, common: float, stage: str) -> SearchCost:
    """The cost of one search by its trials, in all and up to the first loss that is the common one or lower."""
    own = made_by_search(trials)
    ends = (i for i, trial in enumerate(trials, 1) if own[i - 1] and trial.loss_nats <= common)
    until = next(ends, None)
    return SearchCost(
        method=trials[0].method,
        trials=len(trials),
        token_passes=sum(trial.token_passes for trial in trials),
        seconds=round(sum(trial.seconds for trial in trials), 2),
        validation_loss_nats=best,
        common_loss_nats=common,
        trials_to_common=until,
        token_passes_to_common=sum(trial.token_passes for trial in trials[:until]) if until else None,
        seconds_to_common=round(sum(trial.seconds for trial in trials[:until]), 2) if until else None,
        stage=stage,
    )


def count_passes(settings: SearchRecipe, target_tokens: int) -> int:
    """About how many passes over a window a search takes, a backward pass with recomputation counted as three more."""
    if settings.method in one_set_formulas():
        return 0
    if settings.method == "evolution":
        given = settings.evolution.filled(target_tokens)
        children = given.generations * (given.mutations + given.crossovers)
        looks = 4 + given.generations // given.validate_every
        return (given.population + children) * given.windows + looks * settings.validation_windows
    if settings.method == "cma":
        return settings.cma.passes
    descent = settings.gradient
    looks = 10 + descent.steps // descent.validate_every  # closed forms, start tokens
    curves = SCANNED * (descent.start == "scan") + CAPPED * (descent.floor == "scan")
    return curves * descent.scan_windows + BACKWARD_PASSES * descent.steps + looks * settings.validation_windows


def count_gradient_passes(settings: SearchRecipe, target_tokens: int) -> int:
    """The same of the gradient search with these settings, whichever method they name."""
    return count_passes(replace(settings, method="gradient", attention_factor=0.0), target_tokens)


def count_choice_passes(settings: SearchRecipe) -> int:
    """About how many passes the last choice of a search takes beside them, where it reads tails and needles."""
    reads = settings.method in CHOOSING and settings.choose_by == "needles"
    return CHOSEN_AMONG * settings.validation_windows * reads


def count_short_passes(settings: SearchRecipe, window_tokens: int, longest_tokens: int) -> int:
    """The same of the search for a short window of a model that is extended to ``longest_tokens``."""
    if settings.method in one_set_formulas():
        return 0
    looks = len(SHARES) + 1 + settings.gradient.steps // settings.gradient.validate_every
    held_out = count_held_out(window_tokens, longest_tokens, settings)
    together = count_short(window_tokens, longest_tokens)
    return BACKWARD_PASSES * settings.gradient.steps * together + looks * held_out
