"""Run directories made by hand, record by record, and their pages taken apart by an HTML parser of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from longrope.exports import ExportReport
from longrope.recipe import MeasureRecipe, Recipe
from longrope.report import write_report
from longrope.rope import RescaleFactors, dump_factors
from longrope.runs.records import Score, append_records
from longrope.runs.run_dir import RunDir

VOID_TAGS = ("meta", "br", "hr", "img", "link")
FACTORS = RescaleFactors(
    (1.0, 1.25, 3.14159, 7.5), 1024, "0" * 16, start_tokens=4, attention_factor=1.0625, method="longrope-gradient"
)
EXPORT = ExportReport(
    factor_sets="single",
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
    "Perplexity (95 % interval)": [
        ("method", "64 tokens", "1,024 tokens"),
        ("original model", "12.35 (11.25-13.88)", "1.235e+06 (1e+06-2e+06)"),
        ("<i>own</i> & co", "", "14.5 (13.06-15.75)"),
    ],
    "Passkeys found (95 % interval)": [
        ("method", "1,024 tokens"),
        ("original model", "0% (0%-16%)"),
        ("<i>own</i> & co", "85% (64%-95%)"),
    ],
    "Perplexity relative to YaRN (95 % interval)": [
        ("method", "1,024 tokens"),
        ("<i>own</i> & co", "0.9125 (0.8906-0.9375)"),
    ],
    "Passkeys found at 1,024 tokens, by depth": [
        ("method", "0.05", "0.15"),
        ("original model", "0%", "0%"),
        ("<i>own</i> & co", "100%", "50%"),
    ],
}


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


def captioned(run: RunDir) -> dict[str, list[tuple[str, ...]]]:
    """The tables of a run's page."""
    return read_page(write_report(run)).tables


def texts_of(run: RunDir, tag: str) -> list[str]:
    """The texts of one kind of element on a run's page."""
    return read_page(write_report(run)).texts.get(tag, [])
