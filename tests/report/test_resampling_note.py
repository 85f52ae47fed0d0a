"""Tables of scores say what was resampled for their intervals, and which scores are of other texts than the rest."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from handmade import SCORES, make_run, read_page, score

from longrope.cli.console import print_scores
from longrope.report import score_tables, write_report
from longrope.runs.records import Score

DOCUMENTS = "Intervals are resampled over whole documents."
BLOCKS = "Intervals are resampled over blocks of consecutive tokens."


def resampled(*kinds: str, metric: str = "perplexity") -> list[Score]:
    """Scores at one length after another, with these intervals."""
    return [replace(score("pi", 64 << i, metric, 2.0), resampled=kind) for i, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("kinds", "note"),
    [
        (["documents", "documents"], DOCUMENTS),
        (["blocks"], BLOCKS),
        (["", ""], ""),
        (["blocks", ""], "Some intervals are resampled over blocks of consecutive tokens."),
        (
            ["blocks", "documents"],
            "Some intervals are resampled over whole documents, others over blocks of consecutive tokens.",
        ),
    ],
)
def test_a_table_says_once_what_was_resampled(kinds: list[str], note: str) -> None:
    """Nothing where no record says it: intervals by a formula, and records of earlier versions."""
    (table,) = score_tables(resampled(*kinds))
    assert table.note == note


def test_the_terminal_shows_it_below_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores([*resampled("documents"), *resampled("", metric="passkey")], as_json=False)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines.count(DOCUMENTS) == 1
    assert lines.index(DOCUMENTS) < next(i for i, line in enumerate(lines) if line.startswith("Passkeys found"))


def test_a_page_shows_it_below_the_table_and_below_figures_without_one(tmp_path: Path) -> None:
    scores = [*resampled("blocks", "blocks"), *resampled("documents", metric="ratio-to-yarn")]
    texts = read_page(write_report(make_run(tmp_path / "run", scores))).texts["p"]
    assert (texts.count(BLOCKS), texts.count(DOCUMENTS)) == (1, 1)


def test_a_page_of_records_without_it_has_no_such_sentence(tmp_path: Path) -> None:
    texts = read_page(write_report(make_run(tmp_path / "run", SCORES))).texts["p"]
    assert not [text for text in texts if "bootstrapped" in text]


def test_the_last_score_of_a_method_is_shown_and_earlier_ones_are_counted(tmp_path: Path) -> None:
    """A directory may be measured again on other texts, or with other factors of the same search."""
    first = [score("pi", tokens, "perplexity", 31.25) for tokens in (64, 128)]
    again = [replace(one, value=22.75, texts_fingerprint="b" * 16) for one in first]
    beside = score("yarn", 128, "perplexity", 27.5)
    page = read_page(write_report(make_run(tmp_path / "run", [*first, beside, *again])))
    rows = page.tables["Perplexity (95 % interval)"]
    assert [[cell.partition(" ")[0] for cell in row[1:]] for row in rows[1:]] == [["22.75", "22.75"], ["", "27.50"]]
    (note,) = (text for text in page.texts["p"] if "earlier" in text)
    assert "; 2 earlier ones are of other texts, factors or weights." in note
    assert note.endswith("At 128 tokens not all scores are of the same texts.")
    assert "Lower is better. Bars are 95 % intervals." in page.texts["p"]


def test_factors_that_differ_by_length_are_noted(tmp_path: Path) -> None:
    own = [replace(score("pi", tokens, "perplexity", 2.0), factors_fingerprint=f"{tokens}") for tokens in (64, 128)]
    texts = read_page(write_report(make_run(tmp_path / "run", own))).texts["p"]
    assert [text for text in texts if text.endswith("PI: other factors at other lengths.")]


def test_a_page_of_scores_of_one_text_has_no_such_note(tmp_path: Path) -> None:
    texts = read_page(write_report(make_run(tmp_path / "run", SCORES))).texts["p"]
    assert not [text for text in texts if "earlier" in text or "same texts" in text or "other factors" in text]
    assert [text for text in texts if "Every length is measured on the same text" in text]


def test_json_has_null_where_a_number_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    """Such as the ends of an interval that a benchmark does not give; JSON has no infinity."""
    print_scores([score("pi", 64, "perplexity", float("inf"), float("-inf"), float("nan"))], as_json=True)
    (read,) = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (read["value"], read["low"], read["high"], read["seconds"]) == (None, None, None, 1.5)
