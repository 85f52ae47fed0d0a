"""Progress bars of a run on a terminal; without a terminal its progress is a line every 30 seconds."""

import logging
from typing import TYPE_CHECKING, Any

from longrope.errors import printable
from longrope.pipeline.callbacks import Callbacks, describe_train, describe_trial
from longrope.pipeline.progress import Sparsely, WorkDone

if TYPE_CHECKING:
    from longrope.recipe import Recipe
    from longrope.runs.records import TrainStep, Trial

LOGGER = logging.getLogger("longrope")
WORKING = "working"  # shown, with the time, from the beginning of a step until it reports how far it is


class Bars:
    """One bar for what is done now, by the name of a search, or of any other work; its time begins with the step."""

    def __init__(self, progress: Any, totals: dict[str, int]) -> None:
        """Draw with a ``rich.progress.Progress``; ``totals`` says how many steps some searches have."""
        self._progress, self._totals, self._name = progress, totals, ""
        self._bar: Any = None

    def begin(self, name: str = WORKING) -> None:
        """Show a bar for this work alone."""
        if self._bar is not None:
            self._progress.remove_task(self._bar)
        self._name, self._bar = name, self._progress.add_task(name, total=self._totals.get(name))

    def draw(self, name: str, text: str, done: int, total: int | None = None) -> None:
        """Show how far some work is, in words and as a bar."""
        if name != self._name:
            self.begin(name)
        self._progress.update(self._bar, completed=done, total=total, description=printable(text))


def drawing(progress: Any, recipe: "Recipe | None") -> Callbacks:
    """Callbacks that log, and move the bars of a console; without bars progress is a line every 30 seconds."""
    totals = {}
    if recipe:
        evolution = recipe.search.evolution.filled(recipe.target_tokens)
        totals = {"longrope-gradient": recipe.search.gradient.steps, "longrope-evolution": evolution.generations}
    bars = Bars(progress, totals)
    sparsely = Sparsely(LOGGER.info if progress.disable else lambda _: None)

    def on_trial(trial: "Trial") -> None:
        text = describe_trial(trial)
        LOGGER.debug("%s", text)
        sparsely(text)
        bars.draw(trial.method, text, trial.step)

    def on_train(step: "TrainStep") -> None:
        text = describe_train(step)
        LOGGER.debug("%s", text)
        sparsely(text)
        bars.draw("training", text, step.step + 1)

    def on_progress(work: WorkDone) -> None:
        bars.draw(work.what, f"{work}", work.done, work.total or None)
        sparsely(work)

    def on_step(text: str) -> None:
        LOGGER.info("%s", text)
        bars.begin()

    return Callbacks(on_trial=on_trial, on_step=on_step, on_train=on_train, on_progress=on_progress)
