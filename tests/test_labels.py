"""Labels of factors and scores, written out by hand."""

import pytest

from longrope.labels import Source, join_methods, label_of


@pytest.mark.parametrize(
    ("source", "label", "known_as"),
    [
        (Source("yarn"), "YaRN", "yarn"),
        (Source("yarn", "longrope-gradient"), "YaRN (chosen by the gradient search)", "longrope-gradient"),
        (Source("pi", "longrope-evolution"), "PI (chosen by the evolutionary search)", "longrope-evolution"),
        (
            Source("none", "longrope-recovered"),
            "the model as it is (chosen by the short-context search)",
            "longrope-recovered",
        ),
        (Source("longrope-gradient", "longrope-gradient"), "LongRoPE, gradient", "longrope-gradient"),
        (Source("longrope-gradient"), "LongRoPE, gradient", "longrope-gradient"),
        (
            Source("longrope-gradient+scan", "longrope-gradient"),
            "LongRoPE, gradient + scan of curves (chosen by the gradient search)",
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
