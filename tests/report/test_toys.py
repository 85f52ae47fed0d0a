"""A metric and a method that nobody has heard of: in the terminal's table, on the page and in the model card."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from handmade import make_run, read_page, score

from longrope.cli.console import print_scores
from longrope.exports import Origin
from longrope.exports.card import result_table
from longrope.metrics import METRICS
from longrope.registry import METHODS
from longrope.report import write_report
from longrope.rows import Method, Metric
from longrope.runs.records import Score

TOY = Method("toy", "a toy", colours=("#123456", "#abcdef"), dash="1 9", marker="diamond")
RECALL = Metric("recall-of-colours", "Colours recalled", format="share", section="retrieval")
SCORES = [
    score("toy", 64, "recall-of-colours", 0.5, 0.25, 0.75),
    score("toy", 128, "recall-of-colours", 0.375, 0.125, 0.625),
    score("toy", 64, "perplexity", 11.5, 11.0, 12.0),
    score("toy", 128, "perplexity", 12.5, 12.0, 13.0),
    score("none", 128, "perplexity", 20.5, 20.0, 21.0),
]


def series_of(source: str, figure: str) -> list[ET.Element]:
    """The series of a figure, by their order."""
    found = re.findall(rf"<h3>{figure}</h3>.*?(<svg .*?</svg>)", source, re.DOTALL)
    return [part for part in ET.fromstring(found[0]).iter() if part.get("class") == "series"]  # noqa: S314  # our own


def table_of_card(scores: list[Score]) -> list[list[str]]:
    table = result_table(scores, [s for s in scores if s.method == "toy"], Origin("model"))
    return [["", *table.header], *map(list, table.rows)]


def test_without_rows_they_have_their_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain numbers, a colour that the style sheet of the page holds, and a marker."""
    print_scores(SCORES, as_json=False)
    shown = capsys.readouterr().out
    assert "recall-of-colours (95 % interval)" in shown
    assert re.search(r"toy +│ +0\.5 \(0\.25-0\.75\) │ 0\.375 \(0\.125-0\.625\)", shown)
    path = write_report(make_run(tmp_path, SCORES))
    assert read_page(path).tables["recall-of-colours (95 % interval)"] == [
        ("method", "64 tokens", "128 tokens"),
        ("toy", "0.50 (0.25-0.75)", "0.375 (0.125-0.625)"),
    ]
    source = path.read_text()
    for figure in ("Perplexity", "recall-of-colours"):
        toy = next(part for part in series_of(source, figure) if part.get("data-key") == "toy")
        (color,) = re.findall(r"--c:var\((--[\w-]+)\)", toy.get("style", ""))
        assert f"{color}:#" in source
        assert sum(part.get("class") == "dot" for part in toy) == 2
    rows = {row[0]: row[-1] for row in table_of_card(SCORES)}
    assert rows["recall-of-colours, 64 tokens"] == "0.5 (0.25-0.75)"
    assert rows["Perplexity, 128 tokens"] == "12.5 (12-13)"


def test_with_rows_they_have_what_these_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row each is enough for label, format, colour, dash and marker everywhere."""
    monkeypatch.setitem(METHODS, "toy", TOY)
    monkeypatch.setitem(METRICS, "recall-of-colours", RECALL)
    print_scores(SCORES, as_json=False)
    assert re.search(r"a toy +│ +50% \(25%-75%\) │ +38% \(12%-62%\)", capsys.readouterr().out)
    path = write_report(make_run(tmp_path, SCORES))
    assert read_page(path).tables["Colours recalled (95 % interval)"][1] == ("a toy", "50% (25%-75%)", "38% (12%-62%)")
    (toy,) = series_of(path.read_text(), "Colours recalled")
    assert (toy.get("style"), toy.get("data-key")) == ("--c:var(--toy)", "a toy")
    assert "--toy:#123456" in path.read_text()
    assert "--toy:#abcdef" in path.read_text()
    assert [part.get("stroke-dasharray") for part in toy if part.get("class") == "line"] == ["1 9"]
    rival = [replace(s, method="other") for s in SCORES]
    assert ["Colours recalled, 64 tokens", "50% (25%-75%)"] in table_of_card([*SCORES[:2], *rival])
