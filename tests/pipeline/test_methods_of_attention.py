"""Baselines that change attention: measured at each length as they read it, left out where a model is not known."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pico
import pytest
import torch
from outcomes import TARGET

from longrope.data import load_texts
from longrope.engine.near_exact import dca
from longrope.engine.passes import token_losses
from longrope.errors import FactorsError, ModelError, RecipeError
from longrope.evaluation import name_subject
from longrope.evaluation.lm_eval import Benchmark
from longrope.models import load_model
from longrope.pipeline import measure_only
from longrope.pipeline.baselines import make_baseline, make_baselines
from longrope.recipe import MeasureRecipe, Recipe, SearchRecipe, Stage
from longrope.registry import baselines
from longrope.rope import RopeSpec, baseline_factors

NEAR_EXACT = ("dca", "self-extend", "jet-long")


def test_a_method_of_attention_is_measured_as_it_reads_each_length(recipe: Recipe) -> None:
    settings = MeasureRecipe(lengths=(64, TARGET), metrics=("perplexity",), windows=1, tail_tokens=0)
    scores = measure_only(replace(recipe, measure=settings), None, baseline="dca")
    model = load_model(recipe.model, device="cpu")
    window = load_texts(recipe.data, model.tokenizer, measure=recipe.measure_data).measure.windows(TARGET, 1)
    with dca(model, TARGET):
        losses = token_losses(model, window)
    assert [(score.method, score.context_tokens) for score in scores] == [("dca", 64), ("dca", TARGET)]
    assert scores[-1].value == pytest.approx(losses.double().mean().exp().item(), rel=1e-6)


def test_comparisons_leave_out_what_does_not_know_a_model_and_say_so() -> None:
    """Where a recipe names a method, it is refused."""
    model, lines = pico.make_model("mistral", sliding_window=8), list[str]()
    session: Any = SimpleNamespace(model=model, recipe=SimpleNamespace(target_tokens=TARGET), report=lines.append)
    made = make_baselines(session, ("yarn", *NEAR_EXACT), (64, TARGET), leave_out=True)
    assert [subject.method for subject in made] == ["yarn"]
    assert [line.partition(" is not measured: ")[0] for line in lines] == ["DCA", "Self-Extend", "Jet-Long"]
    assert all("no layer with RoPE that sees the whole window" in line for line in lines)
    with pytest.raises(ModelError, match="'mistral'"):
        make_baselines(session, ("dca",), (64, TARGET))


@pytest.mark.parametrize("name", NEAR_EXACT)
def test_methods_of_attention_are_no_factors_and_the_errors_say_why(name: str) -> None:
    """They are measured beside other baselines; a search, a stage and a table of factors have none of them."""
    assert name in baselines()
    assert MeasureRecipe(baselines=(name,)).baselines == (name,)
    reason = "Measured, not exportable: .*no format of checkpoints"
    with pytest.raises(RecipeError, match=reason):
        SearchRecipe(method=name)
    with pytest.raises(RecipeError, match=reason):
        Stage(search=256, method=name)
    with pytest.raises(FactorsError, match=reason):
        baseline_factors(RopeSpec(8, 8, 1e4, 64), name, 256)


def test_benchmarks_are_not_measured_by_methods_of_attention() -> None:
    """The harness calls the network itself."""
    model = pico.make_model()
    subject = make_baseline(model, "jet-long", (64,), TARGET)
    context: Any = SimpleNamespace(subject=subject)
    assert Benchmark("harness:nothing").names(context) == ()
    assert name_subject(model, None).attention is None
    with subject.reading(TARGET), pytest.raises(ModelError, match="called itself"):
        model.network(torch.zeros(1, 4, dtype=torch.long))
