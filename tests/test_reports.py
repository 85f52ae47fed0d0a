"""The report of a run: its tables against cells written out by hand, its page taken apart by an HTML parser of its own.

The run directories are made by hand, record by record; no model is loaded.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from longrope.exports import ExportReport, dump_report
from longrope.factors import RescaleFactors, dump_factors
from longrope.recipe import MeasureRecipe, Recipe, dump_recipe
from longrope.records import Score, append_records
from longrope.reports import ScoreTable, score_tables, write_report
from longrope.rundir import RunDir

VOID_TAGS = ("meta", "br", "hr", "img", "link")
FACTORS = RescaleFactors(
    (1.0, 1.25, 3.14159, 7.5), 1024, "0" * 16, start_tokens=4, attention_factor=1.0625, method="longrope-gradient"
)
EXPORT = ExportReport(
    tiers="single",
    target_window=1024,
    switch_tokens=64,
    difference_short=0.00123,
    difference_long=0.0045,
    rounding=0.001,
    start_tokens_dropped=0,
    loss_change_nats=0.0,
    transformers="5.10.0",
)


def score(method: str, tokens: int, metric: str, value: float, low: float = 0.0, high: float = 1.0) -> Score:
    """A record of which a report shows the first six fields."""
    return Score(metric, value, low, high, method, tokens, 1000, 3, 0, "model", "a" * 16, "", 1.5)


SCORES = [
    score("none", 1024, "perplexity", 1234567.0, 1e6, 2e6),
    score("none", 64, "perplexity", 12.3456, 11.25, 13.875),
    score("none", 1024, "passkey", 0.0, 0.0, 0.16),
    score("none", 1024, "passkey-depth-0.05", 0.0, 0.0, 0.6),
    score("none", 1024, "passkey-depth-0.15", 0.0, 0.0, 0.6),
    score("<i>own</i> & co", 1024, "perplexity", 14.5, 13.0625, 15.75),
    score("<i>own</i> & co", 1024, "passkey", 0.854, 0.641, 0.948),
    score("<i>own</i> & co", 1024, "passkey-depth-0.05", 1.0, 0.2, 1.0),
    score("<i>own</i> & co", 1024, "passkey-depth-0.15", 0.5, 0.1, 0.9),
    score("<i>own</i> & co", 1024, "ratio-to-yarn", 0.9125, 0.89062, 0.9375),
]
CAPTIONS = {
    "perplexity (95 % interval)": [
        ("method", "64 tokens", "1,024 tokens"),
        ("none", "12.35 (11.25-13.88)", "1.235e+06 (1e+06-2e+06)"),
        ("<i>own</i> & co", "", "14.5 (13.06-15.75)"),
    ],
    "passkey (95 % interval)": [
        ("method", "1,024 tokens"),
        ("none", "0% (0%-16%)"),
        ("<i>own</i> & co", "85% (64%-95%)"),
    ],
    "ratio-to-yarn (95 % interval)": [
        ("method", "1,024 tokens"),
        ("<i>own</i> & co", "0.9125 (0.8906-0.9375)"),
    ],
    "passkey at 1,024 tokens, by depth": [
        ("method", "0.05", "0.15"),
        ("none", "0%", "0%"),
        ("<i>own</i> & co", "100%", "50%"),
    ],
}


# Tables


def test_every_cell_is_the_one_written_by_hand() -> None:
    """One table a metric in the order in which they come up, and passkeys by depth after them."""
    tables = score_tables(SCORES)
    assert {table.title: [table.header, *table.rows] for table in tables} == CAPTIONS
    assert [table.title for table in tables] == list(CAPTIONS)


def test_rows_stand_in_the_order_in_which_methods_come_up() -> None:
    methods = ["yarn", "none", "longrope-gradient", "pi"]
    (table,) = score_tables([score(method, n, "perplexity", 2.0) for n in (64, 32) for method in methods])
    assert [row[0] for row in table.rows] == methods


def test_columns_ascend_by_number() -> None:
    lengths = (131072, 256, 2048, 1000)
    (table,) = score_tables([score("none", n, "perplexity", n) for n in lengths])
    assert table.header == ("method", "256 tokens", "1,000 tokens", "2,048 tokens", "131,072 tokens")
    assert [cell.split()[0] for cell in table.rows[0][1:]] == ["256", "1000", "2048", "1.311e+05"]


def test_what_was_not_measured_is_an_empty_cell() -> None:
    """Also where a metric has other lengths than another, and where a method has only one of them."""
    scores = [score("pi", 64, "perplexity", 2.0), score("none", 128, "perplexity", 3.0)]
    perplexity, tail = score_tables([*scores, score("pi", 256, "perplexity-last-16", 4.0)])
    assert perplexity.rows == (("pi", "2 (0-1)", ""), ("none", "", "3 (0-1)"))
    assert tail == ScoreTable("perplexity-last-16 (95 % interval)", ("method", "256 tokens"), (("pi", "4 (0-1)"),))


def test_an_infinite_perplexity_is_shown() -> None:
    (table,) = score_tables([score("none", 64, "perplexity", float("inf"), 1e300, float("inf"))])
    assert table.rows == (("none", "inf (1e+300-inf)"),)


def test_depths_are_shown_for_the_longest_window_alone() -> None:
    """A method that was asked for keys at a shorter one only has no row."""
    scores = [
        score("none", 64, "passkey-depth-0.95", 1.0),
        score("pi", 256, "passkey-depth-0.95", 0.25),
        score("pi", 256, "passkey-depth-0.05", 0.75),
        score("pi", 64, "passkey-depth-0.05", 1.0),
        score("none", 512, "perplexity", 9.0),
    ]
    _, depths = score_tables(scores)
    rows = (("pi", "75%", "25%"),)
    assert depths == ScoreTable("passkey at 256 tokens, by depth", ("method", "0.05", "0.95"), rows)


def test_needles_have_a_table_of_depths_of_their_own() -> None:
    """And shares are told in percent."""
    scores = [
        score("pi", 64, "passkey-depth-0.05", 1.0),
        score("pi", 128, "needle-depth-0.05", 0.5),
        score("pi", 128, "needle-depth-0.95", 0.25),
        score("pi", 128, "ruler-vt", 0.2, 0.1, 0.3),
    ]
    task, passkey, needle = score_tables(scores)
    assert task.rows == (("pi", "20% (10%-30%)"),)
    assert passkey == ScoreTable("passkey at 64 tokens, by depth", ("method", "0.05"), (("pi", "100%"),))
    assert needle == ScoreTable("needle at 128 tokens, by depth", ("method", "0.05", "0.95"), (("pi", "50%", "25%"),))


def test_without_keys_there_is_no_table_of_depths() -> None:
    assert [table.title for table in score_tables(SCORES[:2])] == ["perplexity (95 % interval)"]
    assert score_tables([]) == []


# Pages


@dataclass
class Shown:
    """What a reader of a page sees: each table by its caption, and the texts of other elements by their tag."""

    tables: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)


class Page(HTMLParser):
    """Take a page apart; every tag must be closed, in order."""

    def __init__(self) -> None:
        """Begin with no tag open."""
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.shown = Shown()
        self.declared = ""
        self.rows: list[list[str]] = []

    def handle_decl(self, decl: str) -> None:
        self.declared = decl

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= {"lang", "charset"}
        if tag in VOID_TAGS:
            return
        self.open.append(tag)
        self.shown.texts.setdefault(tag, []).append("")
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        text = self.shown.texts[tag][-1]
        if tag in ("td", "th"):
            self.rows[-1].append(text)
        elif tag == "table":
            self.shown.tables[self.shown.texts["caption"][-1]] = [tuple(row) for row in self.rows]

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.shown.texts[tag][-1] += data
        assert self.open or not data.strip()


def read_page(path: Path) -> Shown:
    """Parse a page whole."""
    page = Page()
    page.feed(path.read_bytes().decode("utf-8"))
    page.close()
    assert page.open == []
    assert page.declared == "doctype html"
    return page.shown


def make_run(folder: Path, scores: Sequence[Score] = SCORES, model: str = "models/<b>bold</b>&co") -> RunDir:
    """A run directory with a recipe and records, as far as a run is when it has measured."""
    run = RunDir(folder)
    run.bind(Recipe(model, 1024, ("books/<search>",), measure=MeasureRecipe(lengths=(64, 1024))))
    append_records(run.scores, scores)
    return run


def add_factors(run: RunDir, *factors: RescaleFactors) -> None:
    """The factors of a comparison, one file for each search."""
    for found in factors:
        run.factors(found.method).write_text(dump_factors(found))


@pytest.fixture
def extended(tmp_path: Path) -> RunDir:
    """What ``longrope extend`` leaves: two files with the same factors, and how the checkpoint was reopened."""
    run = make_run(tmp_path / "extended")
    add_factors(run, FACTORS)
    run.factors().write_text(dump_factors(FACTORS))
    run.export_report.write_text(dump_report(EXPORT))
    return run


def test_a_page_shows_every_score_with_its_interval(extended: RunDir) -> None:
    path = write_report(extended)
    assert path == extended.path / "report.html"
    assert read_page(path).tables == CAPTIONS
    assert not list(extended.path.glob("*.partial"))


def test_a_page_tells_what_was_run(extended: RunDir) -> None:
    texts = read_page(write_report(extended)).texts
    assert texts["title"] == ["models/<b>bold</b>&co to 1,024 tokens"]
    assert texts["h1"] == ["models/<b>bold</b>&co, read at 1,024 tokens"]
    assert texts["pre"][-1] == (extended.path / "recipe.toml").read_text()


def test_markup_in_names_is_text(extended: RunDir) -> None:
    """Names of models, methods and files are not ours; a page that runs them would be a hole."""
    source = write_report(extended).read_text(encoding="utf-8")
    for markup in ("<b>", "<i>", "<search>", "&co", "& co"):
        assert markup not in source
    for text in ("&lt;b&gt;bold&lt;/b&gt;&amp;co", "&lt;i&gt;own&lt;/i&gt; &amp; co", "books/&lt;search&gt;"):
        assert text in source


def test_the_factors_of_an_extension_are_listed_once(extended: RunDir) -> None:
    texts = read_page(write_report(extended)).texts
    assert texts["h2"] == ["Factors: longrope-gradient", "Checkpoint", "Recipe"]
    assert texts["pre"][0] == "1 1.25 3.142 7.5"
    (told,) = (text for text in texts["p"] if "Attention factor" in text)
    assert "Attention factor 1.0625; start tokens left alone: 4;" in told


def test_the_factors_of_each_search_of_a_comparison_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evolved = replace(FACTORS, lambdas=(1.0, 2.0, 2.0, 16.0), method="longrope-<u>evolution", attention_factor=1.5)
    add_factors(run, FACTORS)
    (run.path / "factors-longrope-evolution.json").write_text(dump_factors(evolved))
    shown = read_page(write_report(run))
    assert shown.texts["h2"] == ["Factors: longrope-<u>evolution", "Factors: longrope-gradient", "Recipe"]
    assert shown.texts["pre"][:2] == ["1 2 2 16", "1 1.25 3.142 7.5"]
    assert "Attention factor 1.5000" in shown.texts["p"][1]
    assert shown.tables == CAPTIONS


def test_the_reopened_checkpoint_is_told_of_where_there_is_one(extended: RunDir) -> None:
    (told,) = (text for text in read_page(write_report(extended)).texts["p"] if "reopened" in text)
    assert "plain transformers 5.10.0" in told
    assert re.sub(r"\s+", " ", told).endswith("0.0012 below 64 tokens, 0.0045 above.")
    extended.export_report.unlink()
    texts = read_page(write_report(extended)).texts
    assert "Checkpoint" not in texts["h2"]
    assert not any("reopened" in text for text in texts["p"])


def test_a_run_that_has_measured_nothing_has_a_page(tmp_path: Path) -> None:
    shown = read_page(write_report(make_run(tmp_path, scores=[])))
    assert (shown.tables, shown.texts["h2"]) == ({}, ["Recipe"])


def test_the_same_records_give_the_same_bytes(extended: RunDir, tmp_path: Path) -> None:
    """Written again, and in another directory: no clock and no path of the machine is in the page."""
    first = write_report(extended).read_bytes()
    assert write_report(extended).read_bytes() == first
    moved = RunDir(extended.path.rename(tmp_path / "elsewhere"))
    assert write_report(moved).read_bytes() == first
    append_records(moved.scores, [score("pi", 64, "perplexity", 17.0)])
    assert write_report(moved).read_bytes() != first


def test_a_page_loads_nothing_from_elsewhere(extended: RunDir) -> None:
    """No address, no script, no file beside it: it can be sent by mail."""
    source = write_report(extended).read_text(encoding="utf-8").lower()
    for word in ("http", "//", "src=", "href=", "url(", "@import", "<script", "<link", "<iframe", "<img"):
        assert word not in source


def test_the_recipe_of_a_page_is_read_back(extended: RunDir) -> None:
    """A report is enough to repeat the run."""
    recipe = extended.recipe()
    assert read_page(write_report(extended)).texts["pre"][-1] == dump_recipe(recipe)
