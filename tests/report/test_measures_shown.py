"""Every new measure stands on a page and in a card, under its label and with its interval."""

from pathlib import Path

import pytest
from handmade import make_run, read_page

from longrope.exports.card import Origin, result_table
from longrope.labels import metric_label
from longrope.metrics import METRICS
from longrope.report import write_report
from longrope.runs.records import Score

LONG = 1024
NAMES = {  # what each is called, and the section of the page in which it stands
    "last-tokens-255": ("Perplexity of the same last 255 tokens", "perplexity"),
    "far-context": ("Perplexity of the last tokens, relative to near context alone", "far"),
    "far-shuffled": ("Perplexity of the last tokens, relative to shuffled far context", "far"),
    "far-replaced-perplexity": ("Perplexity of the last tokens with another text as far context", "far"),
    "prose-needle": ("Needles in prose found", "retrieval"),
    "prose-needle-name": ("Needles in prose found, names", "retrieval"),
    "ruler-subset": ("RULER, mean of six tasks", "ruler"),
    "accuracy": ("Accuracy: mean of needles in prose and of RULER's six tasks", "effective"),
    "effective-length": ("Effective length in tokens", "effective"),
    "length-area": ("Area under the curve of accuracy by length", "effective"),
    "longppl-by-models/big+0a1b": ("LongPPL, key tokens by models/big+0a1b", "perplexity"),
}
PAIRS = {
    "last-tokens-ratio-to-yarn": "Perplexity of the last tokens relative to YaRN",
    "longppl-ratio-to-yarn": "LongPPL relative to YaRN",
    "accuracy-difference-to-yarn": "Accuracy, difference from YaRN",
    "prose-needle-difference-to-yarn": "Needles in prose found, difference from YaRN",
}


def score(metric: str, value: float = 0.75) -> Score:
    """A score of one method at 1,024 tokens."""
    value = LONG if metric == "effective-length" else value
    given = {"method": "pi", "context_tokens": LONG, "num_tokens": 10, "num_windows": 2, "seed": 0, "model": "m"}
    hashes = {"texts_fingerprint": "t", "factors_fingerprint": "f", "seconds": 1.0}
    return Score(metric, value, value / 2, value * 1.2, **given, **hashes)  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", NAMES)
def test_it_has_a_label_and_a_section(metric: str) -> None:
    label, section = NAMES[metric]
    assert metric_label(metric) == label
    ((shown, value, *_),) = result_table([score(metric)], [score(metric)], Origin("m")).rows
    assert shown == f"{label}, 1,024 tokens"
    assert value.startswith("1,024 (" if metric == "effective-length" else ("75%", "0.75"))
    named = [row.section for row in METRICS.values() if metric.startswith(row.recorded_as)]
    assert section in named


def test_a_page_has_all_of_them_and_the_pairs(tmp_path: Path) -> None:
    scores = [*map(score, NAMES), *map(score, PAIRS)]
    page = read_page(write_report(make_run(tmp_path / "run", scores)))
    shown = " ".join(text for texts in page.texts.values() for text in texts) + " ".join(page.tables)
    for metric, (label, section) in NAMES.items():
        assert label in shown or section == "ruler", metric
    for title in (
        "Ratio of perplexities of the last tokens",
        "Ratio of LongPPL",
        "Difference of needles in prose",
        "Difference of accuracy",
    ):
        assert title in shown
    assert {metric: metric_label(metric) for metric in PAIRS} == PAIRS
