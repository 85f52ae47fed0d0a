"""What a reader of the page sees first, and how its tables and maps are to be read."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from handmade import make_run, score

from longrope.recipe import SearchRecipe, dump_recipe, load_recipe
from longrope.report import write_report
from longrope.report.charts.axes import doubling_axis, log_axis
from longrope.report.charts.lines import LineChart, Point, Series, draw_lines
from longrope.report.charts.style import Style
from longrope.report.tables import even_table, score_table

ROOT = Path(__file__).parents[2]
OURS, YARN, ORIGINAL = "longrope-gradient", "yarn", "none"
SCORES = [
    score(ORIGINAL, 64, "perplexity", 10.0, 9.0, 11.0),
    score(OURS, 64, "perplexity", 11.5, 10.5, 12.5),
    score(YARN, 64, "perplexity", 12.0, 11.0, 13.0),
    score(ORIGINAL, 1024, "perplexity", 1666.0, 1500.0, 1800.0),
    score(OURS, 1024, "perplexity", 9.5, 9.0, 10.0),
    score(YARN, 1024, "perplexity", 10.25, 9.5, 11.0),
    score(OURS, 1024, "ratio-to-yarn", 0.925, 0.9, 0.95),
    score(OURS, 64, "ratio-to-none", 1.15, 1.12, 1.18),
    score(OURS, 1024, "passkey", 0.5, 0.3, 0.7),
    replace(score(OURS, 1024, "passkey-depth-0.05", 0.25), num_windows=8),
    replace(score(OURS, 1024, "passkey-depth-0.15", 0.75), num_windows=4),
]


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The page of a run, as text."""
    return write_report(make_run(tmp_path / "run", SCORES)).read_text(encoding="utf-8")


def test_the_first_tiles_are_the_verdict_and_what_short_texts_pay(source: str) -> None:
    tiles = re.findall(r"<li><strong>(.*?)</strong><span>(.*?)</span>(?:<span class=\"ends\">(.*?)</span>)?", source)
    assert tiles[0][0] == "0.925"
    assert tiles[0][1] == "perplexity as a share of that of YaRN at 1,024 tokens: ahead"
    assert tiles[0][2] == "95 % interval 0.9-0.95"
    assert tiles[1] == (
        *("+15.0%", "perplexity at 64 tokens, against the original model"),
        "95 % interval +12.0% to +18.0%",
    )
    values = [value for value, *_ in tiles]
    assert len(set(values)) == len(values)  # no number is said twice
    assert {"9.5", "50%"} < set(values)


def test_what_was_measured_comes_before_what_made_it(source: str) -> None:
    names = re.findall(r'<section id="([\w-]+)">', source)
    assert names.index("perplexity") < names.index("retrieval") < names.index("provenance") < names.index("recipe")
    assert all(names.index("ratios") < names.index(name) for name in ("factors", "search", "cost") if name in names)


def test_the_best_of_each_column_is_bold(source: str) -> None:
    """The least perplexity, by length; a column of one method has none."""
    table = source.split("Perplexity (95 % interval)</span>")[1].split("</table>", maxsplit=1)[0]
    bold = re.findall(r"<strong>(.*?)</strong>", table)
    assert [text.split()[0] for text in bold] == ["10.0", "9.50"]
    shares = source.split("Passkeys found (95 % interval)</span>")[1].split("</table>", maxsplit=1)[0]
    assert "<strong>" not in shares


def test_of_shares_the_greatest_is_best_and_equal_ones_are_both() -> None:
    found = [score(method, 64, "passkey", share) for method, share in ((OURS, 0.5), (YARN, 0.75), (ORIGINAL, 0.75))]
    assert score_table("t", found).best == {(1, 1), (2, 1)}
    broken = [score(OURS, 64, "perplexity", float("nan")), score(YARN, 64, "perplexity", float("inf"))]
    assert score_table("t", broken).best == frozenset()
    alike = [
        score("none", 64, "perplexity", 9.50011),
        score("yarn", 64, "perplexity", 9.50012),
        score("pi", 64, "perplexity", 9.6),
    ]
    assert score_table("t", alike).best == {(0, 1), (1, 1)}, "all that are written alike"


