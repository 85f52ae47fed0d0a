"""What the commands print: progress on stderr, tables of results on stdout."""

import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from longrope.errors import DryRunEnd, LongRopeError, printable
from longrope.labels import NOT_REACHED, label_of

if TYPE_CHECKING:
    from threading import Event

    from longrope.generation import Generation
    from longrope.pipeline import Callbacks
    from longrope.recipe import Recipe
    from longrope.runs.records import Score
    from longrope.runs.run_dir import RunDir
    from longrope.search.cost import SearchCost


LOGGER = logging.getLogger("longrope")
NO_TERMINAL = 200  # characters of a line of a table
BORDER, LINE = 3, 1  # characters between two columns, with space beside the line and without
NO_VERDICT = (
    "There is no verdict: at no length was the same metric measured for the factors found and for a baseline or the "
    "original model."
)


class ConsoleHandler(logging.Handler):
    """Print what is logged as lines of a console, above its progress bars."""

    def __init__(self, console: Any, heard: Callable[[str], None] = lambda _: None) -> None:
        """Print to this console of rich, and pass each line on to ``heard``, too."""
        super().__init__()
        self.console, self.heard = console, heard

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, without its level or time."""
        text = printable(self.format(record), keep="\n")
        self.heard(text)
        print_line(self.console, text)


def print_line(console: Any, text: str) -> None:
    """Print a line above the progress bars of a console of rich, as it stands."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def set_verbosity(*, verbose: bool, quiet: bool) -> None:
    """What the commands print on stderr: a line for each step; one for each trial, too; or warnings alone."""
    LOGGER.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)


@contextmanager
def watching(
    recipe: "Recipe | None" = None, run: "RunDir | None" = None, track: str | None = None
) -> Iterator["Callbacks"]:
    """Print progress on stderr: a line per step, and a bar for the work in hand, or without a terminal further lines.

    Args:
        recipe: that of the run, for the lengths of the bars.
        run: discarded if an error ends it before anything is in it.
        track: a tracker that receives the numbers.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from longrope import distributed
    from longrope.cli.bars import drawing
    from longrope.models import silence_loading
    from longrope.pipeline.progress import Reminder, reminding

    if not LOGGER.isEnabledFor(logging.DEBUG):
        silence_loading()
    console = Console(stderr=True, quiet=not distributed.is_main())
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    drawn = console.is_terminal and not is_quiet()
    reminder = Reminder(partial(print_line, console))
    handler = ConsoleHandler(console, reminder.heard)
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(*columns, console=console, disable=not drawn, transient=True))
        LOGGER.addHandler(handler)
        stack.callback(LOGGER.removeHandler, handler)
        if not (drawn or is_quiet()):
            stack.enter_context(reminding(reminder))
        try:
            yield _tracked(drawing(progress, recipe), stack, recipe, run, track)
        except (LongRopeError, DryRunEnd) as end:
            if run:
                run.discard_if_empty()
            if isinstance(end, DryRunEnd):
                raise SystemExit(0) from None
            raise


def _tracked(
    callbacks: "Callbacks", stack: ExitStack, recipe: "Recipe | None", run: "RunDir | None", track: str | None
) -> "Callbacks":
    """These callbacks, and those of a tracker where one is named."""
    from longrope.pipeline import together, tracking

    if not (track and run and recipe):
        return callbacks
    return together((callbacks, stack.enter_context(tracking(track, run.path.name, asdict(recipe)))))


@contextmanager
def noting() -> Iterator[tuple[Callable[[str], None], "Event"]]:
    """``note``, and an event until which, without a terminal, a line every 30 seconds says that the work goes on."""
    from threading import Event

    from rich.console import Console

    from longrope.pipeline.progress import Reminder, reminding

    if is_quiet() or Console(stderr=True).is_terminal:
        yield note, Event()
        return
    reminder = Reminder(note)

    def say_and_hear(text: str) -> None:
        reminder.heard(text)
        note(text)

    with reminding(reminder) as ended:
        yield say_and_hear, ended


@contextmanager
def reading(model: Any, take: Callable[[str], None] | None = None) -> Iterator[Any]:
    """Print the choices for a model on stderr, and how much is read until all of it is: a bar, or lines elsewhere.

    ``take`` takes the lines; by default ``note``.
    """
    from rich.console import Console
    from rich.progress import Progress

    from longrope.engine.passes import describe_pass
    from longrope.pipeline.progress import Sparsely, WorkDone

    has_template = getattr(model.tokenizer, "chat_template", None)
    asked = "asked in the model's chat template" if has_template else "no chat template: the model continues the text"
    take = take or note
    take("; ".join((*model.choices, describe_pass(model, decoding=True), asked)))
    console, sparsely = Console(stderr=True), Sparsely(take)
    with Progress(
        console=console,
        disable=not console.is_terminal or is_quiet(),
        transient=True,
        redirect_stdout=False,  # the answer goes there without changes
        redirect_stderr=False,
    ) as progress:
        bar = progress.add_task("read", total=None)

        def on_read(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)
            if progress.disable:
                sparsely(WorkDone("read", done, total, "tokens"))
            if done == total:
                progress.stop()

        yield on_read


def describe_answer(done: "Generation") -> str:
    """What an answer took, as one line."""
    count = done.prompt_tokens - done.reused_tokens
    before = f"{done.reused_tokens:,} tokens were read before, " if done.reused_tokens else ""
    return (
        f"{before}read {count:,} tokens in {done.prefill_seconds:.1f} s "
        f"({count / max(done.prefill_seconds, 1e-3):,.0f} a second), wrote {done.new_tokens:,} in "
        f"{done.decode_seconds:.1f} s ({done.new_tokens / max(done.decode_seconds, 1e-3):,.0f} a second)"
        f"{'' if done.ended else ', cut at --max-new-tokens'}; window {done.window_tokens:,} tokens, "
        f"{'factors ' + done.factors_fingerprint if done.factors_fingerprint else 'no factors'}, "
        f"cache {done.cache_bytes / 2**20:,.1f} MiB"
    )


def to_json(content: object) -> str:
    """JSON that every reader takes: null for a number that is not finite, such as an end that an interval lacks."""
    return json.dumps(_finite(content), allow_nan=False)


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def print_scores(scores: Sequence["Score"], *, as_json: bool) -> None:
    """A table for each metric, one row per method, each value with its interval."""
    if as_json:
        print(to_json([asdict(score) for score in scores]))
        return
    from longrope.report import score_tables

    width = console_width()
    for table in score_tables(scores):
        blocks = column_blocks(table.header, table.rows, width)
        _print_blocks(table.title, table.header, table.rows, blocks, note=table.note)


def print_columns(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of many columns.

    Where a line does not hold them, their names are cut after hyphens and at underscores; then there is no space beside
    them; then the table is cut into several.
    """
    width, cut = console_width(), [name.replace("_", "\n").replace("-", "-\n") for name in header]
    header, border = next(
        ((names, border) for names, border in ((header, BORDER), (cut, BORDER)) if _fits(names, rows, width, border)),
        (cut, LINE),
    )
    _print_blocks(title, header, rows, column_blocks(header, rows, width, border), border=border)


