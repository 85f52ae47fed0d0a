"""Tables of scores against cells written out by hand."""

import math
from dataclasses import replace

from handmade import CAPTIONS, SCORES, score

from longrope.report import ScoreTable, score_tables
from longrope.report.tables import interval


def test_every_cell_is_the_one_written_by_hand() -> None:
    """One table a metric in the order in which they come up, and passkeys by depth after them."""
    tables = score_tables(SCORES)
    assert {table.title: [table.header, *table.rows] for table in tables} == CAPTIONS
    assert [table.title for table in tables] == list(CAPTIONS)


def test_rows_stand_in_the_order_in_which_methods_come_up() -> None:
    methods = ["yarn", "none", "longrope-gradient", "pi"]
    (table,) = score_tables([score(method, n, "perplexity", 2.0) for n in (64, 32) for method in methods])
    assert [row[0] for row in table.rows] == ["YaRN", "original model", "LongRoPE, gradient", "PI"]


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
    assert perplexity.rows == (("PI", "2 (0-1)", ""), ("original model", "", "3 (0-1)"))
    assert tail == ScoreTable(
        "Perplexity over the last 16 tokens (95 % interval)", ("method", "256 tokens"), (("PI", "4 (0-1)"),)
    )


def test_numbers_are_written_as_their_metrics_are() -> None:
    """Shares in percent, differences with their sign, benchmarks to a tenth, and no interval where there is none."""
    cells = {
        "ruler-vt": "12% (-5%-30%)",
        "difference-to-yarn": "+12% (-5% to +30%)",
        "harness:hellaswag:acc": "12.5% (-5.0%-30.0%)",
        "ratio-to-yarn": "0.125 (-0.05-0.3)",
    }
    for metric, cell in cells.items():
        assert interval(score("pi", 64, metric, 0.125, -0.05, 0.3)) == cell
    assert interval(score("pi", 64, "harness:hellaswag:acc", 0.314, -math.inf, math.inf)) == "31.4%"


def test_an_infinite_perplexity_is_shown() -> None:
    (table,) = score_tables([score("none", 64, "perplexity", float("inf"), 1e300, float("inf"))])
    assert table.rows == (("original model", "inf (1e+300-inf)"),)


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
    assert depths == ScoreTable("Passkeys found at 256 tokens, by depth", ("method", "0.05", "0.95"), rows)


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
    assert passkey == ScoreTable("Passkeys found at 64 tokens, by depth", ("method", "0.05"), (("PI", "100%"),))
    assert needle == ScoreTable(
        "Needles found at 128 tokens, by depth", ("method", "0.05", "0.95"), (("PI", "50%", "25%"),)
    )


def test_without_keys_there_is_no_table_of_depths() -> None:
    assert [table.title for table in score_tables(SCORES[:2])] == ["Perplexity (95 % interval)"]
    assert score_tables([]) == []