def test_the_decimals_of_a_column_are_equal() -> None:
    found = [s for s in SCORES if s.metric == "perplexity"]
    for column in (1, 2):
        cells = [row[column] for row in even_table("t", found).rows]
        digits = {len(number.partition(".")[2]) for cell in cells for number in re.findall(r"[\d,.]+", cell)}
        assert len(digits) == 1, cells
    assert "1,666.00 (1,500.00-1,800.00)" in [row[2] for row in even_table("t", found).rows]


def test_a_cell_of_a_map_says_of_how_many_it_is(source: str) -> None:
    drawn = source.rsplit('id="figure-retrieval', maxsplit=1)[-1]
    assert ">25%<" in drawn
    assert "of 8<" in drawn
    assert "of 4<" in drawn


def test_no_marker_stands_on_the_axis_where_the_labels_are() -> None:
    """Every marker is at least eight pixels right of the line beside which the values stand."""
    series = Series("a", Style("#000"), tuple(Point(n, n / 10, i) for i, n in enumerate((64, 128, 1024))))
    chart = LineChart(doubling_axis((64, 128, 1024), "x", str), log_axis((6.4, 102.4), "y"), (series,))
    root = draw_lines([chart], 800, 400)
    points = next(g.get("data-points", "") for g in root.iter() if g.get("data-key") == "a" and g.get("data-points"))
    grid = next(path.get("d", "") for path in root.iter() if path.get("class") == "grid")
    left = float(grid.removeprefix("M").split()[0])
    assert min(float(point.split(",")[0]) for point in points.split()) >= left + 8
    assert ET.tostring(root)


@pytest.mark.parametrize("metric", ["passkey", "perplexity"])
def test_tables_of_one_method_have_no_best(metric: str) -> None:
    alone = [s for s in SCORES if s.metric == metric and s.method == OURS]
    assert score_table("t", alone).best == frozenset()


def test_the_numbers_are_of_what_the_verdict_is_about(tmp_path: Path) -> None:
    """Of a run by a formula those of the formula; LongRoPE2's search is a baseline, whatever its name begins with."""
    scores = [
        score(ORIGINAL, 1024, "perplexity", 1666.0, 1500.0, 1800.0),
        score(YARN, 1024, "perplexity", 10.25, 9.5, 11.0),
        score("pi", 1024, "perplexity", 12.5, 12.0, 13.0),
        score("longrope2", 1024, "perplexity", 11.25, 11.0, 11.5),
        score(YARN, 1024, "passkey", 0.5, 0.3, 0.7),
        score(ORIGINAL, 1024, "passkey", 0.0, 0.0, 0.3),
    ]
    run = make_run(tmp_path / "run", scores)
    recipe = replace(load_recipe(run.path / "recipe.toml"), stages=(), search=SearchRecipe(method=YARN))
    (run.path / "recipe.toml").write_text(dump_recipe(recipe))
    page = write_report(run).read_text(encoding="utf-8")
    tiles = re.findall(r"<li><strong>(.*?)</strong><span>(.*?)</span>", page)
    assert "50%" in [value for value, _ in tiles]
    assert not any(value in ("0%", "11.25", "1666") for value, _ in tiles)


def test_short_texts_of_trained_weights_are_beside_the_same_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [replace(s, method="longrope-tuned") if s.method == OURS else s for s in SCORES])
    export = json.loads((ROOT / "results/gemma3-2048k-seed1/export.json").read_text())
    run.export_report.write_text(json.dumps(export | {"short_tokens": 64}))
    page = write_report(run).read_text(encoding="utf-8")
    assert "perplexity of the exported checkpoint at 64 tokens, against the same weights with the model" in page


def test_passkeys_of_which_several_stand_in_a_text_are_compared_on_the_page(tmp_path: Path) -> None:
    pair = score(OURS, 1024, "many-passkeys-difference-to-yarn", -0.85, -0.9, -0.7)
    counts = [score(OURS, 1024, "many-passkeys", 0.1, 0.05, 0.2), score(YARN, 1024, "many-passkeys", 0.95, 0.9, 1.0)]
    page = write_report(make_run(tmp_path / "run", [*SCORES, pair, *counts])).read_text(encoding="utf-8")
    assert "Difference of passkeys found, several in a text" in page
    assert "the baseline is ahead in passkeys found, several in a text [10% against 95%" in page