def _fits(header: Sequence[str], rows: Sequence[Sequence[str]], width: int, border: int) -> bool:
    return len(column_blocks(header, rows, width, border)) == 1


def _print_blocks(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    blocks: Sequence[Sequence[int]],
    *,
    border: int = BORDER,
    note: str = "",
) -> None:
    """A table for each block of columns, with the note below the last one."""
    for i, columns in enumerate(blocks):
        cells = [[row[at] for at in columns] for row in rows]
        last = i == len(blocks) - 1
        named = title if i == 0 else f"{title} (continued)"
        print_table(named, [header[at] for at in columns], cells, note if last else "", border=border)


def column_blocks(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, border: int = BORDER
) -> list[list[int]]:
    """Which columns of a table stand side by side: all, or as many as a terminal holds without a word cut in two.

    Every block begins with the first column, that of the names.

    Args:
        header: of each column.
        rows: cells of each row.
        width: of the terminal, in characters.
        border: characters between two columns; one more stands at the end.
    """
    cells = [[name, *(row[at] for row in rows)] for at, name in enumerate(header)]
    names = min(max(map(len, cells[0])), width // 2) + border + 1
    blocks, used = [[0]], names
    for at in range(1, len(header)):
        needed = max(len(word) for cell in cells[at] for word in (*cell.split(), "")) + border
        if len(blocks[-1]) > 1 and used + needed > width:
            blocks, used = [*blocks, [0]], names
        blocks[-1].append(at)
        used += needed
    return blocks


def print_outcome(run: "RunDir") -> None:
    """The verdict of a run in one sentence, or why there is none."""
    from longrope.report import describe_outcome

    say(describe_outcome(run) or NO_VERDICT)


def print_measured(run: "RunDir | None", *, has_factors: bool) -> None:
    """After a measurement alone: the verdict of all that its directory holds, or how to measure what is missing for it.

    Args:
        run: the directory, if there is one.
        has_factors: whether the factors of a file were measured; without, there is nothing to compare with others.
    """
    from longrope.report import describe_outcome

    if run and (sentence := describe_outcome(run)):
        say(sentence)
    elif has_factors:
        where = f"--out {run.path}" if run else "one --out for all"
        say(f"For a verdict, run this command without --factors, and again with --method yarn instead, with {where}.")


def print_costs(costs: Iterable["SearchCost"]) -> None:
    """A column for each search, as on the page."""
    found = [asdict(cost) for cost in costs]
    names = [name for name in (found[0] if found else {}) if name not in ("method", "stage")]
    rows = [
        (name.replace("_", " "), *(NOT_REACHED if cost[name] is None else format_number(cost[name]) for cost in found))
        for name in names
    ]
    if rows:
        print_table("What the searches took", ["search", *(label_of(cost["method"]) for cost in found)], rows)


def format_number(value: object) -> str:
    """Five digits of a float, all of a whole number."""
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def console_width() -> int:
    """Characters of a line of the terminal; 200 where there is none."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else NO_TERMINAL


def print_table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], note: str = "", *, border: int = BORDER
) -> None:
    """A table as wide as the terminal, or of 200 characters where there is none, with a note below it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text  # which holds no markup

    space = (border - LINE) // 2
    table = Table(title=Text(printable(title), style="table.title"), title_justify="left", padding=(0, space))
    rows = [[printable(cell) for cell in row] for row in rows]
    whole = max(len(row[0]) for row in (header, *rows)) <= console_width() // 2
    for i, name in enumerate(header):
        place: Any = {"justify": "right"} if i else {"justify": "left", "no_wrap": whole}
        table.add_column(Text(printable(name, keep="\n")), overflow="fold", **place)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=console_width()).print(table)
    if note:
        say(note)


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print lines whose names may come from anywhere: control characters are escaped."""
    print(printable(text, keep="\n"), file=sys.stderr if to_stderr else sys.stdout)


def note(text: str) -> None:
    """Print a line about the work on stderr, unless results and errors alone are asked for."""
    if not is_quiet():
        say(text, to_stderr=True)


def is_quiet() -> bool:
    """Whether results and errors alone are to be printed."""
    return LOGGER.level >= logging.WARNING
