"""The registry: rows name functions that exist, and a new row is found by all that lists methods."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pico
import pytest
import toys

from longrope import registry
from longrope.data import TokenText
from longrope.errors import RecipeError
from longrope.evaluation import measure
from longrope.exports.card import Origin, result_table
from longrope.labels import label_of
from longrope.metrics import BENCHMARK, METRICS, REWORDED, asked_metrics
from longrope.recipe import GradientRecipe, MeasureRecipe
from longrope.registry import FORMATS, METHODS, resolve
from longrope.report import score_tables
from longrope.report.contents import read_run
from longrope.report.palette import figure_style, style_of
from longrope.report.scores import other_section
from longrope.rope import RopeSpec, baseline_factors
from longrope.runs.provenance import describe_rope
from longrope.runs.records import Score, read_records
from longrope.runs.run_dir import RunDir

SPEC = RopeSpec(head_dim=8, rotary_dim=8, theta=100.0, trained_window=64)
PATHS = [
    *(row.make for row in METHODS.values()),
    *(row.measure for row in METRICS.values() if row.measure),
    *(row.write for row in FORMATS.values()),
]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more method and one more metric: a function of another package each, and a row."""
    monkeypatch.setitem(METHODS, "toy", toys.METHOD)
    monkeypatch.setitem(METRICS, "distinct", toys.METRIC)


@pytest.mark.parametrize("path", sorted(set(PATHS)))
def test_every_row_names_a_function(path: str) -> None:
    assert callable(resolve(path))


@pytest.mark.parametrize("path", ["longrope.rope.factors:nothing", "longrope.nowhere:pi_table", "longrope.rope"])
def test_a_path_that_names_no_function_is_refused(path: str) -> None:
    with pytest.raises(RecipeError, match=path):
        resolve(path)


def test_the_lists_of_names_are_those_of_the_papers_and_ours() -> None:
    """Written out here, in the order in which tables show them."""
    formulas = ("pi", "ntk", "ntk-critical", "dynamic-ntk", "yarn", "critical", "critical-real")
    assert registry.formulas() == formulas
    assert registry.baselines() == (*formulas, "ntk-scan", "longrope2", "dca", "self-extend", "jet-long")
    assert registry.starts() == ("pi", "ntk", "yarn", "critical")
    assert registry.searches() == {
        "gradient": "longrope-gradient",
        "evolution": "longrope-evolution",
        "cma": "longrope-cma",
    }
    assert tuple(FORMATS) == ("hf", "gguf")
    assert asked_metrics()[:7] == (
        "perplexity",
        "passkey",
        "prefix-perplexity",
        "retention",
        "needle",
        "chat-needle",
        "prose-needle",
    )
    assert asked_metrics()[7:9] == ("ruler", "ruler-niah_single_1")
    assert asked_metrics()[20:23] == ("ruler-subset", "accuracy", "effective-length")
    assert asked_metrics()[23:27] == ("far-context", "longppl", "far-shuffled", "far-replaced")
    assert asked_metrics()[27:30] == ("position-perplexity", "many-passkeys", "many-shot")
    assert asked_metrics()[36:] == ("manual-questions", "dialogue-memory", REWORDED, "planted-summary", BENCHMARK)


ATTENTION: dict[str, Callable[[float, float], float]] = {  # what the rows say, as arithmetic of s and L
    "1": lambda s, window: 1.0,
    "0.1 ln s + 1": lambda s, window: 0.1 * math.log(s) + 1,
    "sqrt(1 + ln s / ln L)": lambda s, window: math.sqrt(1 + math.log(s) / math.log(window)),
}


@pytest.mark.parametrize("name", registry.formulas())
def test_every_formula_has_the_attention_factor_that_its_row_states(name: str) -> None:
    for target in (128, 512, 2**20):
        stated = ATTENTION[METHODS[name].attention](target / 64, 64)
        assert baseline_factors(SPEC, name, target).factor_sets[-1].attention_factor == pytest.approx(stated, rel=1e-12)


def test_every_baseline_states_its_attention_factor() -> None:
    stated = {METHODS[name].attention for name in registry.baselines()}
    assert stated == {*ATTENTION, "scanned", "0.05 ln s + 1"}  # the last is that of DCA, which has no factors
    assert label_of("ntk-critical") == "NTK by critical dimension"
    assert label_of("ntk-scan") == "NTK, scanned base and attention factor"


@pytest.mark.usefixtures("toy")
def test_a_new_method_is_known_wherever_methods_are_named() -> None:
    """Settings take it, its factors are made, and figures have its label, colour and dash."""
    assert MeasureRecipe(baselines=("toy", "yarn")).baselines == ("toy", "yarn")
    assert GradientRecipe(start="toy").start == "toy"
    (factor_set,) = baseline_factors(SPEC, "toy", 512).factor_sets
    assert (factor_set.method, factor_set.target_window, set(factor_set.lambdas)) == ("toy", 512, {2.0})
    assert {pair["toy"] for pair in describe_rope(SPEC, 512)["pairs"]} == {2.0}
    assert label_of("toy") == "Toy scaling"
    assert style_of("toy").dash == "9 9"
    assert "--toy:#123456;" in figure_style()


@pytest.mark.usefixtures("toy")
def test_a_new_metric_is_measured_kept_and_shown(tmp_path: Path) -> None:
    """In the printed table, the report and the model card, written as its row says."""
    model, run = pico.make_model(), RunDir(tmp_path)
    tokens = np.arange(640, dtype=np.int32) % 24
    settings = MeasureRecipe(lengths=(64,), metrics=("distinct",), windows=2)
    (score,) = measure(model, None, TokenText(tokens, "measure"), settings=settings, run=run)
    assert (score.metric, score.value) == ("distinct", 24 / 64)
    assert read_records(run.scores, Score) == [score]
    (table,) = score_tables([score])
    assert table.rows == (("original model", "38% (38%-38%)"),)
    (shown,) = other_section([read_run(run)]).tables
    assert shown.rows == (("original model", "38% (38%-38%)"),)
    ((label, value, *_),) = result_table([score], [score], Origin(score.model)).rows
    assert (label, value) == ("Distinct tokens, 64 tokens", "38% (38%-38%)")


def test_without_their_rows_a_method_and_a_metric_are_refused() -> None:
    with pytest.raises(RecipeError, match="'toy'"):
        MeasureRecipe(baselines=("toy",))
    with pytest.raises(RecipeError, match="'distinct'"):
        MeasureRecipe(metrics=("distinct",))


def test_a_method_without_a_row_keeps_its_name() -> None:
    assert label_of("someone-elses") == "someone-elses"
    assert np.isin(style_of("someone-elses").color, [f"var(--spare-{i})" for i in range(6)])


def test_every_formula_of_one_set_can_stand_in_the_place_of_a_search() -> None:
    """Dynamic NTK alone has factors that depend on the length."""
    assert registry.one_set_formulas() == ("pi", "ntk", "ntk-critical", "yarn", "critical", "critical-real")
    assert "dynamic-ntk" not in registry.factor_methods()
