"""Tables and pictures of the docs are those that the scripts of results/ make of the committed records."""

import html
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from xml.etree import ElementTree as ET

import numpy as np
import plots
import pytest
import tables
import tables_cells
from documents import DOCS, RESULTS, ROOT, scores
from tables_cells import EACH_ROW, Cell, MixedTextsError, Records, Row, number, one_text, table

from longrope.runs.records import Score

METHODS = ("none", "pi", "ntk", "dynamic-ntk", "yarn", "longrope-evolution", "longrope-gradient")
SVG = "{http://www.w3.org/2000/svg}"


def test_tables_are_those_of_the_records() -> None:
    """Writing them again from the records changes nothing, and each table that can be made stands somewhere."""
    assert [path.name for path in tables.changed_files()] == []
    shown = {name for text in DOCS.values() for name in re.findall(r"<!-- table (\S+) -->", text)}
    assert shown == set(tables.TABLES)
    assert {path.relative_to(ROOT).as_posix() for path in tables.FILES} == set(DOCS)


def test_a_changed_number_is_found() -> None:
    text = "before\n<!-- table steps -->\n| longrope | 1.00 |\n<!-- end -->\nafter\n"
    again = tables.with_tables(text, Records())
    assert again != text
    assert again.startswith("before\n<!-- table steps -->\n| step |  | before |")
    assert again.endswith("|\n<!-- end -->\nafter\n")


def test_a_table_of_several_texts_is_refused() -> None:
    """The tuned model's perplexities at 64k and 256k are of two texts; passkeys have other prompts at each length."""
    found = {at: number(score) for at, score in Records().scores("smollm2-64k-tuned", "longrope-tuned").items()}
    near, far = (found["perplexity", length] for length in (65536, 262144))
    keys, other = (found["passkey", length] for length in (65536, 262144))
    again = Cell("", (replace(keys.scores[0], texts_fingerprint="0"),))
    mixed: list[list[Row]] = [[["a", near, far]], [["a", near], ["b", far]], [["a", keys], ["b", again]]]
    for rows in mixed:
        with pytest.raises(MixedTextsError, match=r"different texts: (perplexity|passkey) of"):
            table(["", "64k"], rows)
    table(["", "64k", "passkeys 64k", "passkeys 256k"], [["a", near, keys, other]])
    table([EACH_ROW, "64k"], [["a", near], ["b", far]])
    with pytest.raises(MixedTextsError, match="different texts"):
        table([EACH_ROW, "64k"], [["a", near, far]])
    with pytest.raises(MixedTextsError, match="different texts: a, b"):
        one_text([{"texts_fingerprint": name} for name in "aba"])


ALONE = {  # each of their scores, or each in a row, is of a metric and a length of its own
    "2048k-accuracy",
    "2048k-aims",
    "2048k-lengths",
    "2048k-lengths-yarn",
    "2048k-lengths-smollm2",
    "2048k-lengths-smollm2-attention",
}


@dataclass(frozen=True)
class EachOfItsOwn(Records):
    """The same records, but every score is of a text of its own."""

    numbers: Iterator[int] = field(default_factory=itertools.count)

    def scores(self, run: str, method: str) -> dict[tuple[str, int], Score]:
        found = super().scores(run, method)
        return {at: replace(score, texts_fingerprint=f"{next(self.numbers)}") for at, score in found.items()}


def test_every_table_of_scores_is_checked_for_its_texts() -> None:
    """Each of them is refused once every score is of a text of its own; none is made past the check."""
    refused = set()
    for name, make in tables.TABLES.items():
        records = EachOfItsOwn()
        try:
            make(records)
        except MixedTextsError:
            refused.add(name)
        else:
            assert next(records.numbers) == 0 or name in ALONE, f"{name} reads scores and shows them unchecked"
    assert {"tuned", "further", "compare", "ratios", "win", "demo", "earlier", "depths"} <= refused


def test_the_picture_shows_the_records() -> None:
    """The numbers in the description of the picture are those of the scores."""
    picture = (RESULTS / "by-length.svg").read_text()
    assert "](results/by-length.svg)" in DOCS["README.md"]
    shown = json.loads(html.unescape(re.findall(r"<desc>(.*?)</desc>", picture)[0]))
    measured: dict[str, dict[str, list[float]]] = {"perplexity": {}, "passkey": {}}
    for (method, metric, _), score in sorted(scores("smollm2-64k").items(), key=lambda item: item[0][2]):
        if metric in measured:
            measured[metric].setdefault(method, []).append(round(score["value"], 2))
    assert shown == measured


def test_the_points_of_the_picture_stand_where_the_records_put_them() -> None:
    """Their heights are straight lines of the logarithms of the perplexities, and of the shares of passkeys."""
    made = scores("smollm2-64k")
    picture = ET.fromstring((RESULTS / "by-length.svg").read_text())  # noqa: S314  # it is our own
    panels = [part for part in picture.iter(f"{SVG}g") if part.get("class") == "panel"]
    for panel, metric in zip(panels, ("perplexity", "passkey"), strict=True):
        lengths = sorted({tokens for _, name, tokens in made if name == metric})
        wanted = np.array([made[method, metric, tokens]["value"] for method in METHODS for tokens in lengths])
        drawn = [part.get("data-points", "") for part in panel.iter(f"{SVG}g") if part.get("class") == "series"]
        heights = [float(text.split(",")[1]) for points in drawn for text in points.split()]
        wanted = np.log(wanted) if metric == "perplexity" else wanted
        assert len(heights) == len(wanted) == 4 * len(METHODS)
        slope, start = np.polyfit(wanted, heights, 1)
        assert slope < 0
        np.testing.assert_allclose(start + slope * wanted, heights, atol=0.3)  # they are written in tenths of a pixel


def test_pictures_are_those_of_the_command() -> None:
    """Drawing them again changes nothing."""
    drawn = plots.pictures()
    assert [path.name for path, picture in drawn.items() if path.read_text() != picture] == []
    assert set(drawn) == set(RESULTS.glob("*.svg"))


def test_the_picture_of_long_passes_says_whose_weights_they_are() -> None:
    title = re.findall(r'class="title">(.*?)</text>', (RESULTS / "long-pass.svg").read_text())
    assert title == ["SmolLM2-135M, original weights, on one H200: the speed of a pass, not a capability"]


def test_the_best_values_of_the_readmes_table_are_bold() -> None:
    """The lowest perplexities and the highest shares, once a column of what is not trained and once of what is."""
    every = [line.split(" | ") for line in tables.TABLES["summary"](Records()).splitlines()[3:]]
    trained = [row for row in every if row[0].endswith("trained")]
    for rows in (trained, [row for row in every if row not in trained]):
        for column, best in ((1, min), (2, min), (3, max), (4, max)):
            values = {row[0]: float(re.sub(r"[*%|]|\(.*", "", row[column])) for row in rows}
            marked = [row[0] for row in rows if "**" in row[column]]
            assert marked == [label for label, value in values.items() if value == best(values.values())]
    assert tables_cells.bold(Cell("1", ())).text == "**1**"
