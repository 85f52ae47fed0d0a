"""Accuracy, and the length up to which a method keeps it: both computed from the needles in prose and tasks of RULER.

Accuracy is the mean of two shares: needles in prose, and RULER's subset (the mean of six of its tasks). The effective
length is the longest measured one at which accuracy is at least 85 % of the ORIGINAL model's at the shortest, and at
all shorter ones, too. RULER (arXiv 2404.06654) asks for a fixed 85.6, NoLiMa (arXiv 2502.05167) for 85 % of a model's
own short score, both without looking at the lengths between.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from longrope.errors import RecipeError
from longrope.evaluation.metric import Context, Metric, joined
from longrope.evaluation.prose import ProseNeedles
from longrope.evaluation.ruler import RulerMean, joined_names, mean_interval
from longrope.evaluation.samples import Arrays, Samples
from longrope.evaluation.statistics import (
    RESAMPLES,
    Interval,
    independent_prompts,
    interval_of_mean,
    share_difference,
    share_interval,
)
from longrope.metrics import ACCURACY, DIFFERENCE, PROSE, RULER_SUBSET
from longrope.recipe import MeasureRecipe
from longrope.rope import RopeSpec
from longrope.runs.records import Score

KEPT_SHARE = 0.85
Shares = NDArray[np.float64]


class Accuracy(Metric):
    """The mean of the share of needles in prose and of that of RULER's subset.

    Its interval is made from those of the two, also of a comparison.

    Samples: ``needles`` [1, K] and ``ruler`` [T, K'], shares between 0 and 1 of T tasks; ``texts`` [K] of the needles;
    ``tokens`` [] pushed.
    """

    compared_as = f"{ACCURACY}-{DIFFERENCE}"

    def parts(self, settings: MeasureRecipe) -> tuple[str, ...]:
        """Needles in prose, the tasks of the subset, and their mean."""
        return (PROSE, *RulerMean(RULER_SUBSET).parts(settings), RULER_SUBSET)

    def inputs(self, context: Context) -> str:
        """The prompts of both."""
        return joined_names([metric.inputs(context) for metric in _parts()])

    def samples(self, context: Context) -> Samples:
        """The samples of both."""
        needles, ruler = (metric.samples(context) for metric in _parts())
        arrays = {
            "needles": needles.arrays["right"].astype(float)[None],
            "ruler": ruler.arrays["shares"].astype(float),
            "tokens": needles.arrays["tokens"].sum() + ruler.arrays["tokens"].sum(),
        }
        arrays |= {"texts": needles.arrays["texts"]} if "texts" in needles.arrays else {}
        return Samples(self.identity(context), arrays, needles.seconds + ruler.seconds)

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """One score."""
        needles = share_interval(samples.arrays["needles"][0].tolist(), samples.arrays.get("texts"))
        ruler = mean_interval(samples.arrays["ruler"].tolist())
        return [_score(samples, self.name, interval_of_mean([needles, ruler]))]

    def compare(self, ours: Samples, theirs: Samples) -> Score:
        """The accuracy of the first less that of the second, paired by prompt."""
        texts = {"needles": ours.arrays.get("texts"), "ruler": None}
        interval = interval_of_mean(
            [share_difference(ours.arrays[kind].ravel(), theirs.arrays[kind].ravel(), texts[kind]) for kind in texts]
        )
        return _score(joined(ours, theirs), f"{self.compared_as}{theirs.identity.source.method}", interval)


class EffectiveLength(Metric):
    """The effective length in tokens, and the area under the curve of accuracy by length.

    Their intervals come from a bootstrap of the prompts of each task at each length, which draws as many needles as are
    independent; those of the original model are drawn with the same prompts of the method at the shortest length.

    Samples: ``needles-N`` [1, K], ``texts-N`` [K] and ``ruler-N`` [T, K'] at each length N, and ``needles-original``
    and ``ruler-original`` of the original model at the shortest one.
    """

    per_length = False

    def parts(self, settings: MeasureRecipe) -> tuple[str, ...]:
        """Accuracy, and what it is the mean of."""
        return (*Accuracy(ACCURACY).parts(settings), ACCURACY)

    def check(self, lengths: Sequence[int], spec: RopeSpec) -> None:
        """The shortest of several lengths must lie within the trained window, where the original model reads well."""
        if lengths[0] > spec.trained_window or len(lengths) < 2:
            raise RecipeError(
                f"{self.name} was asked for at {', '.join(f'{n:,}' for n in lengths)} tokens.",
                f"It needs a length within the model's own window of {spec.trained_window:,}, and a longer one.",
                "Add one to the lengths.",
            )

    def names(self, context: Context) -> tuple[str, ...]:
        """The length and the area; of an original that is read at the shortest length alone neither."""
        return (self.name, "length-area") if len(context.lengths) > 1 else ()

    def inputs(self, context: Context) -> str:
        """The prompts of all lengths."""
        return joined_names([Accuracy(ACCURACY).inputs(replace(context, length=n)) for n in context.lengths])

    def samples(self, context: Context) -> Samples:
        """Those of accuracy at each length, and of the original model at the shortest."""
        at = {str(n): replace(context, length=n) for n in context.lengths}
        at["original"] = at[str(context.lengths[0])].of(context.original)
        made = {name: Accuracy(ACCURACY).samples(some) for name, some in at.items()}
        arrays = {
            f"{kind}-{name}": some.arrays[kind]
            for name, some in made.items()
            for kind in ("needles", "ruler", "tokens", "texts")
            if kind in some.arrays
        }
        return Samples(self.identity(context), arrays, sum(some.seconds for some in made.values()))

    def scores(self, samples: Samples, _: MeasureRecipe) -> list[Score]:
        """The two scores."""
        curves, base = _draw_curves(samples.arrays, samples.identity.seed)
        both = [{n: (needles[i] + ruler[i]) / 2 for n, (needles, ruler) in curves.items()} for i in range(len(base))]
        effective = [effective_length(accuracy, KEPT_SHARE * least) for accuracy, least in zip(both, base, strict=True)]
        areas = [
            harmonic_mean([length_area({n: kinds[kind][i] for n, kinds in curves.items()}) for kind in range(2)])
            for i in range(len(base))
        ]
        tokens = sum(int(array) for name, array in samples.arrays.items() if name.startswith("tokens"))
        prompts = sum(array.size for name, array in samples.arrays.items() if name.startswith(("needles", "ruler")))
        return [
            samples.score(name, _first_and_quantiles(values), num_tokens=tokens, num_windows=prompts)
            for name, values in ((self.name, effective), ("length-area", areas))
        ]


def effective_length(scores: Mapping[int, float], least: float) -> int:
    """The longest length whose score and those of all shorter ones are at least so high, and above 0; 0 where none is.

    Args:
        scores: by length in tokens.
        least: the lowest score that passes.
    """
    reached = 0
    for length in sorted(scores):
        if scores[length] < least or scores[length] <= 0:
            break
        reached = length
    return reached


def length_area(scores: Mapping[int, float]) -> float:
    """The mean height of the curve of scores over the logarithm of the length: its area by trapezoids, over its range.

    After ATLAS (arXiv 2605.28079), of which the spacing of lengths is our own choice.

    Args:
        scores: by length in tokens, two or more.
    """
    x = np.log2(sorted(scores))
    return float(np.trapezoid([scores[n] for n in sorted(scores)], x) / (x[-1] - x[0]))


def harmonic_mean(values: Sequence[float]) -> float:
    """The reciprocal of the mean of reciprocals; 0 where one of them is 0."""
    return 0.0 if 0 in values else len(values) / math.fsum(1 / value for value in values)


def _draw_curves(arrays: Arrays, seed: int) -> tuple[dict[int, tuple[Shares, Shares]], Shares]:
    """Means by length of needles and of RULER [1 + R each], and the original model's accuracy [1 + R].

    The first of each is that of all prompts; the others are those of R resamples of the prompts of each task.
    """
    rng = np.random.default_rng(seed)
    lengths = sorted(int(name.removeprefix("needles-")) for name in arrays if name.removeprefix("needles-").isdecimal())
    curves, original = {}, []
    for n in lengths:
        drawn = []
        for kind in ("needles", "ruler"):
            shares = [arrays[f"{kind}-{n}"], *([arrays[f"{kind}-original"]] if n == lengths[0] else [])]
            texts = arrays.get(f"texts-{n}") if kind == "needles" else None
            means = _resampled_means(np.stack(shares), rng, texts)
            drawn.append(means[0])
            original += means[1:].tolist()
        curves[n] = (drawn[0], drawn[1])
    return curves, np.mean(original, axis=0)


def _resampled_means(shares: Shares, rng: np.random.Generator, texts: NDArray[np.int64] | None = None) -> Shares:
    """Means [S, 1 + R] of shares [S, T, K]: of all, then of resamples that are the same for each of the S.

    Where ``texts`` [K] says which text each prompt stands in, as many are drawn as ``independent_prompts`` says. Whole
    texts are not drawn: there may be one or two.
    """
    tasks, count = shares.shape[1:]
    independent = min(independent_prompts(of_task, texts) for of_task in shares.reshape(-1, count))
    drawn = rng.integers(count, size=(RESAMPLES, tasks, max(1, round(independent))))
    means = np.take_along_axis(shares[:, None], drawn[None], axis=-1).mean((-1, -2))
    return np.concatenate([shares.mean((-1, -2))[:, None], means], axis=1)


def _first_and_quantiles(values: Sequence[float]) -> Interval:
    """The first value, and the values between which 95 % of the others lie."""
    low, high = np.quantile(values[1:], [0.025, 0.975], method="inverted_cdf")
    return Interval(values[0], float(low), float(high), "prompts")


def _score(samples: Samples, metric: str, interval: Interval) -> Score:
    prompts = samples.arrays["needles"].size + samples.arrays["ruler"].size
    return samples.score(metric, interval, num_tokens=int(samples.arrays["tokens"]), num_windows=prompts)


def _parts() -> tuple[ProseNeedles, RulerMean]:
    return ProseNeedles(PROSE), RulerMean(RULER_SUBSET)
