"""What ``measure`` hands to the function of a metric, and these functions: each measures one metric at one length.

The registry names them. A metric of another package has a function of the same two arguments.
"""

from dataclasses import dataclass
from typing import Any

from longrope.factors import FactorTable
from longrope.measures.passkey import measure_passkey
from longrope.measures.perplexity import measure_perplexity, measure_prefix
from longrope.measures.retention import OriginalLosses, measure_retention
from longrope.measures.ruler import mean_ruler, measure_needles, measure_ruler
from longrope.measures.samples import Samples
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.records import Score
from longrope.texts import Tokens, TokenText


@dataclass(frozen=True)
class Request:
    """One method on one text.

    Attributes:
        metric: that is asked for.
        model: the model.
        table: its factors; None is the original model.
        text: where the windows come from.
        windows: [W, M] windows of the longest length.
        lengths: all that are measured, ascending, in tokens.
        settings: how many windows, passkeys, needles and prompts.
        method: the name in the records.
        seed: of every random choice.
        samples: where losses and answers are kept.
        original: the losses of the model before its weights were tuned, if they were.
        scores: those made so far, of which the mean over RULER's tasks is made.
    """

    metric: str
    model: LanguageModel
    table: FactorTable | None
    text: TokenText
    windows: Tokens
    lengths: list[int]
    settings: MeasureRecipe
    method: str
    seed: int
    samples: Samples
    original: OriginalLosses | None
    scores: list[Score]

    @property
    def named(self) -> dict[str, Any]:
        """What every record says of it."""
        return {"method": self.method, "seed": self.seed}

    @property
    def kept(self) -> dict[str, Any]:
        """The same, with the place of the samples."""
        return {**self.named, "samples": self.samples}


def perplexity(asked: Request, length: int) -> list[Score]:
    """Over all tokens, and over the last ones of each window."""
    given = {"tail_tokens": asked.settings.tail_tokens, **asked.kept}
    return measure_perplexity(asked.model, asked.table, asked.text, asked.windows, length, **given)


def prefix_perplexity(asked: Request, length: int) -> list[Score]:
    """Over the first tokens of each window."""
    return measure_prefix(asked.model, asked.table, asked.windows, length, asked.lengths, **asked.kept)


def passkeys(asked: Request, length: int) -> list[Score]:
    """The share found, over all depths and at each of them."""
    return measure_passkey(asked.model, asked.table, length, count=asked.settings.passkeys, **asked.kept)


def retention(asked: Request, length: int) -> list[Score]:
    """The perplexity as a share of the original's; nothing beyond its window, or where nothing was changed."""
    changed = asked.table is not None or asked.original is not None
    if not changed or length > asked.model.spec.trained_window:
        return []
    windows = asked.text.divided(asked.windows, length)
    return [measure_retention(asked.model, asked.table, windows, original=asked.original, **asked.kept)]


def needles(asked: Request, length: int) -> list[Score]:
    """The share found in running text."""
    given = {"count": asked.settings.needles, **asked.named}
    return measure_needles(asked.model, asked.table, asked.text, asked.windows, length, **given)


def ruler_task(asked: Request, length: int) -> list[Score]:
    """The share of one of RULER's tasks that is solved."""
    task, given = asked.metric.removeprefix("ruler-"), {"settings": asked.settings, **asked.named}
    return [measure_ruler(asked.model, asked.table, asked.text, asked.windows, task, length, **given)]


def ruler(asked: Request, length: int) -> list[Score]:
    """The mean over RULER's tasks, which were measured before it."""
    return [mean_ruler(tasks_of_ruler(asked.scores, length))]


def tasks_of_ruler(scores: list[Score], length: int) -> list[Score]:
    """The scores of RULER's tasks at one length."""
    return [s for s in scores if s.context_tokens == length and s.metric.startswith("ruler-")]
