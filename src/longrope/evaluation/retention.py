"""Short-window retention: what an extension costs within the windows that the model was trained for.

The extended model against the original on the same windows at the trained window and below it, as the ratio of their
perplexities with an interval paired by token. It takes any text, and no benchmark.
"""

from collections.abc import Sequence
from dataclasses import replace

from longrope.data import fingerprint
from longrope.errors import RecipeError
from longrope.evaluation.metric import Context, Metric, Reading
from longrope.evaluation.perplexity import cached_losses, read_windows, score_ratio
from longrope.evaluation.samples import Samples
from longrope.recipe import MeasureRecipe
from longrope.rope import RopeSpec
from longrope.runs.records import Score


class Retention(Metric):
    """The perplexity of an extended model as a share of the original's, at lengths within the trained window.

    The record is ``ratio-to-none``. Nothing is scored for the original itself; its losses are samples all the same, so
    that they are in the cache before its weights are tuned.

    Samples: ``losses`` and, of an extended model, ``original`` [W, N - 1] in nats; ``documents`` [W, N - 1].
    """

    def check(self, lengths: Sequence[int], spec: RopeSpec) -> None:
        """One length must lie within the trained window."""
        if lengths[0] > spec.trained_window:
            raise RecipeError(
                f"Retention was asked for at {', '.join(f'{n:,}' for n in lengths)} tokens.",
                f"It needs a length within the model's own window of {spec.trained_window:,}.",
                "Add one to the lengths.",
            )

    def readings(self, context: Context) -> tuple[Reading, ...]:
        """Those of perplexity; those of the original are its own."""
        return (read_windows(context),) if self.names(context) else ()

    def names(self, context: Context) -> tuple[str, ...]:
        """Beyond the trained window there is nothing to retain."""
        return ("ratio-to-none",) if context.length <= context.subject.model.spec.trained_window else ()

    def inputs(self, context: Context) -> str:
        """The windows of this length."""
        return fingerprint(context.divided()[0])

    def samples(self, context: Context) -> Samples:
        """The losses of both models on the same windows; of the original alone, where it is the subject."""
        pieces = context.divided()
        ours, seconds = cached_losses(context, *pieces)
        if context.subject.is_same(context.original):
            return Samples(self.identity(context), ours, seconds)
        theirs, more = cached_losses(context.of(context.original), *pieces)
        return Samples(self.identity(context), ours | {"original": theirs["losses"]}, seconds + more)

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score, paired by token; none for the original."""
        if "original" not in samples.arrays:
            return []
        before = replace(samples, arrays={"losses": samples.arrays["original"]}, seconds=0.0)
        return [score_ratio("ratio-to-none", samples, before)]
