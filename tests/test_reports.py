"""The report of a run: its tables against cells written out by hand, its page taken apart by an HTML parser of its own.

The run directories are made by hand, record by record; no model is loaded.
"""

import json
import math
import platform
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from whole_run import make_steps, make_trials

import longrope
from longrope.errors import RunError
from longrope.exports import ExportReport, dump_report
from longrope.factors import RescaleFactors, dump_factors
from longrope.recipe import MeasureRecipe, Recipe, dump_recipe
from longrope.records import Score, TrainStep, append_record, append_records
from longrope.reports import ScoreTable, score_tables, write_comparison, write_report
from longrope.reports.contents import read_run
from longrope.reports.lines import LineChart, Point, Series, draw_lines
from longrope.reports.palette import style_of
from longrope.reports.provenance import record_rope, record_walk
from longrope.reports.svg import linear_axis, log_axis, token_axis
from longrope.reports.tables import interval
from longrope.reports.walk import stage_section
from longrope.rope import RopeSpec
from longrope.rundir import RunDir

VOID_TAGS = ("meta", "br", "hr", "img", "link")
LABELS = {"none": "original"}
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
CAPTIONS: dict[str, list[tuple[str, ...]]] = {
    "perplexity (95 % interval)": [
        ("method", "64 tokens", "1,024 tokens"),
        ("the model as it is", "12.35 (11.25-13.88)", "1.235e+06 (1e+06-2e+06)"),
        ("<i>own</i> & co", "", "14.5 (13.06-15.75)"),
    ],
    "passkey (95 % interval)": [
        ("method", "1,024 tokens"),
        ("the model as it is", "0% (0%-16%)"),
        ("<i>own</i> & co", "85% (64%-95%)"),
    ],
    "ratio-to-yarn (95 % interval)": [
        ("method", "1,024 tokens"),
        ("<i>own</i> & co", "0.9125 (0.8906-0.9375)"),
    ],
    "passkey at 1,024 tokens, by depth": [
        ("method", "0.05", "0.15"),
        ("the model as it is", "0%", "0%"),
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
    assert [row[0] for row in table.rows] == ["YaRN", "the model as it is", "LongRoPE, gradient", "PI"]


def test_a_baseline_and_the_same_chosen_by_a_search_are_two_rows() -> None:
    plain = score("yarn", 64, "perplexity", 2.0)
    chosen = [replace(plain, value=3.0, chosen_by=f"longrope-{name}") for name in ("gradient", "evolution")]
    tuned = replace(chosen[0], method="longrope-tuned", factors_method="yarn")
    (table,) = score_tables([plain, *chosen, tuned])
    assert [row[0] for row in table.rows] == [
        "YaRN",
        "YaRN (chosen by the gradient search)",
        "YaRN (chosen by the evolutionary search)",
        "LongRoPE, tuned (factors: YaRN, chosen by the gradient search)",
    ]


def test_columns_ascend_by_number() -> None:
    lengths = (131072, 256, 2048, 1000)
    (table,) = score_tables([score("none", n, "perplexity", n) for n in lengths])
    assert table.header == ("method", "256 tokens", "1,000 tokens", "2,048 tokens", "131,072 tokens")
    assert [cell.split()[0] for cell in table.rows[0][1:]] == ["256", "1000", "2048", "131,072"]


def test_what_was_not_measured_is_an_empty_cell() -> None:
    """Also where a metric has other lengths than another, and where a method has only one of them."""
    scores = [score("pi", 64, "perplexity", 2.0), score("none", 128, "perplexity", 3.0)]
    perplexity, tail = score_tables([*scores, score("pi", 256, "perplexity-last-16", 4.0)])
    assert perplexity.rows == (("PI", "2 (0-1)", ""), ("the model as it is", "", "3 (0-1)"))
    assert tail == ScoreTable("perplexity-last-16 (95 % interval)", ("method", "256 tokens"), (("PI", "4 (0-1)"),))


def test_numbers_are_written_as_their_metrics_are() -> None:
    """Shares in percent, differences with their sign, benchmarks to a tenth, and no interval where there is none."""
    cells = {
        "ruler-common-words": "12% (-5%-30%)",
        "difference-to-yarn": "+12% (-5% to +30%)",
        "harness:hellaswag:acc": "12.5% (-5.0%-30.0%)",
        "ratio-to-yarn": "0.125 (-0.05-0.3)",
    }
    for metric, cell in cells.items():
        assert interval(score("pi", 64, metric, 0.125, -0.05, 0.3)) == cell
    assert interval(score("pi", 64, "harness:hellaswag:acc", 0.314, -math.inf, math.inf)) == "31.4%"


def test_an_infinite_perplexity_is_shown() -> None:
    (table,) = score_tables([score("none", 64, "perplexity", float("inf"), 1e300, float("inf"))])
    assert table.rows == (("the model as it is", "inf (1e+300-inf)"),)


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
    rows = (("PI", "75%", "25%"),)
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
    assert task.rows == (("PI", "20% (10%-30%)"),)
    assert passkey == ScoreTable("passkey at 64 tokens, by depth", ("method", "0.05"), (("PI", "100%"),))
    assert needle == ScoreTable("needle at 128 tokens, by depth", ("method", "0.05", "0.95"), (("PI", "50%", "25%"),))


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

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name.startswith("on")]
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
            assert self.shown.texts["caption"][-1] not in self.shown.tables
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
        run.factors(found.chosen_by or found.method).write_text(dump_factors(found))


@pytest.fixture
def extended(tmp_path: Path) -> RunDir:
    """What ``longrope extend`` leaves: two files with the same factors, and how the checkpoint was reopened."""
    run = make_run(tmp_path / "extended")
    add_factors(run, FACTORS)
    run.factors().write_text(dump_factors(FACTORS))
    run.export_report.write_text(dump_report(EXPORT))
    return run


def captioned(run: RunDir) -> dict[str, list[tuple[str, ...]]]:
    """The tables of a run's page."""
    return read_page(write_report(run)).tables


def as_shown(caption: str) -> list[tuple[str, ...]]:
    """A table of the terminal as the page has it: its methods have their names in words."""
    return [(LABELS.get(row[0], row[0]), *row[1:]) for row in CAPTIONS[caption]]


def test_a_page_shows_every_score_with_its_interval(extended: RunDir) -> None:
    path = write_report(extended)
    assert path == extended.path / "report.html"
    tables = read_page(path).tables
    assert tables["Perplexity (95 % interval)"] == as_shown("perplexity (95 % interval)")
    assert tables["Passkeys found (95 % interval)"] == as_shown("passkey (95 % interval)")
    assert not list(extended.path.glob("*.partial"))


def test_the_data_of_a_figure_are_its_records(extended: RunDir) -> None:
    """One row a score, with all that a reader needs to judge it; depths and paired ratios, too."""
    tables = captioned(extended)
    header = ("tokens", "value", "from", "to", "windows", "tokens scored", "seconds")
    assert tables["Perplexity: data"] == [
        ("method", *header),
        ("original", "64", "12.346", "11.25", "13.875", "3", "1,000", "1.5"),
        ("original", "1,024", "1,234,567", "1,000,000", "2,000,000", "3", "1,000", "1.5"),
        ("<i>own</i> & co", "1,024", "14.5", "13.062", "15.75", "3", "1,000", "1.5"),
    ]
    assert tables["Passkeys found by depth and length: data"] == [
        ("method", "depth", *header),
        ("original", "5%", "1,024", "0", "0", "0.6", "3", "1,000", "1.5"),
        ("<i>own</i> & co", "5%", "1,024", "1", "0.2", "1", "3", "1,000", "1.5"),
        ("original", "15%", "1,024", "0", "0", "0.6", "3", "1,000", "1.5"),
        ("<i>own</i> & co", "15%", "1,024", "0.5", "0.1", "0.9", "3", "1,000", "1.5"),
    ]
    ratio = ("<i>own</i> & co / YaRN", "1,024", "0.9125", "0.89062", "0.9375", "3", "1,000", "1.5")
    assert tables["Ratio of perplexities: data"] == [("methods", *header), ratio]


def test_a_page_tells_what_was_run(extended: RunDir) -> None:
    texts = read_page(write_report(extended)).texts
    assert texts["title"] == ["models/<b>bold</b>&co to 1,024 tokens"]
    assert texts["h1"] == ["models/<b>bold</b>&co, read at 1,024 tokens"]
    assert texts["pre"][-1] == (extended.path / "recipe.toml").read_text()
    assert "were chosen by gradient descent, on books/<search>. It was measured on other parts" in texts["p"][0]


def test_a_page_says_whether_weights_were_trained(extended: RunDir) -> None:
    """By the records of the run, or by those of one of its stages."""
    assert texts_of(extended, "p")[0].endswith("No weight of the model was changed.")
    step = TrainStep(0, 2.0, 100, 100, 1e-5, 1.0, 0.5)
    (stage := extended.path / "stages" / "1-tune").mkdir(parents=True)
    append_record(stage / "train.jsonl", step)
    assert texts_of(extended, "p")[0].endswith("Its weights were trained, in 1 recorded steps.")
    shutil.rmtree(stage)
    append_records(extended.train, [step, replace(step, step=1)])
    assert texts_of(extended, "p")[0].endswith("Its weights were trained, in 2 recorded steps.")


def test_a_page_does_not_want_what_its_stages_show(extended: RunDir) -> None:
    """Searches and trainings of stages have figures of their own."""

    def wanted() -> list[str]:
        (missing,) = (text for text in texts_of(extended, "p") if text.startswith("Not on this page"))
        return [file for file in ("trials.jsonl", "train.jsonl") if file in missing]

    assert wanted() == ["trials.jsonl", "train.jsonl"]
    (stage := extended.path / "stages" / "1-search").mkdir(parents=True)
    append_records(stage / "trials.jsonl", make_trials(1.0))
    assert wanted() == ["train.jsonl"]
    append_records(stage / "train.jsonl", make_steps(3))
    assert wanted() == []


def texts_of(run: RunDir, tag: str) -> list[str]:
    """The texts of one kind of element on a run's page."""
    return read_page(write_report(run)).texts.get(tag, [])


def test_markup_in_names_is_text(extended: RunDir) -> None:
    """Names of models, methods and files are not ours; a page that runs them would be a hole."""
    source = write_report(extended).read_text(encoding="utf-8")
    for markup in ("<b>", "<i>", "<search>", "&co", "& co"):
        assert markup not in source
    for text in ("&lt;b&gt;bold&lt;/b&gt;&amp;co", "&lt;i&gt;own&lt;/i&gt; &amp; co", "books/&lt;search&gt;"):
        assert text in source


def test_the_factors_of_an_extension_are_shown_once(extended: RunDir) -> None:
    """Two files hold the same ones. Without rope.json there are no closed forms beside them."""
    shown = read_page(write_report(extended))
    rows = [("LongRoPE, gradient", str(i), text) for i, text in enumerate(("1", "1.25", "3.1416", "7.5"))]
    assert shown.tables["Rescale factor of each pair: data"] == [("method", "pair", "rescale factor λ"), *rows]
    (told,) = (text for text in shown.texts["p"] if "ttention factor" in text)
    assert "attention factor 1.0625, start tokens left alone: 4, fingerprint" in told
    assert any("no rope.json, the closed forms are not shown" in text for text in shown.texts["p"])


def test_the_factors_of_each_search_of_a_comparison_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evolved = replace(FACTORS, lambdas=(1.0, 2.0, 2.0, 16.0), method="longrope-<u>evolution", attention_factor=1.5)
    add_factors(run, FACTORS)
    (run.path / "factors-longrope-evolution.json").write_text(dump_factors(evolved))
    shown = read_page(write_report(run))
    rows = shown.tables["Rescale factor of each pair: data"][1:]
    assert [row[0] for row in rows] == ["longrope-<u>evolution"] * 4 + ["LongRoPE, gradient"] * 4
    assert [row[2] for row in rows[:4]] == ["1", "2", "2", "16"]
    assert any("attention factor 1.5000" in text for text in shown.texts["p"])


def test_a_page_tells_a_baseline_that_a_search_chose_from_the_baseline(tmp_path: Path) -> None:
    """In its words, figures and tables; a score that was written before ``chosen_by`` is told of by its factors."""
    chosen = [replace(FACTORS, method="yarn", chosen_by=f"longrope-{name}") for name in ("evolution", "gradient")]
    label = "YaRN (chosen by the gradient search)"
    plain = replace(score("yarn", 1024, "perplexity", 14.0), factors_fingerprint=FACTORS.fingerprint)
    new = replace(plain, chosen_by="longrope-gradient", seconds=2.5)
    old = replace(plain, method="longrope-gradient", seconds=3.5, metric="passkey", value=0.5)
    run = make_run(tmp_path, [plain, new, old])
    add_factors(run, *chosen)
    shown = read_page(write_report(run))
    rows = shown.tables["Rescale factor of each pair: data"][1:]
    assert [row[0] for row in rows] == ["YaRN (chosen by the evolutionary search)"] * 4 + [label] * 4
    assert any(f"{label}: attention factor 1.0625" in text for text in shown.texts["p"])
    assert any("They come from YaRN." in text for text in shown.texts["p"])
    assert [row[0] for row in shown.tables["Perplexity (95 % interval)"][1:]] == ["YaRN", label]
    assert [row[0] for row in shown.tables["Passkeys found (95 % interval)"][1:]] == [label]
    assert shown.tables["Seconds of each measurement"][0] == ("measurement", "YaRN", label)
    assert any(f"perplexity at 1,024 tokens, {label}" in text for texts in shown.texts.values() for text in texts)
    assert ("factors, " + label, FACTORS.fingerprint) in shown.tables["Fingerprints and seeds"]


def test_the_reopened_checkpoint_is_told_of_where_there_is_one(extended: RunDir) -> None:
    (told,) = (text for text in texts_of(extended, "p") if "reopened" in text)
    assert "plain transformers 5.10.0" in told
    assert "At 90 % of the positions" in told
    assert told.endswith("0.0012 below 64 tokens, 0.0045 above.")
    extended.export_report.unlink()
    texts = read_page(write_report(extended)).texts
    assert "Checkpoint" not in texts["h2"]
    assert not any("reopened" in text for text in texts["p"])


def test_a_run_that_has_measured_nothing_has_a_page(tmp_path: Path) -> None:
    """It says what would fill it."""
    shown = read_page(write_report(make_run(tmp_path, scores=[])))
    assert shown.texts["h2"] == ["Provenance", "Recipe"]
    (missing,) = (text for text in shown.texts["p"] if text.startswith("Not on this page"))
    for needed in (
        "longrope search",
        "train.jsonl",
        "--metrics ruler",
        "ratio-to-none",
        "costs.json",
        "longrope export",
    ):
        assert needed in missing


def test_scores_without_a_recipe_have_a_page(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    append_records(run.scores, SCORES)
    shown = read_page(write_report(run))
    assert shown.texts["h1"] == ["model"]
    assert "pre" not in shown.texts


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds neither recipe\.toml nor scores\.jsonl"):
        write_report(RunDir(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(extended: RunDir) -> None:
    (extended.path / "costs.json").write_text('[{"method": ')
    with pytest.raises(RunError, match=r"costs\.json cannot be read"):
        write_report(extended)


def test_a_report_does_not_mend_what_another_process_writes(extended: RunDir) -> None:
    """The line that is being written is left out, and left alone."""
    whole = captioned(extended)
    with extended.scores.open("a") as file:
        file.write('{"metric": "perpl')
    torn = extended.scores.read_bytes()
    assert captioned(extended) == whole
    assert extended.scores.read_bytes() == torn


def test_the_same_records_give_the_same_bytes(extended: RunDir, tmp_path: Path) -> None:
    """Written again, and in another directory: no clock and no path of the machine is in the page."""
    first = write_report(extended).read_bytes()
    assert write_report(extended).read_bytes() == first
    moved = RunDir(extended.path.rename(tmp_path / "elsewhere"))
    assert write_report(moved).read_bytes() == first
    append_records(moved.scores, [score("pi", 64, "perplexity", 17.0)])
    assert write_report(moved).read_bytes() != first


def test_a_page_loads_nothing_from_elsewhere(extended: RunDir) -> None:
    """No address, no file beside it: it can be sent by mail. Links lead to its own sections."""
    source = write_report(extended).read_text(encoding="utf-8").lower()
    for word in ("http", "//", "src=", "@import", "<link", "<iframe", "<img", "<object", "<embed", "<base", "import("):
        assert word not in source
    assert set(re.findall(r"\w*url\(", source)) <= {"createobjecturl(", "revokeobjecturl("}
    links = re.findall(r"href=.(\S)", source)
    assert set(links) == {"#"}


def test_the_recipe_of_a_page_is_read_back(extended: RunDir) -> None:
    """A report is enough to repeat the run."""
    recipe = extended.recipe()
    assert texts_of(extended, "pre")[-1] == dump_recipe(recipe)


# Several runs


def test_what_runs_have_in_common_is_shown_once(tmp_path: Path) -> None:
    """PI is the same in both; the searched method has a row for each run, under the run's name."""
    runs = []
    for name, value in (("one", 14.5), ("two", 13.5)):
        own = [score("pi", 64, "perplexity", 20.0), score("longrope-gradient", 64, "perplexity", value)]
        runs.append(make_run(tmp_path / name, own))
    path = write_comparison(runs, tmp_path / "deep" / "both.html")
    shown = read_page(path)
    assert shown.texts["h1"] == ["2 runs beside each other"]
    assert shown.tables["Perplexity (95 % interval)"] == [
        ("method", "64 tokens"),
        ("PI", "20 (0-1)"),
        ("LongRoPE, gradient · one", "14.5 (0-1)"),
        ("LongRoPE, gradient · two", "13.5 (0-1)"),
    ]
    assert len(shown.texts["pre"]) == 2
    assert not (runs[0].path / "report.html").exists()


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name / "run", [score("pi", 64, "perplexity", value)])
        for name, value in (("a", 2), ("b", 3))
    ]
    rows = read_page(write_comparison(runs, tmp_path / "both.html")).tables["Perplexity (95 % interval)"]
    assert [row[0] for row in rows[1:]] == [f"PI · {tmp_path / name / 'run'}" for name in ("a", "b")]


@pytest.mark.parametrize("edges", [[], ["exponent of the base"], ["exponent of the base", "attention factor"]])
def test_a_page_says_what_a_scan_found_and_whether_it_is_finished(extended: RunDir, edges: list[str]) -> None:
    """Its factors are those of a baseline: the run is still about what its search chose."""
    numbers = {"exponent": 1.875, "theta": 493507.4, "attention_factor": 1.17261, "passes": 212, "budget": 240}
    extended.scan.write_text(json.dumps({**numbers, "edges": edges}))
    add_factors(extended, replace(FACTORS, lambdas=(1.0, 2.0, 4.0, 8.0), method="ntk", chosen_by="ntk-scan"))
    texts = texts_of(extended, "p")
    (told,) = (text for text in texts if text.startswith("The scan of base and attention factor took"))
    assert "212 window passes of a budget of 240: base 493,507 (theta times s to the power of 1.875)" in told
    assert "attention factor 1.1726." in told
    unfinished = f"It is unfinished: the best {' and the '.join(edges)} lies on the edge of the grid."
    assert told.endswith(unfinished) if edges else "unfinished" not in told
    assert "were chosen by gradient descent, on books/<search>." in texts[0]
    assert "They come from" not in texts[0]


# What the run writes for its report


def test_rope_json_is_what_the_formulas_say(tmp_path: Path) -> None:
    """A geometry of four pairs, written out by hand."""
    run, spec = RunDir(tmp_path), RopeSpec(8, 8, 1e4, 64)
    record_rope(run, spec, 256)
    rope = json.loads(run.rope.read_text())
    assert [pair["wavelength_tokens"] for pair in rope["pairs"]] == pytest.approx(
        [2 * math.pi * 10**i for i in range(4)]
    )
    assert [pair["ntk"] for pair in rope["pairs"]] == pytest.approx([4 ** (i / 3) for i in range(4)])
    assert [pair["critical"] for pair in rope["pairs"]] == pytest.approx([1, 2, 4, 4])  # the second turns in 63 tokens
    assert [pair["ntk-critical"] for pair in rope["pairs"]] == pytest.approx([1, 2, 4, 8])
    factors = {row["method"]: (row["formula"], round(row["attention_factor"], 5)) for row in rope["methods"]}
    assert factors == {
        **dict.fromkeys(("pi", "ntk", "ntk-critical", "dynamic-ntk"), ("1", 1.0)),
        "yarn": ("0.1 ln s + 1", 1.13863),
        "critical": ("sqrt(1 + ln s / ln L)", 1.1547),  # ln 4 / ln 64 is a third
    }
    assert (rope["pairs_that_turn_fully"], rope["fingerprint"]) == (2, spec.fingerprint)
    assert (rope["trained_window"], rope["target_window"]) == (64, 256)


def test_a_page_states_the_attention_factor_of_each_method(extended: RunDir) -> None:
    """Those of the formulas at the target, and those of the run's factors; equal curves are drawn once."""
    spec = RopeSpec(8, 8, 1e4, 64)
    record_rope(extended, spec, 256)
    tables = captioned(extended)
    assert tables["Attention factors"][:7] == [
        ("method", "attention factor", "at 256 tokens"),
        ("PI", "1", "1"),
        ("NTK", "1", "1"),
        ("NTK by critical dimension", "1", "1"),
        ("dynamic NTK", "1", "1"),
        ("YaRN", "0.1 ln s + 1", "1.1386"),
        ("critical-pair rule", "sqrt(1 + ln s / ln L)", "1.1547"),
    ]
    (own,) = tables["Attention factors"][7:]
    assert own == ("LongRoPE, gradient", "searched", "1.0625")
    drawn = dict.fromkeys(row[0] for row in tables["Rescale factor of each pair: data"][1:])
    assert list(drawn)[:-1] == ["PI", "NTK", "NTK by critical dimension", "YaRN", "critical-pair rule"]


def test_provenance_has_one_entry_for_each_different_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is resumed by the same command on the same machine adds nothing."""
    run = RunDir(tmp_path)
    monkeypatch.setattr("sys.argv", ["/home/someone/bin/longrope", "extend", "--out", "my run"])
    for device in ("cpu", "cpu", "GPU"):
        record_walk(run, device=device, choices=("device cpu (no GPU is here)",))
    first, second = json.loads(run.provenance.read_text())
    assert first["command"] == "longrope extend --out 'my run'"
    assert (first["device"], second["device"]) == ("cpu", "GPU")
    assert first["python"] == platform.python_version()
    assert first["longrope"] == longrope.__version__


# Pictures of their own


def test_points_stand_where_the_logarithms_of_their_values_put_them() -> None:
    """Equal ratios are equal distances on both axes; the lowest value is the lowest point."""
    values, lengths = (10.0, 100.0, 1000.0, 10000.0), (256, 512, 1024, 2048)
    points = tuple(Point(*place, i) for i, place in enumerate(zip(lengths, values, strict=True)))
    chart = LineChart(token_axis(lengths), log_axis(values, "loss"), (Series("a", style_of("pi"), points),))
    (series,) = (part for part in draw_lines([chart], 900, 300).iter("g") if part.get("class") == "series")
    placed = [tuple(map(float, text.split(","))) for text in series.get("data-points", "").split()]
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(placed)]
    assert all(step == pytest.approx(steps[0], abs=0.2) for step in steps)  # they are written in tenths of a pixel
    assert steps[0][0] > 0 > steps[0][1]
    assert [row for *_, row in placed] == [0, 1, 2, 3]


@pytest.mark.parametrize("values", [(0.0,), (3.0, 3.0), (-1.0, 2.5), (1e-9, 2e9), (2.297, 2.305), (math.inf, 1.0)])
def test_every_axis_has_ticks_inside_it(values: tuple[float, ...]) -> None:
    for axis in (linear_axis(values, ""), linear_axis(values, "", tight=True), log_axis([*values, 1.0], "")):
        assert len(axis.ticks) > 0
        assert all(axis.low <= tick <= axis.high for tick, _ in axis.ticks)
        assert len({label for _, label in axis.ticks}) == len(axis.ticks)


def test_a_stage_names_what_it_was_made_of_and_leaves_its_settings_to_the_recipe() -> None:
    run = RunDir(Path(__file__).parents[1] / "results" / "smollm2-64k-tuned")
    (table,) = stage_section([read_run(run)]).tables
    told = {row[0]: row[-1] for row in table.rows}
    assert list(told) == ["search 64k", "tune 64k", "recover 8k", "search 128k", "carry 256k"]
    assert told["tune 64k"] == "before dd3fbe54, seed 0, text fda85a94f835f45d, dtype auto"
