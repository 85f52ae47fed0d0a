"""What tests add to the registry: a method, a metric and a format, each of one function, as another package would."""

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from longrope.data import fingerprint
from longrope.evaluation import metric
from longrope.evaluation.metric import Context
from longrope.evaluation.samples import Samples
from longrope.evaluation.statistics import Interval
from longrope.exports import ExportReport
from longrope.exports.comparison import make_report
from longrope.exports.lists import native_lists
from longrope.models import LanguageModel
from longrope.recipe import MeasureRecipe
from longrope.rope import FactorTable, RescaleFactors, RopeSpec, as_table
from longrope.rows import Format, Method, Metric
from longrope.runs.records import Score

METHOD = Method(
    "toy",
    label="Toy scaling",
    make="toys:toy_table",
    colours=("#123456", "#654321"),
    dash="9 9",
    formula=True,
    baseline=True,
    start=True,
)
METRIC = Metric("distinct", label="Distinct tokens", format="share", measure="toys:DistinctTokens")
ATTENTION = Method("toy-attention", label="Toy attention", kind="attention", make="toys:sharpened", baseline=True)
WEIGHTS = Method("toy-weights", label="Toy weights", kind="weights", make="toys:with_smaller_logits", baseline=True)
FORMAT = Format("toy", label="A list of numbers", write="toys:write_list", file="toy/factors.json")


def toy_table(spec: RopeSpec, target_tokens: int, _: Iterable[int]) -> FactorTable:
    """Twice as slow, whatever the target."""
    return as_table(RescaleFactors((2.0,) * spec.num_pairs, target_tokens, spec.fingerprint))


@contextmanager
def sharpened(model: LanguageModel, length: int) -> Iterator[None]:
    """Queries grow with the length, from 64 tokens on."""
    layers = model.network.base_model.layers
    hooks = [layer.self_attn.q_proj.register_forward_hook(lambda *x: x[2] * (1 + length / 640)) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def with_smaller_logits(model: LanguageModel, _: int) -> LanguageModel:
    """The same network with a head of half the size."""
    network = copy.deepcopy(model.network)
    network.lm_head.weight.mul_(0.5)
    return replace(model, network=network, name=f"{model.name}, half a head")


class DistinctTokens(metric.Metric):
    """The share of the tokens of the first window that are distinct."""

    def inputs(self, context: Context) -> str:
        """The windows."""
        return fingerprint(context.windows)

    def samples(self, context: Context) -> Samples:
        """The tokens themselves."""
        return Samples(self.identity(context), {"tokens": context.windows[0, : context.length]}, 0.0)

    def scores(self, samples: Samples, settings: MeasureRecipe) -> list[Score]:
        """One share."""
        tokens = samples.arrays["tokens"]
        share = len(set(tokens.tolist())) / len(tokens)
        return [samples.score(self.name, Interval(share, share, share), num_tokens=len(tokens), num_windows=1)]


def write_list(
    model: LanguageModel, factors: RescaleFactors, path: Path, *, settings: Any, windows: Any, origin: Any
) -> ExportReport:
    """The factors alone, without a comparison."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(factors.lambdas))
    lists = native_lists(model, factors, settings, windows)
    return make_report(lists, [(0.0, 0.0), (0.0, 0.0)])
