"""The table of a model's pairs has numbers that fit into the columns of a terminal of 80 characters."""

import pytest

from longrope.cli import console
from longrope.cli.console import print_columns
from longrope.cli.results import _four_digits
from longrope.rope import RopeSpec
from longrope.runs.provenance import describe_rope


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (438460.3, "438460"),
        (9999.4, "9999"),
        (37.9695, "37.97"),
        (8.0, "8"),
        (0.97771, "0.978"),
        (0.00042, "0.0004"),
        (0.0, "0"),
        (31, "31"),
        ("yarn", "yarn"),
    ],
)
def test_a_number_keeps_four_digits(value: object, expected: str) -> None:
    assert _four_digits(value) == expected
    assert len(expected) <= 6


def table_of(head_dim: int, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The table of pairs of a model whose numbers are long, as ``inspect`` prints it."""
    spec = RopeSpec(head_dim, head_dim, 5e6, 2**13)
    rows = describe_rope(spec, 2**17)["pairs"]
    monkeypatch.setattr(console, "console_width", lambda: width)
    print_columns("pairs", list(rows[0]), [[_four_digits(value) for value in row.values()] for row in rows])
    printed: str = capsys.readouterr().out
    return printed


@pytest.mark.parametrize("head_dim", [64, 128])
def test_names_and_numbers_are_whole_at_80_columns(
    head_dim: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one table, whose header names every column in whole words, one below the other."""
    narrow, wide = (table_of(head_dim, width, monkeypatch, capsys) for width in (80, 200))
    assert max(map(len, narrow.splitlines())) <= 80
    header = [line.strip("┃").split("┃") for line in narrow.splitlines() if line.startswith("┃")]
    names = ["".join(cell.strip() for cell in cells) for cells in zip(*header, strict=True)]
    [whole] = [line.strip("┃").split("┃") for line in wide.splitlines() if line.startswith("┃")]
    assert names == [name.strip().replace("_", "") for name in whole]
    assert {cell.strip() for line in header for cell in line} >= {"wavelength", "tokens", "dynamic-", "critical"}
    numbers = [
        [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
        for text in (narrow, wide)
    ]
    assert numbers[0] == numbers[1]
    assert len(numbers[0]) == head_dim // 2


def test_columns_that_no_line_holds_are_several_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = table_of(64, 50, monkeypatch, capsys)
    assert max(map(len, narrow.splitlines())) <= 50
    assert narrow.count("┏") == 1 + narrow.count("pairs (continued)") > 1
