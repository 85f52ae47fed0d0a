"""The bars of a terminal: something moves during every step, and its time is that of the step."""

import io

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from longrope.cli.bars import drawing
from longrope.pipeline.progress import WorkDone
from longrope.recipe import Recipe, SearchRecipe
from longrope.runs.records import Trial
from longrope.search_recipe import GradientRecipe


class Terminal:
    """A progress display of rich on a clock of its own."""

    def __init__(self) -> None:
        """The clock stands at 0."""
        self.now = 0.0
        console = Console(file=io.StringIO(), force_terminal=True, width=100)
        columns = (TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self.progress = Progress(*columns, console=console, auto_refresh=False, get_time=lambda: self.now)

    def lines(self) -> list[str]:
        """What stands there now."""
        console = Console(file=io.StringIO(), width=100)
        console.print(self.progress.get_renderable())
        return [line.strip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def trial(step: int) -> Trial:
    return Trial("longrope-gradient", "m", "f", step, "gradient", "gradient", (1.0,), 0, 1.0, 2.5, 255, 1024, 0.1)


def test_a_step_shows_that_it_works_before_it_reports() -> None:
    terminal = Terminal()
    callbacks = drawing(terminal.progress, None)
    assert terminal.lines() == []
    terminal.now = 40.0  # loading takes a while before the first step is reported
    callbacks.on_step("read books/")
    terminal.now = 42.0
    assert terminal.lines() == ["working 0:00:02"]


def test_the_time_of_a_bar_is_that_of_its_work() -> None:
    terminal = Terminal()
    callbacks = drawing(terminal.progress, None)
    callbacks.on_step("read books/")
    terminal.now = 60.0
    callbacks.on_progress(WorkDone("read texts", 2_000_000, 0, "bytes"))
    terminal.now = 61.0
    assert terminal.lines() == ["read texts: 2 MB 0:00:01"]
    callbacks.on_progress(WorkDone("measure YaRN", 3, 12, "passes"))
    terminal.now = 64.0
    assert terminal.lines() == ["measure YaRN: 3 of 12 passes 0:00:03"]
    assert [task.total for task in terminal.progress.tasks] == [12]
    callbacks.on_step("search factors")
    assert terminal.lines() == ["working 0:00:00"]
    assert [task.total for task in terminal.progress.tasks] == [None]


def test_a_search_has_the_length_that_its_recipe_says() -> None:
    terminal = Terminal()
    recipe = Recipe(
        model="m", data=("stdlib",), target_tokens=512, search=SearchRecipe(gradient=GradientRecipe(steps=7))
    )
    callbacks = drawing(terminal.progress, recipe)
    callbacks.on_step("search factors")
    for step in (2, 3):
        callbacks.on_trial(trial(step))
        ((done, total),) = [(task.completed, task.total) for task in terminal.progress.tasks]
        assert (done, total) == (step, 7)
