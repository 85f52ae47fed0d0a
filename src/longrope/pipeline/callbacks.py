"""Callbacks: functions that are called as a run proceeds, such as a progress bar, a log or a tracker of experiments."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, fields
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from longrope import distributed
from longrope.errors import RecipeError
from longrope.pipeline.progress import Sparsely, WorkDone
from longrope.runs.records import Score, TrainStep, Trial

LOGGER = logging.getLogger("longrope")
TRACKERS = ("trackio",)


def _logging(describe: Callable[[Any], str]) -> Callable[[Any], None]:
    """What logs each of many events at DEBUG, and one of them every 30 seconds at INFO."""
    sparsely = Sparsely(LOGGER.info)

    def log(event: Any) -> None:
        text = describe(event)
        LOGGER.debug("%s", text)
        sparsely(text)

    return log


def _log_scores(scores: list[Score]) -> None:
    for score in scores:
        LOGGER.debug("%s %s at %d tokens: %.6g", score.source.label, score.metric, score.context_tokens, score.value)


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called as a run proceeds, in the process that runs it, in order.

    Those left out log to the standard library's logger ``longrope``: messages, and every 30 seconds how far a search, a
    training or a measurement is, at the level INFO, all else at DEBUG.
    What a callback raises ends the run, which can be resumed. In a launch of several processes each calls its own.

    Attributes:
        on_trial: after each evaluation of a search.
        on_step: at the beginning of each step of the run, with a message.
        on_train: after each step of a training.
        on_scores: after a method was measured, with its scores.
        on_progress: often, as texts are read and a method is measured; by default a line every 30 seconds.
    """

    on_trial: Callable[[Trial], None] = field(default_factory=lambda: _logging(describe_trial))
    on_step: Callable[[str], None] = LOGGER.info
    on_train: Callable[[TrainStep], None] = field(default_factory=lambda: _logging(describe_train))
    on_scores: Callable[[list[Score]], None] = _log_scores
    on_progress: Callable[[WorkDone], None] = field(default_factory=lambda: Sparsely(LOGGER.info))


def counting(callbacks: Callbacks) -> Callable[[str, int, int], None]:
    """What reports the passes of a measurement: by what it does, how many are done, and of how many."""
    return lambda what, done, total: callbacks.on_progress(WorkDone(what, done, total, "passes"))


def together(several: Iterable[Callbacks]) -> Callbacks:
    """Callbacks that call each of several, in their order."""
    each = tuple(several)

    def calling(name: str) -> Callable[[Any], None]:
        functions = [getattr(one, name) for one in each]

        def call(what: Any) -> None:
            for function in functions:
                function(what)

        return call

    return Callbacks(**{one.name: calling(one.name) for one in fields(Callbacks)})


def describe_trial(trial: Trial) -> str:
    """A trial of a search in a few words."""
    return f"{trial.method}: step {trial.step}, loss {trial.loss_nats:.4f} nats"


def describe_train(step: TrainStep) -> str:
    """A step of a training in a few words."""
    return f"training: step {step.step + 1}, loss {step.loss_nats:.4f} nats"


def check_tracker(name: str) -> None:
    """Raise RecipeError unless a tracker is known and installed."""
    if name not in TRACKERS:
        raise RecipeError(f"The tracker {name!r} was asked for.", f"Known: {', '.join(TRACKERS)}.", "Choose one.")
    if find_spec(name) is None:
        raise RecipeError(f"{name} is not installed.", "It receives the numbers.", f"pip install 'longrope[{name}]'")


@contextmanager
def tracking(name: str, project: str, settings: Mapping[str, Any]) -> Iterator[Callbacks]:
    """Callbacks that send the numbers of a run to a tracker; in a launch the main process sends them.

    trackio keeps them in a local database (``trackio show`` draws them), and needs no account and no network.

    Args:
        name: ``trackio``.
        project: under which name the tracker lists the run.
        settings: of the run, such as its recipe.

    Raises:
        RecipeError: the tracker is not known or not installed.
    """
    check_tracker(name)
    if not distributed.is_main():
        yield Callbacks(*(lambda _: None,) * len(fields(Callbacks)))
        return
    with redirect_stdout(sys.stderr):  # results alone go to stdout
        tracker = import_module(name)
        tracker.init(project=project, config=dict(settings))
    try:
        yield _sending(tracker.log)
    finally:
        with redirect_stdout(sys.stderr):
            tracker.finish()


def _sending(log: Callable[[dict[str, float]], None]) -> Callbacks:
    """Callbacks that log every number under a name of its own."""

    def on_trial(trial: Trial) -> None:
        log({f"search/{trial.method}/{trial.kind}/loss_nats": trial.loss_nats})

    def on_train(step: TrainStep) -> None:
        names = ("loss_nats", "learning_rate", "gradient_norm", "tokens_seen", "tokens_per_second")
        log({f"training/{name}": getattr(step, name) for name in names})

    def on_scores(scores: list[Score]) -> None:
        log({f"{one.metric}/{one.context_tokens}/{one.source.known_as}": one.value for one in scores})

    return Callbacks(on_trial, lambda _: None, on_train, on_scores, lambda _: None)
