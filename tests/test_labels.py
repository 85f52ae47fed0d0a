"""What methods, factors and metrics are called and how values are written, against texts written by hand."""

import math

import pytest

from longrope.labels import (
    Source,
    compared_with,
    is_part,
    join_methods,
    label_of,
    metric_label,
    metric_row,
    split_depth,
    write_interval,
)
from longrope.metrics import METRICS
from longrope.registry import METHODS


@pytest.mark.parametrize(
    ("metric", "label", "section", "text"),
    [
        ("perplexity", "Perplexity", "perplexity", "0.125 (-0.05-0.3)"),
        ("perplexity-last-1024", "Perplexity over the last 1,024 tokens", "perplexity", "0.125 (-0.05-0.3)"),
        ("passkey", "Passkeys found", "retrieval", "12% (-5%-30%)"),
        ("passkey-depth-0.05", "Passkeys found, depth 0.05", "retrieval", "12% (-5%-30%)"),
        ("ruler", "RULER", "ruler", "12% (-5%-30%)"),
        ("ruler-vt", "RULER, vt", "ruler", "12% (-5%-30%)"),
        ("harness:task:perplexity", "task:perplexity", "benchmarks", "12.5% (-5.0%-30.0%)"),
        ("ratio-to-none", "Perplexity relative to the original model", "retention", "0.125 (-0.05-0.3)"),
        ("ratio-to-yarn", "Perplexity relative to YaRN", "paired", "0.125 (-0.05-0.3)"),
        ("difference-to-toy", "Passkeys found, difference from toy", "paired", "+12% (-5% to +30%)"),
        ("ruler-of-another-kind", "ruler-of-another-kind", "ruler", "12% (-5%-30%)"),
        ("prefix-perplexity", "Perplexity of the first tokens of longer windows", "perplexity", "0.125 (-0.05-0.3)"),
        ("harness:a+b:1", "a+b:1", "benchmarks", "12.5% (-5.0%-30.0%)"),
        ("passkey-of-another-kind", "passkey-of-another-kind", "retrieval", "12% (-5%-30%)"),
        ("passkeys", "passkeys", "other", "0.125 (-0.05-0.3)"),  # no word of it is a metric's name
        ("recall-of-colours", "recall-of-colours", "other", "0.125 (-0.05-0.3)"),
        ("recall-of-colours-depth-0.5", "recall-of-colours, depth 0.5", "other", "0.125 (-0.05-0.3)"),
    ],
)
def test_every_metric_has_a_label_a_section_and_a_format(metric: str, label: str, section: str, text: str) -> None:
    assert metric_label(metric) == label
    assert metric_row(metric).section == section
    assert write_interval(metric, 0.125, -0.05, 0.3) == text


def test_a_value_without_an_interval_stands_alone() -> None:
    assert write_interval("harness:task:acc", 0.314, -math.inf, math.inf) == "31.4%"
    assert write_interval("perplexity", math.inf, 1e300, math.inf) == "inf (1e+300-inf)"
    assert write_interval("perplexity", 123456.7, 1e4, 1e6) == "123,457 (10,000-1e+06)"


def test_parts_and_comparisons_are_known_by_their_names() -> None:
    metrics = ("perplexity", "perplexity-last-16", "needle-depth-0.95", "ratio-to-none", "difference-to-yarn")
    assert [is_part(metric) for metric in metrics] == [False, True, True, False, False]
    assert not any(is_part(metric) or split_depth(metric)[1] for metric in ("toy-depth-of-field", "toy-last-word"))
    assert [compared_with(metric) for metric in metrics] == ["", "", "", "none", "yarn"]
    assert [split_depth(metric)[1] for metric in metrics] == ["", "", "0.95", "", ""]


