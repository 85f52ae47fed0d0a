"""Tables of results on a terminal of 80 columns: no name is cut in two, every value is there."""

import re
from dataclasses import replace

import pytest
from handmade import score

from longrope.cli import console
from longrope.cli.console import column_blocks, print_scores

METHODS = {"longrope-evolution": 0.1, "longrope-gradient": 1.0, "none": 0.0, "yarn": 0.55}
DEPTHS = [f"{d:.2f}" for d in (0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)]
BY_DEPTH = [
    replace(score(method, 65_536, f"passkey-depth-{depth}", found), num_windows=8)
    for method, found in METHODS.items()
    for depth in DEPTHS
]
LENGTHS = [score(method, 2**n, "perplexity", 1234.5, 1222.5, 1246.5) for method in METHODS for n in range(12, 18)]


def printed(scores: list, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> str:  # type: ignore[type-arg]
    monkeypatch.setattr(console, "console_width", lambda: width)
    print_scores(scores, as_json=False)
    text: str = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    return text


@pytest.mark.parametrize("scores", [BY_DEPTH, LENGTHS])
def test_names_are_whole_at_80_columns(
    scores: list,  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And each number that stands in the wide table stands in the narrow ones."""
    labels = {one.source.label for one in scores}
    wide, narrow = (printed(scores, width, monkeypatch, capsys) for width in (200, 80))
    cells = {label: re.findall(rf"│ {re.escape(label)} +│(.*)│", narrow) for label in labels}
    assert all(len(found) == narrow.count("┏") > 1 for found in cells.values())
    numbers = r"[\d.,]+%?"
    assert sorted(set(re.findall(numbers, wide))) == sorted(set(re.findall(numbers, narrow)))


def test_a_table_that_fits_is_one() -> None:
    header, rows = ("method", "4k", "8k"), [("YaRN", "12.5 (11-13)", "13")]
    assert column_blocks(header, rows, 80) == [[0, 1, 2]]
    assert column_blocks(header, rows, 18) == [[0, 1], [0, 2]]
    assert column_blocks(header, rows, 5) == [[0, 1], [0, 2]]
