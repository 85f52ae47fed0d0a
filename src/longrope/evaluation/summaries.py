"""What comparisons of runs and methods need of the samples of a score, which are large: kept beside the scores."""

from functools import partial

import numpy as np

from longrope.data import fingerprint
from longrope.evaluation.samples import Arrays
from longrope.evaluation.statistics import sum_units
from longrope.metrics import LAST_TOKENS, MANY_PASSKEYS, PROSE
from longrope.runs.records import SampleSummary, Score

ANSWERS = {"passkey": "right", MANY_PASSKEYS: "right", "needle": "shares", PROSE: "right"}  # metric -> array of samples
TAIL = "perplexity-last-"


def is_paired(metric: str) -> bool:
    """Whether samples of a metric have pairs; one depth or kind of needles has none of its own."""
    counted = metric.startswith((TAIL, LAST_TOKENS)) and metric.rpartition("-")[2].isdecimal()
    return metric in ANSWERS or metric == "perplexity" or counted


def summarize(score: Score, arrays: Arrays) -> SampleSummary:
    """The sums of the losses of each document or block, or which answers are right.

    Args:
        score: of a metric that is paired.
        arrays: the samples that it was computed from: ``losses`` [W, N] in nats with ``documents`` [W, N], or the
            array of ``ANSWERS`` [K], with ``texts`` [K] where several prompts stand in one text.
    """
    made = partial(
        SampleSummary,
        metric=score.metric,
        context_tokens=score.context_tokens,
        method=score.method,
        model=score.model,
        factors_fingerprint=score.factors_fingerprint,
        texts_fingerprint=score.texts_fingerprint,
        seed=score.seed,
    )
    if score.metric in ANSWERS:
        counts = np.unique(arrays["texts"], return_counts=True)[1].tolist() if "texts" in arrays else ()
        right = arrays[ANSWERS[score.metric]] == 1
        return made(answers="".join("01"[one] for one in right.astype(int)), counts=tuple(counts))
    tail = int(score.metric.removeprefix(TAIL)) if score.metric.startswith(TAIL) else 0
    losses, documents = arrays["losses"][:, -tail:].astype(float), arrays["documents"][:, -tail:]
    units = sum_units(losses, documents)
    return made(
        resampled=units.resampled,
        documents_fingerprint=fingerprint(np.asarray(documents)),
        sums=tuple(units.sums.tolist()),
        counts=tuple(units.counts.tolist()),
    )
