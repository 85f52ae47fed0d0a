"""Verdicts from numbers alone, and what is compared at which length."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from longrope.rope import NativeScaling, RopeSpec
from longrope.verification.clients import CLIENTS
from longrope.verification.truth import Truth
from longrope.verification.turnings import accepted, probe_lengths, rarer_faults, usual_faults
from longrope.verification.verdicts import Finding, judge, largest_difference

Array = NDArray[np.float64]
RIGHT = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]))
PLAIN = np.log(np.array([[0.4, 0.4, 0.2], [0.3, 0.2, 0.5]]))
LOST = np.log(np.array([[0.9, 0.05, 0.05], [0.9, 0.05, 0.05]]))


def rows_of(values: Array) -> list[list[tuple[int, float]]]:
    return [[(token, float(value)) for token, value in enumerate(row)] for row in values]


def judged(values: Array, tolerance: float = 0.02, **candidates: Array) -> Finding:
    return judge(
        8,
        rows_of(values),
        accepted={"scaling": RIGHT},
        faults=candidates or {"original": PLAIN},
        more_faults=lambda: {"theta lost": LOST},
        originals=("original",),
        tolerance=tolerance,
    )


def test_the_largest_difference_is_that_of_the_tokens_that_are_given() -> None:
    assert largest_difference([[(0, math.log(0.5)), (2, math.log(0.1))], [(2, math.log(0.7))]], RIGHT) == pytest.approx(
        math.log(2)
    )
    assert largest_difference(rows_of(RIGHT), RIGHT) == 0


@pytest.mark.parametrize("row", [[(3, -1.0)], [(-1, -1.0)], [(0, math.nan)], [(0, -math.inf)]])
def test_what_is_no_log_probability_is_infinitely_far(row: list[tuple[int, float]]) -> None:
    assert largest_difference([[(0, math.log(0.5))], row], RIGHT) == math.inf
    assert largest_difference([row, [(0, math.log(0.1))]], RIGHT) == math.inf


def test_nothing_is_no_agreement() -> None:
    assert largest_difference([[], []], RIGHT) == math.inf


@pytest.mark.parametrize(
    ("values", "verdict", "as_"),
    [
        (RIGHT + 0.001, "applied", "scaling"),
        (PLAIN + 0.001, "original", "original"),
        (LOST - 0.001, "other scaling", "theta lost"),
        (RIGHT + 0.5, "other scaling", ""),
    ],
)
def test_the_nearest_candidate_decides(values: Array, verdict: str, as_: str) -> None:
    finding = judged(values)
    assert (finding.verdict, finding.as_) == (verdict, as_)
    assert finding.difference_nats == pytest.approx(np.abs(values - RIGHT).max())


def test_candidates_that_are_too_much_alike_decide_nothing() -> None:
    """Within the tolerance of both, the client is not said to have applied the one or the other."""
    assert judged(RIGHT + 0.01, original=RIGHT + 0.02).verdict == "unclear"
    assert judged(RIGHT + 0.001, original=RIGHT + 0.02).verdict == "applied"
    assert judged(RIGHT + 0.019, original=RIGHT + 0.02).verdict == "original"


def test_a_wide_tolerance_does_not_hide_a_fault() -> None:
    assert judged(PLAIN, tolerance=3.0).verdict == "original"
    assert judged(LOST, tolerance=3.0).verdict == "other scaling"


# What is compared

SHORT, LONG = (1.0, 1.0, 2.0), (1.0, 3.0, 8.0)
TWO = RopeSpec(6, 6, 10_000.0, 2048, native=NativeScaling("longrope", LONG, 1.1, SHORT, 256))
ONE = RopeSpec(6, 6, 10_000.0, 2048, native=NativeScaling("longrope", LONG, 1.1))
PLAIN_SPEC = RopeSpec(6, 6, 10_000.0, 256)
DERIVED = "the attention factor that follows from the window"


def lambdas(turnings: dict[str, object]) -> dict[str, list[float]]:
    return {
        name: (PLAIN_SPEC.plain_frequencies / turning.frequencies).round(6).tolist()  # type: ignore[attr-defined]
        for name, turning in turnings.items()
    }


@pytest.mark.parametrize(("tokens", "right"), [(128, SHORT), (256, SHORT), (257, LONG), (2048, LONG)])
def test_two_lists_switch_where_the_original_window_ends(tokens: int, right: tuple[float, ...]) -> None:
    truth = Truth(TWO, PLAIN_SPEC, 256, "test")
    by_length = lambdas(dict(accepted(truth, tokens, CLIENTS["transformers"])))
    assert list(by_length.values()) == [list(right)]
    by_window = lambdas(dict(accepted(truth, tokens, CLIENTS["llama.cpp"])))
    assert sorted(by_window.values()) == (sorted([list(SHORT), list(LONG)]) if tokens <= 256 else [list(LONG)])
    assert usual_faults(truth, tokens)["original"].attention_factor == 1
    other = LONG if right == SHORT else SHORT
    assert list(other) in lambdas(dict(usual_faults(truth, tokens))).values()
    [(name, derived)] = [row for row in rarer_faults(truth, tokens).items() if row[0].endswith("and " + DERIVED)]
    assert lambdas({"": derived})[""] == list(other), name
    assert derived.attention_factor == pytest.approx(math.sqrt(1 + math.log(8) / math.log(256)))


def test_one_list_is_right_at_every_length() -> None:
    truth = Truth(ONE, PLAIN_SPEC, 256, "test")
    for tokens in (128, 2048):
        assert lambdas(dict(accepted(truth, tokens, CLIENTS["transformers"]))) == {"scaling": list(LONG)}
    faults = rarer_faults(truth, 128)
    assert lambdas(dict(faults))["its factors in reverse order"] == list(LONG[::-1])
    linear = faults["all positions divided by 8"]
    assert lambdas({"": linear})[""] == [8.0, 8.0, 8.0]
    assert linear.attention_factor == 1
    assert faults[DERIVED].attention_factor == pytest.approx(math.sqrt(1 + math.log(8) / math.log(256)))


@pytest.mark.parametrize(
    ("window", "switch", "lengths"),
    [
        (2048, 256, (128, 256, 512)),
        (300, 256, (128, 256, 299)),
        (258, 256, (128, 256, 260)),
        (512, 256, (128, 256, 511)),
        (256, 256, (64, 128, 255)),
    ],
)
def test_lengths_lie_around_the_original_window(window: int, switch: int, lengths: tuple[int, ...]) -> None:
    spec = RopeSpec(6, 6, 10_000.0, window, native=ONE.native)
    assert probe_lengths(Truth(spec, PLAIN_SPEC, switch, "test"), 4) == lengths
