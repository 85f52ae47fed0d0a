"""The registry: rows name functions that exist, and a new row is found by all that lists methods."""

import numpy as np
import pytest

from longrope import registry
from longrope.errors import RecipeError
from longrope.factors import closed_form
from longrope.recipe import GradientRecipe, MeasureRecipe
from longrope.registry import FORMATS, METHODS, METRICS, Method, resolve
from longrope.reports.palette import figure_style, style_of
from longrope.reports.provenance import describe_rope
from longrope.rope import RopeSpec

SPEC = RopeSpec(head_dim=8, rotary_dim=8, theta=100.0, trained_window=64)
PATHS = [
    *(row.make for row in METHODS.values()),
    *(row.measure for row in METRICS.values()),
    *(row.write for row in FORMATS.values()),
]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Method:
    """One more method: a function of another package, and a row."""
    row = Method(
        "toy",
        label="Toy scaling",
        make="toys:toy_table",
        colours=("#123456", "#654321"),
        dash="9 9",
        formula=True,
        baseline=True,
        start=True,
    )
    monkeypatch.setitem(METHODS, row.name, row)
    return row


@pytest.mark.parametrize("path", sorted(set(PATHS)))
def test_every_row_names_a_function(path: str) -> None:
    assert callable(resolve(path))


@pytest.mark.parametrize("path", ["longrope.factors:nothing", "longrope.nowhere:pi_table", "longrope.factors"])
def test_a_path_that_names_no_function_is_refused(path: str) -> None:
    with pytest.raises(RecipeError, match=path):
        resolve(path)


def test_the_lists_of_names_are_those_of_the_papers_and_ours() -> None:
    """Written out here, in the order in which tables show them."""
    assert registry.baselines() == ("pi", "ntk", "dynamic-ntk", "yarn")
    assert registry.formulas() == ("pi", "ntk", "dynamic-ntk", "yarn", "critical")
    assert registry.starts() == ("pi", "ntk", "yarn", "critical")
    assert registry.searches() == {"gradient": "longrope-gradient", "evolution": "longrope-evolution"}
    assert tuple(FORMATS) == ("hf", "gguf")
    assert registry.metrics()[:6] == ("perplexity", "passkey", "prefix-perplexity", "retention", "needle", "ruler")
    assert len(registry.metrics()) == 6 + 12 + 1


@pytest.mark.usefixtures("toy")
def test_a_new_method_is_known_wherever_methods_are_named() -> None:
    """Settings take it, its factors are made, and figures have its label, colour and dash."""
    assert MeasureRecipe(rivals=("toy", "yarn")).rivals == ("toy", "yarn")
    assert GradientRecipe(start="toy").start == "toy"
    (tier,) = closed_form(SPEC, "toy", 512).tiers
    assert (tier.method, tier.target_window, set(tier.lambdas)) == ("toy", 512, {2.0})
    assert {pair["toy"] for pair in describe_rope(SPEC, 512)["pairs"]} == {2.0}
    assert registry.label_of("toy") == "Toy scaling"
    assert style_of("toy").dash == "9 9"
    assert "--toy:#123456;" in figure_style()


def test_without_its_row_a_method_is_refused() -> None:
    with pytest.raises(RecipeError, match="'toy'"):
        MeasureRecipe(rivals=("toy",))


def test_a_method_without_a_row_keeps_its_name() -> None:
    assert registry.label_of("someone-elses") == "someone-elses"
    assert np.isin(style_of("someone-elses").color, [f"var(--spare-{i})" for i in range(6)])
