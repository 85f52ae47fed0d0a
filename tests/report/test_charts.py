"""Charts: where points stand, and the ticks of axes."""

import math
from itertools import pairwise

import pytest

from longrope.report.charts import axes
from longrope.report.charts.axes import linear_axis, log_axis
from longrope.report.charts.lines import LineChart, Point, Series, draw_lines
from longrope.report.palette import style_of
from longrope.report.parts import token_axis
from longrope.runs import shapes


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


@pytest.mark.parametrize("pairs", [1, 2, 4, 8, 13, 16, 24, 32, 48, 64, 128])
def test_axes_of_whole_numbers_have_no_ticks_between_them(pairs: int) -> None:
    ticks = [tick for tick, _ in linear_axis(range(pairs), "", tight=True, whole=True).ticks]
    assert ticks == sorted({round(tick) for tick in ticks})
    assert pairs == 1 or 2 <= len(ticks) <= 8


def test_an_axis_takes_every_number_that_files_may_hold() -> None:
    axis = linear_axis([0.0, shapes.LARGEST], "loss")
    assert shapes.LARGEST <= axes.LARGEST
    assert axis.high >= shapes.LARGEST
