"""Short-window retention: what an extension costs within the windows that the model was trained for.

The extended model against the original on the same windows at the trained window and below it, as the ratio of their
perplexities with an interval paired by token. It takes any text, and no benchmark.
"""

import time
from collections.abc import Sequence

from longrope.errors import RecipeError, TextsError
from longrope.evaluation.perplexity import kept_losses, score_losses
from longrope.evaluation.samples import Samples, begin_score
from longrope.evaluation.statistics import Losses
from longrope.factors import FactorTable
from longrope.models import LanguageModel
from longrope.records import Score
from longrope.texts import Tokens, fingerprint

OriginalLosses = dict[tuple[int, str], Losses]


def original_losses(
    model: LanguageModel, pieces: Sequence[Tokens], *, samples: Samples | None = None
) -> OriginalLosses:
    """The losses of the original model, to be kept while its weights are tuned or another model takes its memory.

    Args:
        model: the model before any change of its weights.
        pieces: [W, N] windows of each original length.
        samples: where else they are kept.

    Returns:
        [W, N - 1] losses in nats by N and the fingerprint of the windows.
    """
    return {_name(some): kept_losses(model, None, some, method="none", samples=samples) for some in pieces}


def measure_retention(
    model: LanguageModel,
    table: FactorTable | None,
    windows: Tokens,
    *,
    method: str,
    original: LanguageModel | OriginalLosses | None = None,
    seed: int = 0,
    samples: Samples | None = None,
) -> Score:
    """Measure the perplexity of an extended model as a share of the original's on windows [W, N] of an original length.

    Args:
        model: the extended model.
        table: its factors, of which the tier for N is taken; None where its weights alone were changed.
        windows: N is at most the trained window.
        method: the name in the record.
        original: the model before its weights were tuned, or its losses by ``original_losses``; None where no weights
            were tuned, so that the original is the model without the factors.
        seed: of the bootstrap.
        samples: where the losses are kept.

    Returns:
        One score, ``ratio-to-none``, whose 95 % interval is paired by token.

    Raises:
        RecipeError: N is beyond the trained window.
        TextsError: the losses given are of other windows.
    """
    length = windows.shape[1]
    if length > model.spec.trained_window:
        raise RecipeError(
            f"Retention was asked for at {length:,} tokens.",
            f"The model was trained for {model.spec.trained_window:,}; beyond there is nothing to retain.",
            "Measure it at the trained window or below.",
        )
    began = time.perf_counter()
    before = _losses_before(original or model, windows, samples)
    after = kept_losses(model, table, windows, method=method, samples=samples)
    seconds = time.perf_counter() - began
    begun = begin_score(model, table, length, fingerprint(windows), method=method, seed=seed, seconds=seconds)
    return score_losses(begun, "ratio-to-none", after - before, seed)


def _losses_before(original: LanguageModel | OriginalLosses, windows: Tokens, samples: Samples | None) -> Losses:
    if isinstance(original, LanguageModel):
        return original_losses(original, [windows], samples=samples)[_name(windows)]
    if _name(windows) not in original:
        raise TextsError(
            f"The original model's losses are not known on these windows of {windows.shape[1]:,} tokens.",
            "Both models must read the same windows.",
            "Give the losses of `original_losses` on them, or the original model itself.",
        )
    return original[_name(windows)]


def _name(windows: Tokens) -> tuple[int, str]:
    return windows.shape[1], fingerprint(windows)
