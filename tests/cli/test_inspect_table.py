"""The table of a model's pairs has numbers that fit into the columns of a terminal of 80 characters."""

import pytest

from longrope.cli.results import _four_digits


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