def test_no_two_methods_look_alike_without_colour() -> None:
    """Those that share a solid line with circles, as the searches and the tuned model do, differ in colour."""
    looks = [(row.dash, row.marker, row.colours) for row in METHODS.values()]
    assert len({look for look in looks if look[0]}) == len({look[:2] for look in looks if look[0]})
    assert len({METHODS[name].colours for name in ("longrope-gradient", "longrope-tuned")}) == 2
    assert len({row.label for row in METHODS.values()}) == len(METHODS)


def test_an_unknown_method_keeps_its_name() -> None:
    """As an unknown metric does, braces included."""
    assert label_of("toy") == "toy"
    assert metric_label("a {toy} metric") == "a {toy} metric"


def test_every_format_is_one_that_is_written() -> None:
    assert {row.format for row in METRICS.values()} == {"number", "share", "benchmark", "difference", "tokens"}


@pytest.mark.parametrize(
    ("source", "label", "known_as"),
    [
        (Source("yarn"), "YaRN", "yarn"),
        (Source("yarn", "longrope-gradient"), "YaRN (chosen by the gradient search)", "longrope-gradient"),
        (Source("pi", "longrope-evolution"), "PI (chosen by the evolutionary search)", "longrope-evolution"),
        (
            Source("none", "longrope-recovered"),
            "original model (chosen by the short-context search)",
            "longrope-recovered",
        ),
        (Source("longrope-gradient", "longrope-gradient"), "LongRoPE, gradient", "longrope-gradient"),
        (Source("longrope-gradient"), "LongRoPE, gradient", "longrope-gradient"),
        (
            Source("longrope-gradient+scan", "longrope-gradient"),
            "LongRoPE, gradient + critical-pair family, scanned (chosen by the gradient search)",
            "longrope-gradient",
        ),
        (
            Source("longrope-tuned", "longrope-gradient", "yarn"),
            "LongRoPE, tuned (factors: YaRN, chosen by the gradient search)",
            "longrope-tuned",
        ),
        (
            Source("longrope-tuned", "longrope-gradient", "longrope-gradient"),
            "LongRoPE, tuned (factors: LongRoPE, gradient)",
            "longrope-tuned",
        ),
        (Source("longrope-tuned"), "LongRoPE, tuned", "longrope-tuned"),
        (Source("my own", "some search", "another"), "my own (factors: another, chosen by some search)", "my own"),
    ],
)
def test_a_label_says_where_factors_come_from_and_who_chose_them(source: Source, label: str, known_as: str) -> None:
    """A search that found the factors itself is named once."""
    assert (source.label, source.known_as) == (label, known_as)
    assert label_of(label) == label, "a label is its own label"


@pytest.mark.parametrize(
    ("first", "second", "joint"),
    [
        ("yarn", "yarn", "yarn"),
        ("longrope-gradient", "scan", "longrope-gradient+scan"),
        ("longrope-gradient", "longrope-gradient+scan", "longrope-gradient+scan"),
        ("none", "pi", "pi"),
        ("pi", "none", "pi"),
        ("none", "none", "none"),
    ],
)
def test_composed_factors_name_each_method_once(first: str, second: str, joint: str) -> None:
    assert join_methods(first, second) == joint


@pytest.mark.parametrize(
    ("metric", "ends", "written"),
    [
        ("ratio-to-yarn", (0.99991, 0.99986, 0.99997), "0.9999 (0.9999-0.99997)"),
        ("ratio-to-yarn", (1.5, 1.0, 2.0), "1.5 (1-2)"),
        ("difference-to-yarn", (0.02, 0.002, 0.04), "+2% (+0.2% to +4%)"),
        ("difference-to-yarn", (-0.02, -0.04, -0.004), "-2% (-4% to -0.4%)"),
        ("difference-to-yarn", (0.1, 0.0, 0.2), "+10% (+0% to +20%)"),
        ("perplexity", (1.00001, 1.00001, 1.00002), "1 (1-1)"),
    ],
)
def test_an_interval_that_says_that_two_differ_does_not_read_as_if_they_were_alike(
    metric: str, ends: tuple[float, float, float], written: str
) -> None:
    assert write_interval(metric, *ends) == written
