"""The stages of a progressive run as data: what each is to do, what it finds when it begins, and what it leaves."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

from longrope.errors import RecipeError
from longrope.lengths import format_tokens
from longrope.registry import ORIGINAL, describe_measured_alone, factor_methods
from longrope.settings import CountOrZero, Settings, listed

KINDS = ("search", "tune", "extrapolate", "short")
RECORDED = {"extrapolate": "carry", "short": "recover"}  # in records and folders, after keys of earlier versions
LABELS = {"recover": "short-context search", "carry": "extrapolate"}  # of kinds that messages name by another word


def stage_label(stage: str) -> str:
    """The name of a stage as records hold it, in words: ``recover 8k`` is the short-context search 8k."""
    kind, _, rest = stage.partition(" ")
    return f"{LABELS.get(kind, kind)} {rest}".strip()


@dataclass(frozen=True)
class Stage(Settings, section="stages"):
    """One stage of a schedule: exactly one of ``search``, ``tune``, ``extrapolate``, ``short`` is set, to a window.

    Attributes:
        search: search factors for this window in tokens, starting from the factors that the weights were tuned with.
        tune: train the weights with the longest factors so far, in windows of this length. A window shorter than that
            of the factors costs less, and sees only near positions (unless ``tune.skipped_positions`` is set).
        extrapolate: extrapolate the factors of the longest window to this one by their rule (``rope.extrapolate``). A
            search at this window itself takes longer, and can be better (docs/results.md, "Searched at the target
            itself").
        short: search short factors for this window (the short-context search). With a formula instead of the search,
            the window keeps the model's own RoPE.
        steps: steps of a tuning; 0 takes ``tune.steps``.
        factors_of: for a tuning, the number of the earlier stage whose factors it trains with, counted from 1; 0 takes
            the longest that were found for the current weights. Stages run in order, so searches before the first
            tuning are of the original model, and each of them can serve a tuning of its own (section 3.3).
        method: for a search or a short stage, the method instead of ``search.method``. For a short window ``none`` is
            the model's own RoPE.
    """

    search: CountOrZero = 0
    tune: CountOrZero = 0
    extrapolate: CountOrZero = 0
    short: CountOrZero = 0
    steps: CountOrZero = 0
    factors_of: CountOrZero = 0
    method: Annotated[str, listed(lambda: ("", ORIGINAL, *factor_methods()), describe_measured_alone)] = ""

    def check(self) -> None:
        """Refuse a stage that is none of the four or several, or has what only a tuning has (raises RecipeError)."""
        if len([key for key in KINDS if getattr(self, key)]) != 1:
            raise RecipeError(
                f"A stage has {', '.join(f'{key} = {getattr(self, key)}' for key in KINDS)}.",
                f"Exactly one of {', '.join(KINDS)} is needed, with a window in tokens.",
                'For example: stages = [{ search = "64k" }, { tune = "64k", steps = 100 }, { short = "8k" }]',
            )
        for key in ("steps", "factors_of"):
            number = getattr(self, key)
            if number and self.kind != "tune":
                raise RecipeError(f"A {self.kind} stage has {key} = {number}.", f"Only a tuning has {key}.", "Drop it.")
        if self.method and (self.kind not in ("search", "short") or (self.kind, self.method) == ("search", ORIGINAL)):
            raise RecipeError(
                f"A {self.kind} stage has method = {self.method!r}.",
                f"A search has one of {', '.join(factor_methods())}; a short stage {ORIGINAL}, too; others have none.",
                "Correct or drop it.",
            )

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        return next(key for key in KINDS if getattr(self, key))

    @property
    def recorded_kind(self) -> str:
        """What records and folders call its kind: search, tune, carry or recover."""
        return RECORDED.get(self.kind, self.kind)

    @property
    def window_tokens(self) -> int:
        """The window that it is for."""
        return int(getattr(self, self.kind))

    def __str__(self) -> str:
        """As records have it: ``tune 64k, 100 steps``."""
        words = [f"{self.recorded_kind} {format_tokens(self.window_tokens)}"]
        words += [f"{self.steps} steps"] if self.steps else []
        words += [f"by {self.method}"] if self.method else []
        words += [f"factors of stage {self.factors_of}"] if self.factors_of else []
        return ", ".join(words)

    @property
    def label(self) -> str:
        """As messages have it: ``short-context search 8k``."""
        return stage_label(f"{self}")


@dataclass(frozen=True)
class Standing:
    """What there is when a stage begins, in tokens.

    Attributes:
        stage: that begins.
        tuned: the window of the factors that the weights were tuned with last; 0 before any tuning.
        windows: that there are factors for, with the current weights.
        named: the window of the factors of the stage that it names; 0 if it names none.
    """

    stage: Stage
    tuned: int
    windows: tuple[int, ...]
    named: int

    @property
    def trained_with(self) -> int:
        """The window of the factors that a tuning trains with; 0 if there are none."""
        return self.named or max(self.windows, default=0)

    @property
    def left(self) -> tuple[int, ...]:
        """The windows that there are factors for when it has ended: a tuning leaves those it has trained with alone."""
        return (self.trained_with,) if self.stage.kind == "tune" else (*self.windows, self.stage.window_tokens)


def standings(stages: Iterable[Stage]) -> Iterator[Standing]:
    """Each stage with what there is when it begins; no model is needed.

    Raises:
        RecipeError: a tuning names a stage that does not come before it.
    """
    tuned, windows, given = 0, tuple[int, ...](), list[int]()
    for stage in stages:
        if stage.factors_of > len(given):
            raise RecipeError(
                f"In stages, stage {len(given) + 1} is to {stage}.",
                "The stage whose factors it trains with must come before it.",
                "Number the stages from 1, and name an earlier one.",
            )
        at = Standing(stage, tuned, windows, given[stage.factors_of - 1] if stage.factors_of else 0)
        yield at
        tuned, windows = at.trained_with if stage.kind == "tune" else tuned, at.left
        given.append(at.trained_with if stage.kind == "tune" else stage.window_tokens)


def check_stages(planned: Iterable[Standing], target_tokens: int, reach_of: Callable[[Stage], int]) -> None:
    """Check that every stage finds the factors that it needs, and that the last ones reach the target.

    Args:
        planned: of ``standings``.
        target_tokens: the window that the run is to reach.
        reach_of: the longest position that a tuning sees, as a window in tokens.

    Raises:
        RecipeError: naming the stage and the factors that there are.
    """
    windows: tuple[int, ...] = ()
    for at in planned:
        stage, longest = at.stage, max(at.windows, default=0)
        reach = reach_of(stage) if stage.kind == "tune" else stage.window_tokens
        fitting, needed = {
            "search": (reach > at.tuned, "It must be longer than the window that the weights were tuned with."),
            "tune": (reach <= at.trained_with, "It needs factors for its window or a longer one."),
            "extrapolate": (
                at.tuned < longest < reach,
                "It needs searched factors of a shorter window to extrapolate from.",
            ),
            "short": (reach < longest, "It needs factors of a longer window."),
        }[stage.kind]
        if not fitting:
            raise RecipeError(
                f"In stages, {stage.label} comes after factors for {_listed(at.windows)}; "
                f"tuned with: {_listed([at.tuned])}.",
                needed,
                'For example: stages = [{ search = "64k" }, { tune = "64k" }, { short = "8k" }]',
            )
        windows = at.left
    if max(windows) != target_tokens:
        raise RecipeError(
            f"The stages leave factors for {_listed(windows)}, and target_tokens = {target_tokens}.",
            "The longest of them must be the target.",
            "Correct stages or target_tokens.",
        )


def _listed(windows: Iterable[int]) -> str:
    """Windows that there are factors for, in words."""
    return ", ".join(format_tokens(window) for window in sorted(set(windows)) if window) or "no window"
