"""Several runs compared with the first, paired by token and by prompt: what ``longrope report`` prints of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longrope.cli.console import print_table, say
from longrope.labels import metric_label, write_interval
from longrope.lengths import format_tokens
from longrope.metrics import DIFFERENCE, RATIO
from longrope.runs.run_dir import RunDir

if TYPE_CHECKING:
    from longrope.evaluation.pairing import Comparison


def pair_with_first(runs: Sequence[RunDir]) -> tuple[list["Comparison"], list[str]]:
    """The comparisons of the other runs with the first, and why some of them have none, one line each.

    Raises:
        RunError: a file of a run is damaged.
    """
    from longrope.evaluation.pairing import UnpairedError, pair_runs

    first, *others = runs
    found, unpaired = list["Comparison"](), list[str]()
    for run in others:
        try:
            own = pair_runs(run, first)
        except UnpairedError as error:
            unpaired.append(f"{run.path} is not paired with {first.path}: {error.found}")
            continue
        found += own
        unpaired += [] if own else [f"{run.path} is not paired with {first.path}: they have no measurement in common."]
    return found, unpaired


def print_pairs(first: RunDir, found: Sequence["Comparison"], unpaired: Sequence[str]) -> None:
    """A table with a row for each comparison, and the lines about runs without any."""
    rows = [
        (one.run, metric_label(one.metric), format_tokens(one.context_tokens), _written(one), f"{one.pairs:,}")
        for one in found
    ]
    if rows:
        title = f"Compared with {first.path.name}, paired by token or by prompt (95 % interval)"
        print_table(title, ["run", "measure", "length", "ratio or difference", "tokens or prompts"], rows)
    for line in unpaired:
        say(line)


def _written(one: "Comparison") -> str:
    """The ratio of two perplexities, which are resampled, or the difference of two shares."""
    return write_interval(RATIO if one.resampled else DIFFERENCE, one.value, one.low, one.high)
