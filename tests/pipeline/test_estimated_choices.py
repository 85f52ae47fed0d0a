"""What estimates count beside passes of methods: the last choice of a search, and what an evaluator reads once."""

from dataclasses import replace

import numpy as np
import pico
import pytest
from documents import RESULTS
from measuring import counted, make_context

from longrope.data import TokenText
from longrope.evaluation import find_metric
from longrope.evaluation.metric import Subject
from longrope.recipe import SearchRecipe, load_recipe
from longrope.rope import as_table, baseline_factors
from longrope.runs.records import Trial, read_records
from longrope.search.cost import count_choice_passes, count_passes


@pytest.mark.parametrize("method", ["evolution", "gradient"])
def test_the_last_choice_is_counted_as_a_recorded_search_took_it(method: str) -> None:
    """Of SmolLM2 at 65,536 tokens; all passes together within a tenth."""
    run = RESULTS / "evidence-64k" / "compare"
    recipe = load_recipe(run / "recipe.toml")
    own = [t for t in read_records(run / "trials.jsonl", Trial, mend=False) if t.method == f"longrope-{method}"]
    passes = {
        chosen: sum(t.token_passes for t in own if (t.kind in ("tail", "needles")) == chosen) / recipe.target_tokens
        for chosen in (True, False)
    }
    settings = replace(recipe.search, method=method)
    assert count_choice_passes(settings) == pytest.approx(passes[True], rel=0.35)
    both = count_choice_passes(settings) + count_passes(settings, recipe.target_tokens)
    assert both == pytest.approx(sum(passes.values()), rel=0.1)


def test_a_choice_by_loss_and_methods_without_one_take_nothing_more() -> None:
    for settings in (SearchRecipe(choose_by="loss"), SearchRecipe(method="yarn"), SearchRecipe(method="ntk-scan")):
        assert count_choice_passes(settings) == 0


@pytest.mark.parametrize("bos", [None, 7])
def test_what_the_evaluator_reads_is_counted_once(bos: int | None) -> None:
    """The model itself with factors is the evaluator; counted at the embedding, for a first and a second method."""
    model = pico.make_model(num_hidden_layers=1)
    size = 160 - (bos is not None)
    text = TokenText(np.random.default_rng(1).integers(1, 300, 3 * size).astype(np.int32), "measure", bos)
    context = make_context(
        model, None, text.windows(160, 3), text=text, evaluator=model.name, longppl_near=64, evaluator_factors=""
    )
    metric = find_metric("longppl")
    context = replace(context, documents=text.numbered().windows(160, 3))
    readings = metric.readings(context)
    yarn, pi = (Subject(model, as_table(baseline_factors(model.spec, name, 160)), name) for name in ("yarn", "pi"))
    with counted(model) as passes:
        metric.samples(context.of(yarn))
        first = passes.tokens
        metric.samples(context.of(pi))
    tokens = {once: sum(r.tokens * r.passes for r in readings if r.once == once) for once in (True, False)}
    opening = 3 * (bos is not None)
    pieces = next(r.passes for r in readings if r.once and r.tokens < 160)
    assert passes.tokens - first == tokens[False]
    assert first == tokens[False] + tokens[True] + pieces * opening // 3
