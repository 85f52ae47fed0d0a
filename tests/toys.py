"""What tests add to the registry: a method, a metric and a format, each of one function, as another package would."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from longrope.exports import ExportReport
from longrope.exports.comparison import make_report
from longrope.exports.lists import native_lists
from longrope.factors import FactorTable, RescaleFactors, as_table
from longrope.measures.requests import Request
from longrope.measures.samples import begin_score
from longrope.models import LanguageModel
from longrope.records import Score
from longrope.registry import Format, Method, Metric
from longrope.rope import RopeSpec
from longrope.texts import fingerprint

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
METRIC = Metric("distinct", label="Distinct tokens", format="share", measure="toys:count_distinct")
FORMAT = Format("toy", label="A list of numbers", write="toys:write_list", file="toy/factors.json")


def toy_table(spec: RopeSpec, target_tokens: int, _: Iterable[int]) -> FactorTable:
    """Twice as slow, whatever the target."""
    return as_table(RescaleFactors((2.0,) * spec.num_pairs, target_tokens, spec.fingerprint))


def count_distinct(asked: Request, length: int) -> list[Score]:
    """The share of the tokens of the first window that are distinct."""
    window = asked.windows[0, :length]
    share = len(set(window.tolist())) / length
    begun = begin_score(asked.model, asked.table, length, fingerprint(asked.windows), seconds=0.0, **asked.named)
    return [begun(metric="distinct", value=share, low=share, high=share, num_tokens=length, num_windows=1)]


def write_list(
    model: LanguageModel, factors: RescaleFactors, path: Path, *, settings: Any, windows: Any, origin: Any
) -> ExportReport:
    """The factors alone, without a comparison."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(factors.lambdas))
    lists = native_lists(model, factors, settings, windows)
    return make_report(lists, [(0.0, 0.0), (0.0, 0.0)])
