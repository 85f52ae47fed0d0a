"""Durations of estimates, in the unit that a reader thinks in."""

import pytest

from longrope.pipeline.estimates import Cost
from longrope.pipeline.progress import describe_seconds


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "0 s"),
        (59.0, "59 s"),
        (60.0, "1.0 min"),
        (90.0, "1.5 min"),
        (119 * 60.0, "119.0 min"),
        (7200.0, "2.0 hours"),
        (30 * 3600.0, "30.0 hours"),
        (48 * 3600.0, "2.0 days"),
        (3e9, "34,722.2 days"),
    ],
)
def test_a_duration_has_a_unit_of_its_size(seconds: float, expected: str) -> None:
    assert describe_seconds(seconds) == expected


def test_a_long_search_is_estimated_in_hours() -> None:
    assert (
        f"{Cost('search', 5 * 3600.0, 2**30, 2**31, '')}"
        == "search: about 5.0 hours, 1.0 GiB at the peak (2.0 GiB are free)"
    )
